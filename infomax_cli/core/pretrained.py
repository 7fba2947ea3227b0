"""A trained encoder for other people's code: an ordinary module, which needs nothing but its file.

from infomax_cli import load
encoder = load("runs/gim-syllables-20261122-044505")
features = encoder(samples, sample_rate=44100)          # (B, C, T')
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from infomax_cli.core import build
from infomax_cli.core.api import Axis, Encoder, InfomaxError
from infomax_cli.core.blocks import encode, module_of
from infomax_cli.core.checkpoint import encoder_metadata, load_encoder_weights, restore, save_encoder
from infomax_cli.core.device import choose_device
from infomax_cli.core.inputs import InputSpec
from infomax_cli.errors import CheckpointError, UsageError
from infomax_cli.paths import data_root, runs_root
from infomax_cli.recipe import Recipe, SamplingOptions, parse
from infomax_cli.runs import Run, find_run

FILE = "encoder.safetensors"


@dataclass(frozen=True)
class Depth:
    """What one depth makes: maps ``(B, channels, *grid)``, whose frames lie in the input as `axes` say."""

    index: int
    channels: int
    axes: tuple[Axis, ...]

    @property
    def axis(self) -> Axis:
        """The time axis, or the first of an image's."""
        return next((axis for axis in self.axes if axis.name == "time"), self.axes[0])

    @property
    def hop(self) -> int:
        """Samples (pixels) of the input from one frame to the next."""
        return self.axis.hop

    @property
    def centre(self) -> float:
        """The sample (pixel) of the input at which frame 0 is centred; frame t is at ``centre + hop * t``."""
        return self.axis.centre

    @property
    def receptive_field(self) -> int:
        """How many samples (pixels) of the input a frame sees; a context sees the past as well."""
        return self.axis.field


