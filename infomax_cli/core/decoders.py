"""A decoder for any depth of any encoder of sound: transposed convolutions, mirrored from the encoder's geometry."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Mapping, Sequence
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
    """From a depth's map ``(B, C, T')`` back to the raw input ``(B, channels, T)``, for any T.

    One transposed convolution a stage, from the depth down to the raw input, with the kernel, stride and padding of the
    stage (Denoodt et al.'s decoders have the same form); ReLU between, the last linear. Maps are standardised first, by
    the `mean` and `deviation` of each unit over the training data, which also are the Gaussian fitted to them.

    Args:
        axes: where the frames lie: of the raw input, then of each stage up to the depth.
        units: C, the width of the depth's map.
        width: of everything between.
        channels: of the raw input.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, axes: Sequence[Axis], units: int, *, width: int = 128, channels: int = 1) -> None:
        super().__init__()
        if width < 1:
            raise UsageError(f"--width {width}: a decoder is at least 1 wide")
        self.steps = [Step.between(lower, upper) for lower, upper in pairwise(axes)]
        widths = [channels, *[width] * (len(self.steps) - 1), units]
        self.layers = nn.ModuleList(
            nn.ConvTranspose1d(above, below, step.kernel, step.stride, step.padding)
            for step, (below, above) in zip(self.steps, pairwise(widths), strict=True)
        )
        self.register_buffer("mean", torch.zeros(units))
        self.register_buffer("deviation", torch.ones(units))

    def frames(self, length: int) -> int:
        """How many frames of the depth make `length` samples."""
        return self._lengths(length)[-1]

    def forward(self, z: Tensor, length: int) -> Tensor:
        """``(B, C, T')`` to ``(B, channels, length)``."""
        x = (z - self.mean[:, None]) / self.deviation[:, None]
        lengths = self._lengths(length)
        for place in reversed(range(len(self.steps))):
            layer, step = self.layers[place], self.steps[place]
            least = (x.shape[-1] - 1) * step.stride - 2 * step.padding + step.kernel
            wanted = min(max(lengths[place], least, 1), max(least, 1) + step.stride - 1)
            x = layer(x, output_size=[wanted])
            if place > 0:
                x = F.relu(x)
        return F.pad(x, (0, length - x.shape[-1]))  # of frames that do not come from so many samples

    def _lengths(self, length: int) -> list[int]:
        """The lengths of all maps, from the raw input up."""
        lengths = [length]
        for step in self.steps:
            lengths.append(step.frames(lengths[-1]))
        return lengths


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
