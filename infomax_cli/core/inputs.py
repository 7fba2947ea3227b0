"""What an encoder takes: known without the data that it was trained on, and made of what a user has at hand."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from infomax_cli.core.api import DataSpec
from infomax_cli.core.resample import resample
from infomax_cli.errors import UsageError
from infomax_cli.wording import count_of

# whole numbers are scaled to [-1, 1] in sound, to [0, 1] in images
_MOST_CHANNELS = 8  # of a recording; no encoder makes anything of so few samples
_BRIGHTEST = 2.0  # of images in [0, 1]: what scaling them overshoots is less
_SOUND_STEPS = {torch.int16: 2.0**15, torch.int32: 2.0**31}


@dataclass(frozen=True)
class InputSpec:
    """The raw input ``(B, channels, *grid)`` of an encoder: `axes` names the grid, `rate` is in samples a second (None
    for images). `grid` is the size that it was trained on; in time another length is as good."""

    channels: int
    grid: tuple[int, ...]
    axes: tuple[str, ...]
    rate: int | None

    @classmethod
    def of(cls, data: DataSpec) -> Self:
        return cls(data.channels, tuple(data.grid), tuple(data.axes), data.rate)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        return cls(int(plain["channels"]), tuple(plain["grid"]), tuple(plain["axes"]), plain["rate"])

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def check_fits(self, other: Self, name: str, options: Collection[str]) -> None:
        """Raise `UsageError` where data of another kind would mean nothing to the encoder, which is trained and stays
        as it is. `name` is the dataset's; what to do about it is one of its `options`, if it has that one."""
        if (self.axes, self.channels, self.rate) == (other.axes, other.channels, other.rate) and (
            self.is_sound or self.grid == other.grid
        ):
            return
        key, value = self._remedy(other)
        hint = f"data.{key}={value}" if key in options else "choose data of the same kind: the encoder is trained"
        raise UsageError(f"{name} holds {other.describe()}, but the encoder takes {self.describe()}", hint)

    def _remedy(self, other: Self) -> tuple[str, object]:
        """The option of a dataset that would bring its items nearer to these; an empty name where none would."""
        if self.axes != other.axes:
            return "", None
        if self.channels != other.channels:
            is_colour = {self.channels, other.channels} == {1, 3} and not self.is_sound
            return "grey" if is_colour else "", "true" if self.channels == 1 else "false"
        return ("size", self.grid[0]) if self.rate == other.rate else ("rate", self.rate)

    def describe(self) -> str:
        channels = count_of(self.channels, "channel")
        if self.is_sound:
            return f"sound of {channels}" + ("" if self.rate is None else f" at {self.rate} Hz")
        if self.axes == ("height", "width"):
            return f"images of {channels} and {self.grid[0]}x{self.grid[1]} pixels"
        return f"{channels} over {', '.join(self.axes)}"

    @property
    def is_sound(self) -> bool:
        return self.axes == ("time",)

    def batch(self, x: Tensor | npt.ArrayLike, sample_rate: int | None, like: Tensor) -> Tensor:
        """What a user has as ``(B, C, *grid)``, floating, on the device of `like`, at this rate.

        Sound is ``(T,)``, ``(B, T)`` (of one channel) or ``(B, C, T)``, in [-1, 1] or 16- and 32-bit integers; images
        are ``(C, H, W)`` or ``(B, C, H, W)``, in [0, 1] or bytes. Raises `UsageError` on other shapes and types.
        """
        given = x if isinstance(x, Tensor) else torch.from_numpy(_writable(np.asarray(x)))
        values = self._scaled(given).to(like)
        values = self._sound(values) if self.is_sound else self._grid(values)
        if sample_rate is not None and self.rate is None:
            raise UsageError("these are images: they have no sample rate", "leave out sample_rate")
        if sample_rate is not None and self.rate is not None and sample_rate != self.rate:
            values = resample(values, sample_rate, self.rate)
        return values

    def _scaled(self, x: Tensor) -> Tensor:
        if x.is_floating_point():
            if not self.is_sound and x.numel() and x.detach().amax() > _BRIGHTEST:
                raise UsageError("the encoder takes images in [0, 1], and these are brighter", "divide them by 255")
            return x
        if self.is_sound and x.dtype in _SOUND_STEPS:
            return x.double() / _SOUND_STEPS[x.dtype]
        if not self.is_sound and x.dtype == torch.uint8:
            return x.double() / 255
        kind = "sound in [-1, 1], or of int16 or int32" if self.is_sound else "images in [0, 1], or of uint8"
        raise UsageError(f"the encoder takes {kind}, not {x.dtype}", "convert it to float32 first")

    def _sound(self, x: Tensor) -> Tensor:
        if x.dim() == 1:
            x = x[None]
        if x.dim() == 2 and x.shape[1] <= _MOST_CHANNELS < x.shape[0]:
            raise UsageError(
                f"the encoder takes sound (T,) or (B, T), and {tuple(x.shape)} looks like (T, C)",
                "mix it to mono first: x.mean(1)" if self.channels == 1 else "channels come first",
            )
        if x.dim() == 2:
            x = x[:, None] if self.channels == 1 else x[None]
        if x.dim() != 3 or x.shape[1] != self.channels:
            raise UsageError(
                f"the encoder takes sound (T,), (B, T) or (B, {self.channels}, T), not {tuple(x.shape)}",
                "mix it to mono first: x.mean(1)" if self.channels == 1 else None,
            )
        return x

    def _grid(self, x: Tensor) -> Tensor:
        if x.dim() == len(self.axes) + 1:
            x = x[None]
        if x.dim() != len(self.axes) + 2 or x.shape[1] != self.channels:
            shape = f"({self.channels}, {', '.join(self.axes)})"
            raise UsageError(
                f"the encoder takes {shape}, or a batch of them, not {tuple(x.shape)}", "channels come first"
            )
        return x


def _writable(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """What torch takes without a warning: writable, in the machine's byte order, with positive strides."""
    native = x.astype(x.dtype.newbyteorder("="), copy=False)
    return native if native.flags.writeable and all(step >= 0 for step in native.strides) else native.copy()