class PretrainedEncoder(nn.Module):
    """A trained encoder. It comes in evaluation mode; it may be trained further as any module.

    ``encoder(x, sample_rate)`` is the map of `depth`, ``(B, C, *grid)``; ``encoder.layers(x, sample_rate)`` those of
    every depth. Sound may be an array or a tensor of shape ``(T,)``, ``(B, T)`` or ``(B, 1, T)``, in [-1, 1] or in
    integers; it is resampled where `sample_rate` is another than the encoder's. Images are ``(C, H, W)`` or
    ``(B, C, H, W)``, in [0, 1] or in bytes. Of a Gaussian the mean is taken in evaluation mode, and a draw in training.

    `encoder` is the plugin's own module, whose state dict is what ``encoder.safetensors`` holds; `recipe` is how it was
    trained; `inputs` what it takes; `depths` what each depth makes; `steps` how long it was trained, where known.
    """

    def __init__(
        self,
        encoder: Encoder,
        recipe: Recipe,
        inputs: InputSpec,
        *,
        depth: int | None = None,
        steps: int | None = None,
    ) -> None:
        super().__init__()
        self.encoder: Any = encoder  # a module that keeps the protocol; no annotation can say both
        self.recipe, self.inputs, self.steps = recipe, inputs, steps
        self.depths = _describe(encoder, inputs)
        self.depth = self._checked(-1 if depth is None else depth)
        self.eval()

    def forward(self, x: Tensor | npt.ArrayLike, sample_rate: int | None = None, *, depth: int | None = None) -> Tensor:
        """The map of one depth, ``(B, C, *grid)``; `depth` counts from 0, or from the last as -1."""
        wanted = self.depth if depth is None else self._checked(depth)
        return self._encode(x, sample_rate, wanted)[-1]

    def layers(self, x: Tensor | npt.ArrayLike, sample_rate: int | None = None) -> list[Tensor]:
        """The map of every depth, the first first."""
        return list(self._encode(x, sample_rate, len(self.depths) - 1))

    def _encode(self, x: Tensor | npt.ArrayLike, sample_rate: int | None, depth: int) -> tuple[Tensor, ...]:
        batch = self.inputs.batch(x, sample_rate, self.like())
        sampling = SamplingOptions(eval="sample" if self.training else "mean")
        return encode(self.encoder, batch, sampling, depth)

    def like(self) -> Tensor:
        """A tensor of the encoder's own type, on its device."""
        tensors = (*self.encoder.parameters(), *self.encoder.buffers())
        return next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))

    def _checked(self, depth: int) -> int:
        count = len(self.depths)
        if not -count <= depth < count:
            raise UsageError(f"depth {depth}: the encoder has depths 0 to {count - 1}", "or -1, the last")
        return depth % count

    # --- what `forward` returns ---------------------------------------------------------------------------------------

    @property
    def sample_rate(self) -> int | None:
        """Samples a second of the sound that it takes; None for images."""
        return self.inputs.rate

    @property
    def channels(self) -> int:
        return self.depths[self.depth].channels

    @property
    def hop(self) -> int:
        """Samples (pixels) of the input, at the encoder's own rate, from one frame to the next."""
        return self.depths[self.depth].hop

    @property
    def centre(self) -> float:
        """Where frame 0 is centred: frame t lies at sample ``centre + hop * t`` of the encoder's own rate."""
        return self.depths[self.depth].centre

    @property
    def receptive_field(self) -> int:
        return self.depths[self.depth].receptive_field

    def extra_repr(self) -> str:
        rate = "" if self.sample_rate is None else f", sample_rate={self.sample_rate}"
        return f"{self.recipe.name}, depth={self.depth}, channels={self.channels}, hop={self.hop}{rate}"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights, recipe and `depth` as one file that `load` takes, whole or not at all.

        What the recipe says of this machine's folders is left out.
        """
        recipe = self.recipe.to_dict()
        recipe["data"].pop("root", None)
        save_encoder(
            Path(path), self.encoder, recipe, self.steps, inputs=self.inputs.to_dict(), extra={"depth": str(self.depth)}
        )


@torch.no_grad()
def _describe(encoder: Encoder, inputs: InputSpec) -> tuple[Depth, ...]:
    """One dry pass in evaluation mode."""
    module = module_of(encoder).eval()
    device = next((tensor.device for tensor in (*module.parameters(), *module.buffers())), torch.device("cpu"))
    maps = encode(encoder, torch.zeros(1, inputs.channels, *inputs.grid, device=device), SamplingOptions())
    return tuple(Depth(index, values.shape[1], encoder.geometry(index)) for index, values in enumerate(maps))


def load(
    source: str | os.PathLike[str] | None = None,
    *,
    depth: int | None = None,
    device: str = "cpu",
    runs: str | os.PathLike[str] | None = None,
) -> PretrainedEncoder:
    """The encoder of a run: its folder, its name, its recipe's name for the newest of that, or nothing for the newest
    of all. Or of a file ``encoder.safetensors`` (or of a folder with one), as a run holds it and as `infomax export`
    writes it. No data is needed.

    `depth` is the one that ``encoder(x)`` returns, by default the last; `device` is ``auto``, ``cpu``, ``cuda`` or
    ``mps``; `runs` is where runs lie, by default ``$INFOMAX_RUNS``, else ``./runs``. Raises `InfomaxError`.
    """
    return load_file(encoder_path(source, Path(runs) if runs is not None else runs_root()), depth, device)


def encoder_path(source: str | os.PathLike[str] | None, runs: Path) -> Path:
    """The encoder's file of what a user calls a run. Raises `UsageError` where there is no such thing."""
    if source is not None:
        path = Path(source).expanduser()
        if path.is_file():
            return path
        if (path / FILE).is_file():
            return path / FILE
    run = find_run(None if source is None else os.fspath(source), runs)
    if not run.encoder_file.is_file():
        nothing = "" if run.last.is_file() else ": its training has saved nothing yet"
        raise CheckpointError(
            f"{run.path} holds no {FILE}{nothing}", f"infomax train {run.path} --resume writes it when it saves next"
        )
    return run.encoder_file


def load_file(path: Path, depth: int | None = None, device: str = "cpu") -> PretrainedEncoder:
    """The encoder that a file holds, with the depth that the file names unless one is given."""
    metadata = encoder_metadata(path)
    if "recipe" not in metadata:
        raise CheckpointError(f"{path} does not tell how the encoder is built", f"name a run, or the {FILE} of one")
    where = choose_device(device)
    recipe = parse(json.loads(metadata["recipe"]), str(path))
    encoder = build.build_encoder(recipe, where)
    restore(module_of(encoder), load_encoder_weights(path), path)
    inputs = _inputs(path, metadata, recipe)
    if depth is None and "depth" in metadata:
        depth = int(metadata["depth"])
    steps = metadata.get("step", "")
    return PretrainedEncoder(encoder, recipe, inputs, depth=depth, steps=int(steps) if steps.isdecimal() else None)


def _inputs(path: Path, metadata: Mapping[str, str], recipe: Recipe) -> InputSpec:
    """What the file says; of an older file, which does not say it, what the data that it was trained on says."""
    if "inputs" in metadata:
        return InputSpec.from_dict(json.loads(metadata["inputs"]))
    try:
        dataset = build.build_dataset(build.resolve(recipe))
        return InputSpec.of(dataset.describe(Path(recipe.root or data_root())))
    except InfomaxError as error:
        run = Run(path.parent)
        hint = f"infomax train --resume {run.path} writes it anew" if run.recipe_file.exists() else "export it anew"
        raise CheckpointError(
            f"{path} is of an older version, which did not note the sample rate and channels that it takes, and its "
            f"data is not there to ask: {error.message}",
            f"put the data back, or {hint}",
        ) from error
