"""A decoder for any depth of any encoder of sound or images: transposed convolutions, mirrored from its geometry."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from infomax_cli.core.api import Axis, UsageError, derive_seed
from infomax_cli.core.files import write_atomically
from infomax_cli.errors import CheckpointError
from infomax_cli.runs import Run
from infomax_cli.wording import describe_error

_log = logging.getLogger("infomax")


@dataclass(frozen=True)
class Step:
    """What lies between two neighbouring maps: the convolution that leads from the lower to the upper."""

    kernel: int
    stride: int
    padding: int

    @classmethod
    def between(cls, lower: Axis, upper: Axis) -> Step:
        """Read from where the frames lie; exact where a stage is one convolution, or several without padding."""
        stride = max(1, round(upper.hop / lower.hop))
        kernel = max(stride, 1 + round((upper.field - lower.field) / lower.hop))
        padding = (kernel - 1) / 2 - (upper.centre - lower.centre) / lower.hop
        return cls(kernel, stride, min(max(0, round(padding)), kernel - 1))

    def frames(self, below: int) -> int:
        """How many frames the convolution makes of so many."""
        return max(1, (below + 2 * self.padding - self.kernel) // self.stride + 1)


class Decoder(nn.Module):
    """From a depth's map ``(B, C, *grid')`` back to the raw input ``(B, channels, *grid)``, for any grid.

    One transposed convolution a stage, from the depth down to the raw input, with the kernel, stride and padding of the
    stage (Denoodt et al.'s decoders have the same form); ReLU between, the last linear. Before them come two
    convolutions of three frames, so that not even the decoder of the first stage is linear: what a normalisation has
    taken from a frame, its loudness above all, is told by no sum of its units. Maps are standardised first, by the
    `mean` and `deviation` of each unit over the training data, which also are the Gaussian fitted to them.

    Args:
        axes: where the frames lie: of the raw input, then of each stage up to the depth; one axis for sound, two for
            images.
        units: C, the width of the depth's map.
        width: of everything between.
        channels: of the raw input.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, axes: Sequence[Sequence[Axis]], units: int, *, width: int = 128, channels: int = 1) -> None:
        super().__init__()
        if width < 1:
            raise UsageError(f"--width {width}: a decoder is at least 1 wide")
        conv, transposed = _CONVOLUTIONS[len(axes[0])]
        self.steps = [tuple(map(Step.between, lower, upper)) for lower, upper in pairwise(axes)]
        self.read = nn.Sequential(
            conv(units, width, 3, padding=1), nn.ReLU(), conv(width, width, 3, padding=1), nn.ReLU()
        )
        self.layers = nn.ModuleList(
            transposed(
                width,
                width if place else channels,
                tuple(step.kernel for step in steps),
                tuple(step.stride for step in steps),
                tuple(step.padding for step in steps),
            )
            for place, steps in enumerate(self.steps)
        )
        self.register_buffer("mean", torch.zeros(units))
        self.register_buffer("deviation", torch.ones(units))

    @property
    def units(self) -> int:
        return len(self.mean)

    def frames(self, grid: Sequence[int]) -> tuple[int, ...]:
        """The depth's grid for an input of this grid."""
        return self._grids(grid)[-1]

    def standard(self, z: Tensor) -> Tensor:
        """A depth's map with each unit brought to mean 0 and deviation 1."""
        return (z - self._by_unit(self.mean)) / self._by_unit(self.deviation)

    def unstandard(self, z: Tensor) -> Tensor:
        """The way back."""
        return self._by_unit(self.mean) + self._by_unit(self.deviation) * z

    def forward(self, z: Tensor, grid: Sequence[int]) -> Tensor:
        """``(B, C, *grid')`` to ``(B, channels, *grid)``."""
        x = self.read(self.standard(z))
        grids = self._grids(grid)
        for place in reversed(range(len(self.steps))):
            sizes = zip(x.shape[2:], grids[place], self.steps[place], strict=True)
            x = self.layers[place](x, output_size=[_reachable(*each) for each in sizes])
            if place > 0:
                x = F.relu(x)
        # of frames that do not come from so large an input
        missing = [size - made for size, made in zip(grid, x.shape[2:], strict=True)]
        return F.pad(x, [amount for size in reversed(missing) for amount in (0, size)])

    def _by_unit(self, values: Tensor) -> Tensor:
        return values.view(-1, *[1] * len(self.steps[0]))

    def _grids(self, grid: Sequence[int]) -> list[tuple[int, ...]]:
        """The grids of all maps, from the raw input up."""
        grids = [tuple(grid)]
        for steps in self.steps:
            grids.append(tuple(step.frames(size) for step, size in zip(steps, grids[-1], strict=True)))
        return grids


_CONVOLUTIONS: Mapping[int, tuple[Callable[..., nn.Module], Callable[..., nn.Module]]] = {
    1: (nn.Conv1d, nn.ConvTranspose1d),
    2: (nn.Conv2d, nn.ConvTranspose2d),
}


def _reachable(frames: int, wanted: int, step: Step) -> int:
    """The size nearest to what is `wanted` that a transposed convolution can make of so many frames."""
    least = (frames - 1) * step.stride - 2 * step.padding + step.kernel
    return min(max(wanted, least, 1), max(least, 1) + step.stride - 1)


def decoder_file(run: Run, depth: int, made_by: Mapping[str, Any]) -> Path:
    """Decoders that were made differently lie beside one another."""
    return run.path / "decode" / f"depth{depth}" / f"decoder-{derive_seed(json.dumps(made_by)):016x}.safetensors"


def check_writable(folder: Path) -> None:
    """Make the folder, or raise `CheckpointError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise CheckpointError(
            f"cannot write in {folder}: {error.strerror or error}", "make it writable, or copy the run and decode that"
        ) from error


def save_decoder(path: Path, decoder: Decoder, made_by: Mapping[str, Any], untrained_loss: float) -> None:
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in decoder.state_dict().items()}
    metadata = {"format": "infomax decoder", "made_by": json.dumps(made_by), "untrained_loss": repr(untrained_loss)}
    try:
        with write_atomically(path) as temporary:
            temporary.write_bytes(save(weights, metadata=metadata))
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path}: {error.strerror or error}", "make room, or make it writable"
        ) from error


def load_decoder(path: Path, decoder: Decoder, made_by: Mapping[str, Any]) -> tuple[Decoder, float] | None:
    """The decoder that lies there and its loss before training; None where there is none that was made alike, or where
    it is damaged, which is said."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        if metadata.get("made_by") != json.dumps(made_by):
            return None
        decoder.load_state_dict(load_file(path))
        return decoder, float(metadata["untrained_loss"])
    except (OSError, SafetensorError, RuntimeError, KeyError, ValueError) as error:
        _log.warning("%s cannot be read, and is trained anew: %s", path, describe_error(error))
        return None
