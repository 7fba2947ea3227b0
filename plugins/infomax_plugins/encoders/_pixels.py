"""Images as encoders take them: of the size and the channels that they are built for, normalised."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from infomax_cli.core.api import Axis, InfomaxError

_LUMA = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)


class Pixels(nn.Module):
    """Images in [0, 1], ``(B, C, size, size)``, less `mean` and divided by `std`: one value for all channels or one
    each.

    With `grey` three channels are made one by their luma first. The first two arguments are for messages: the name of
    the encoder, and what to do about images of another size.
    """

    mean: Tensor
    std: Tensor
    luma: Tensor

    def __init__(
        self,
        encoder: str,
        other_size: str,
        *,
        size: int,
        channels: int,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        grey: bool = False,
    ) -> None:
        super().__init__()
        self.encoder, self.other_size = encoder, other_size
        self.size, self.channels = size, channels
        self.mixes = grey and channels == 3
        self.out_channels = 1 if grey else channels
        _check(encoder, size, channels, grey=grey)
        means, stds = _listed(mean), _listed(std)
        _check_values(encoder, means, stds, self.out_channels)
        for name, values in {"mean": means, "std": stds}.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("luma", torch.tensor(_LUMA).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, size, size)`` to ``(B, out_channels, size, size)``.

        Raises `InfomaxError` on what is no image, on images of another size or with other channels.
        """
        if x.ndim != 4:
            raise InfomaxError(
                f"{self.encoder} reads images, (B, C, H, W), not {tuple(x.shape)}",
                "for sound: encoder.spectrogram={}" if x.ndim == 3 else "use an encoder made for this data",
            )
        if x.shape[1] != self.channels:
            raise InfomaxError(
                f"{self.encoder} was built for images of {_channels(self.channels)}, but these have {x.shape[1]}",
                f"encoder.channels={x.shape[1]}",
            )
        if x.shape[2:] != (self.size, self.size):
            raise InfomaxError(
                f"{self.encoder} was built for images of {self.size}x{self.size} pixels, "
                f"but these have {x.shape[2]}x{x.shape[3]}",
                self.other_size,
            )
        if self.mixes:
            x = (x * self.luma).sum(1, keepdim=True)
        return (x - self.mean) / self.std

    def axes(self) -> tuple[Axis, Axis]:
        """Where the pixels lie: on themselves."""
        return Axis("height"), Axis("width")


def _channels(count: int) -> str:
    return "1 channel" if count == 1 else f"{count} channels"


def _listed(values: float | Sequence[float]) -> list[float]:
    return [float(values)] if isinstance(values, int | float) else list(values)


def _check_values(encoder: str, means: list[float], stds: list[float], channels: int) -> None:
    for name, values in {"mean": means, "std": stds}.items():
        if len(values) not in (1, channels):
            raise InfomaxError(
                f"{encoder}: {name} must have one value, or one for each channel, {channels} in all: {values}"
            )
    if not all(value > 0 for value in stds):
        raise InfomaxError(f"{encoder}: std is {stds}, but must be positive")


def _check(encoder: str, size: int, channels: int, *, grey: bool) -> None:
    for name, value in {"size": size, "channels": channels}.items():
        if value < 1:
            raise InfomaxError(f"{encoder}: {name} is {value}, but must be at least 1")
    if grey and channels not in (1, 3):
        raise InfomaxError(f"{encoder}: grey mixes red, green and blue, but channels is {channels}")
