"""A trained encoder with its data: what probing, decoding, plotting and exporting start from."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from infomax_cli.core import build
from infomax_cli.core.api import BlockSpec, Dataset, DataSpec, Encoder, Item, MapSpec, Split, derive_seed
from infomax_cli.core.blocks import describe_blocks, module_of, partition
from infomax_cli.core.checkpoint import encoder_metadata, encoder_step, load_checkpoint, load_encoder_weights, restore
from infomax_cli.core.inputs import InputSpec
from infomax_cli.errors import UsageError
from infomax_cli.overrides import apply_overrides, source_of
from infomax_cli.paths import data_root
from infomax_cli.recipe import Recipe, parse
from infomax_cli.runs import Run


@dataclass(frozen=True)
class Subject:
    """An encoder on its device, and the data that its recipe names, which lies under `root`. `step` is the step of the
    checkpoint that it comes from, where one was asked for; `trained` the steps that it was trained for, where known.
    `borrowed` names the dataset where it is another than the run's."""

    recipe: Recipe
    root: Path
    dataset: Dataset
    data: DataSpec
    encoder: Encoder
    device: torch.device
    step: int | None = None
    trained: int | None = None
    borrowed: str | None = None

    def maps(self) -> tuple[MapSpec, ...]:
        """The map of every depth, found by a dry pass. Raises `InfomaxError` where the encoder cannot take the items
        of this data."""
        return self._uncut().maps[1:]

    def gaussians(self) -> tuple[int, ...]:
        """The depths whose stage returns a Gaussian, found by a dry pass."""
        return tuple(place - 1 for place in self._uncut().posteriors)

    def _uncut(self) -> BlockSpec:
        (block,) = describe_blocks(self.encoder, partition(len(self.encoder.stages), "none"), self.data, 1)
        return block

    def split(self, name: str) -> Split:
        """A split whose items evaluation takes: whole, or in time as crops where a seed draws them. Images are never
        cropped by a seed: they come in the size that the encoder sees."""
        split = self.dataset.split(self.root, name)
        return _Unseeded(split) if len(self.data.grid) == 2 else split


class _Unseeded:
    """A split that draws nothing."""

    def __init__(self, split: Split) -> None:
        self._split = split

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, key: tuple[int, int | None]) -> Item:
        return self._split[key[0], None]

    def item_labels(self, name: str) -> Sequence[int]:
        return self._split.item_labels(name)


def load_subject(
    run: Run,
    device: torch.device,
    root: Path | None = None,
    step: int | None = None,
    changes: Sequence[str] = (),
    data: str | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Subject:
    """Needs nothing but the run's folder and the data, which may lie under another `root` than the run found it.

    The encoder is the newest, or that of an older checkpoint, by its `step`, where `train.keep` kept it. `changes` are
    overrides of the recipe's data section: where a folder lies now, which of its columns are labels. `data` is another
    dataset in place of the run's; `tell` hears which of its options are kept. Raises `InfomaxError` where the encoder
    cannot take its items.
    """
    recipe = changed_data(run, changes, data, tell) if changes or data else run.recipe()
    where = root or Path(recipe.root or data_root())
    dataset = build.build_dataset(recipe)
    spec = dataset.describe(where)
    if data is not None and (inputs := _inputs_of(run)) is not None:
        inputs.check_fits(InputSpec.of(spec), data, recipe.data.options)
    encoder = build.build_encoder(recipe, device)
    if step is not None:
        restore(module_of(encoder), _checkpoint_of(run, step)["encoder"], run.numbered(step))
        trained: int | None = step
    elif run.encoder_file.exists():
        restore(module_of(encoder), load_encoder_weights(run.encoder_file), run.encoder_file)
        trained = encoder_step(run.encoder_file)
    else:
        state = load_checkpoint(run.last)
        restore(module_of(encoder), state["encoder"], run.last)
        trained = int(state["step"])
    subject = Subject(recipe, where, dataset, spec, encoder, device, step, trained, borrowed=data)
    if data is not None:
        subject.maps()
    return subject


def _inputs_of(run: Run) -> InputSpec | None:
    """What the encoder of a run takes, where its file tells."""
    metadata = encoder_metadata(run.encoder_file) if run.encoder_file.exists() else {}
    return InputSpec.from_dict(json.loads(metadata["inputs"])) if "inputs" in metadata else None


def changed_data(
    run: Run, changes: Sequence[str], data: str | None = None, tell: Callable[[str], None] = lambda text: None
) -> Recipe:
    """The run's recipe with its data section changed, as `with_data` changes it."""
    return with_data(run.recipe(), changes, data, tell)


def with_data(
    recipe: Recipe, changes: Sequence[str], data: str | None = None, tell: Callable[[str], None] = lambda text: None
) -> Recipe:
    """The recipe that an encoder comes with, its data section changed, or, by the name of a dataset, replaced: as
    `infomax train --data` does, `tell` hears which options are kept. Raises `UsageError` where a change is about
    anything else."""
    for change in changes:
        if not change.strip().startswith("data.") or change.partition("=")[0].strip() == "data.name":
            raise UsageError(
                f"{change}: the encoder is that of {Path(recipe.source).parent}; only options of its data may change",
                "for example data.path=/where/they/lie/now; another dataset takes `infomax probe --data NAME`",
            )
    raw = recipe.to_dict()
    if data is not None:
        raw, kept = build.replace_data(raw, data)
        given = {change.strip().partition("=")[0].removeprefix("data.") for change in changes}
        keeping = ", ".join(f"{key}={raw['data'][key]}" for key in kept if key not in given) or "nothing"
        tell(f"data: {data}, keeping of the run's: {keeping}")
    return build.resolve(parse(apply_overrides(raw, changes), source_of(recipe.source, changes)))


def _checkpoint_of(run: Run, step: int) -> dict[str, Any]:
    kept = [int(path.stem.partition("-")[2]) for path in sorted(run.checkpoints.glob("step-*.pt"))]
    if step not in kept:
        steps = ", ".join(map(str, kept)) or "none; train.keep=N keeps the newest N"
        raise UsageError(f"{run.path} has no checkpoint of step {step}", f"kept: {steps}")
    return load_checkpoint(run.numbered(step))


def untrained(subject: Subject, seed: int) -> Encoder:
    """The same encoder with fresh weights that `seed` draws; never those that the run started from."""
    recipe = subject.recipe
    train = dataclasses.replace(recipe.train, seed=derive_seed("untrained", seed, recipe.train.seed))
    return build.build_encoder(dataclasses.replace(recipe, train=train), subject.device)
