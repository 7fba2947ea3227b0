"""Experiments that train in a second, and what there is to compare of two runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from infomax_cli import registry
from infomax_cli.core.api import Batch, BlockSpec, DataError, DataSpec, Features, Item, LabelSpec, LossOutput
from infomax_cli.core.build import Experiment, build, resolve
from infomax_cli.core.checkpoint import load_checkpoint
from infomax_cli.core.trainer import Trainer
from infomax_cli.overrides import apply_overrides
from infomax_cli.recipe import parse
from infomax_cli.runs import Run, new_run

CPU = torch.device("cpu")

# 27 items, 9 a speaker: 6 batches an epoch; 9 items held out
RECIPE = """\
data:    {name: syllables, crop: 3200, speakers: 3, words: 9}
encoder: {name: speech_conv, channels: 6, context_channels: 5}
cut:     each
loss:    {name: infonce, steps: 3, negatives: 4}
train:   {steps: 8, batch: 4, lr: 1.0e-2, log_every: 2, save_every: 3, validate_every: 5, workers: 0}
"""


class Silent:
    """A display that only keeps what it is told."""

    def __init__(self) -> None:
        self.prepared: list[int] = []
        self.notes: list[str] = []
        self.steps: list[int] = []
        self.told: list[tuple[int, Mapping[str, float]]] = []

    def preparing(self, what: str, done: int, total: int) -> None:
        self.prepared.append(done)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def progress(self, step: int) -> None:
        self.steps.append(step)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.told.append((step, values))


def write_recipe(folder: Path, *changes: str, name: str = "tiny") -> Path:
    """`RECIPE` as a file, with lines replaced by those of `changes` that have the same section."""
    lines = {line.partition(":")[0]: line for line in [*RECIPE.splitlines(), *changes]}
    path = folder / f"{name}.yaml"
    path.write_text("\n".join(lines.values()) + "\n")
    return path


def experiment(*overrides: str) -> Experiment:
    import yaml

    raw = apply_overrides(yaml.safe_load(RECIPE), overrides)
    return build(resolve(parse({"name": "tiny", **raw}, "tiny.yaml")), CPU)


def trainer(*overrides: str) -> Trainer:
    return Trainer(experiment(*overrides), CPU)


def train(folder: Path, *overrides: str, source: Run | None = None) -> tuple[Trainer, Run]:
    """A whole run under `folder`."""
    made = trainer(*overrides)
    if source is not None:
        made.start_from(source)
    run = new_run(folder, "tiny")
    run.recipe_file.write_text(made.experiment.recipe.to_yaml())
    made.train(run, Silent())
    return made, run


def encoder_weights(made: Trainer) -> dict[str, Tensor]:
    assert isinstance(made.experiment.encoder, nn.Module)
    return {name: value.clone() for name, value in made.experiment.encoder.state_dict().items()}


# --- comparing -------------------------------------------------------------------------------------------------------


def same(one: Any, other: Any) -> bool:
    """Bit for bit, whatever the nesting."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def scalars(run: Run) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.path), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def assert_same_run(one: Run, other: Run) -> None:
    """Weights, optimizers, meters, metrics and TensorBoard's scalars are equal, bit for bit."""
    first, second = load_checkpoint(one.last), load_checkpoint(other.last)
    for state in (first, second):  # names of event files hold times and process ids
        del state["log"]
        state["recipe"]["train"].pop("workers")
    assert first.keys() == second.keys()
    for key in first:
        assert same(first[key], second[key]), f"{key} differs"
    assert one.encoder_file.stat().st_size > 0
    assert one.metrics.read_bytes() == other.metrics.read_bytes()
    assert scalars(one) == scalars(other)


def lines(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


# --- plugins ---------------------------------------------------------------------------------------------------------


def plant(monkeypatch: pytest.MonkeyPatch | None = None, **plugins: type[Any]) -> None:
    """Make `plugins` known by their names; without a monkeypatch, for good."""
    load = registry.load

    def wider(kind: registry.Kind, name: str) -> type[Any]:
        return plugins[name] if name in plugins else load(kind, name)

    if monkeypatch is None:
        registry.load = wider
    else:
        monkeypatch.setattr(registry, "load", wider)


class Fragile(nn.Module):
    """The mean square of the last map, until in block `block` at call `call` it is multiplied by `factor`."""

    def __init__(self, spec: BlockSpec, *, block: int = 1, call: int = 3, factor: float = float("nan")) -> None:
        super().__init__()
        self.place, self.block, self.call, self.factor = spec.index, block, call, factor
        self.scale = nn.Parameter(torch.ones(()))
        self.calls = 0

    def forward(self, views: Sequence[Features], batch: Batch) -> LossOutput:
        self.calls += self.training
        hit = self.training and self.place == self.block and self.calls == self.call
        value = (views[0].output.float().square().mean() - 1).square() * self.scale
        return LossOutput({"fragile": value * self.factor if hit else value})


class Tones:
    """A dataset of noise that can go wrong: `fails` says how, at item 5 of the train split."""

    def __init__(self, *, items: int = 12, validation: int = 0, fails: str = "never") -> None:
        self.items, self.validation, self.fails = items, validation, fails

    def download(self, root: Path) -> None: ...

    def describe(self, root: Path) -> DataSpec:
        labels = {"speaker": LabelSpec(3), "unsaid": LabelSpec(2, hop=160, offset=80.0)}
        sizes = {"train": self.items, **({"validation": self.validation} if self.validation else {})}
        return DataSpec(1, (3200,), ("time",), 16000, labels, sizes)

    def split(self, root: Path, name: str) -> TonesSplit:
        return TonesSplit(self.items if name == "train" else self.validation, self.fails if name == "train" else "")


class TonesSplit:
    def __init__(self, items: int, fails: str) -> None:
        self.items, self.fails = items, fails

    def __len__(self) -> int:
        return self.items

    def item_labels(self, name: str) -> list[int]:
        return [index % 3 for index in range(self.items)]

    def __getitem__(self, key: tuple[int, int | None]) -> Item:
        import os

        index, seed = key
        length = 3200
        if index == 5:
            if self.fails == "corrupt":
                raise DataError("cannot decode five.flac: it is truncated", "copy it again")
            if self.fails == "bug":
                raise ZeroDivisionError("division by zero")
            if self.fails == "dies":
                os._exit(7)
            if self.fails == "ragged":
                length = 3000
        random = torch.Generator().manual_seed(index if seed is None else seed)
        wave = torch.randn(1, length, generator=random) * 0.1
        return Item(wave, {"speaker": index % 3, "unsaid": torch.zeros(19, dtype=torch.int64)}, f"tone-{index}")
