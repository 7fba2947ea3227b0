"""An encoder of raw audio: a few strided convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from infomax_cli.core.api import Axis


class EchoConv(nn.Module):
    """Convolutions of kernel ``2 * stride``, each followed by a group norm and a nonlinearity.

    `widths` are the channels of the stages and `strides` their hops; the defaults end at 160 samples a frame.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int] = (16, 24, 32),
        strides: Sequence[int] = (8, 5, 4),
        activation: Literal["relu", "gelu"] = "gelu",
        gain: float = 10.0,
    ) -> None:
        super().__init__()
        if len(widths) != len(strides):
            raise ValueError(f"widths and strides must be of one length, not {len(widths)} and {len(strides)}")
        self.strides = tuple(strides)
        self.register_buffer("gain", torch.tensor(gain))
        inputs = (1, *widths[:-1])
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(before, after, kernel_size=2 * stride, stride=stride, padding=stride // 2),
                nn.GroupNorm(1, after),
                nn.ReLU() if activation == "relu" else nn.GELU(),
            )
            for before, after, stride in zip(inputs, widths, strides, strict=True)
        )

    def prepare(self, x: Tensor) -> Tensor:
        """Audio ``(B, 1, T)``, made louder."""
        return x * self.gain

    def readout(self, y: Tensor, stage: int) -> Tensor:
        return y

    def geometry(self, stage: int) -> tuple[Axis, ...]:
        axis = Axis()
        for stride in self.strides[: stage + 1]:
            axis = axis.convolve(kernel=2 * stride, stride=stride, padding=stride // 2)
        return (axis,)
