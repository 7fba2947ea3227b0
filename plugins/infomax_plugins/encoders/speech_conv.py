"""The speech encoder of CPC (Oord et al. 2018) and of Greedy InfoMax (Löwe et al. 2019)."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infomax_cli.core.api import Axis, Gaussian, InfomaxError

from ._frames import FrameConv

Norm = Literal["none", "channel", "batch"]
Padding = Literal["gim", "cpc_audio", "valid"]
Cell = Literal["gru", "lstm", "none"]
Heads = Literal["gaussian", "mean"]
HeadsStart = Literal["normal", "published"]

# Löwe et al. take (x + 1456218.75) / 135303504 of samples scaled to 32-bit integers; here samples lie in [-1, 1].
_MEAN = -1456218.75 / 2**31
_STD = 135303504 / 2**31

_NOISE = 0.25  # of a unit's variance at the start; the rest is that of its means
_RECTIFIED_MEAN = 1 / math.sqrt(2 * math.pi)  # of max(0, x) for x from N(0, 1)
_RECTIFIED_VARIANCE = 0.5 - 1 / (2 * math.pi)

_KERNELS_AND_STRIDES = ((10, 5), (8, 4), (4, 2), (4, 2), (4, 2))
_PADDINGS: dict[Padding, tuple[int, ...]] = {
    "gim": (2, 2, 2, 2, 1),
    "cpc_audio": (3, 2, 1, 1, 1),
    "valid": (0, 0, 0, 0, 0),
}


class SpeechConv(nn.Module):
    """Five strided convolutions, then a recurrent context: ``(B, 1, T)`` samples to frames 160 samples apart.

    Each of the first five stages is a convolution, its `norm` and a ReLU; the sixth, absent with ``cell="none"``, reads
    their frames forward in time. At 16 kHz frames are 10 ms apart and see 465 samples (29 ms); with the paddings of
    Greedy InfoMax frame ``t`` is centred at sample ``160 t + 20``.

    Args:
        channels: width of every convolution; 512 in Oord, Löwe and Barello, 256 in CPC_audio (Rivière et al. 2020).
        context_channels: width of the context.
        cell: recurrent cell of the context; Löwe uses a GRU, Barello and CPC_audio an LSTM.
        norm: ``channel`` normalises each frame over its channels (CPC_audio), ``batch`` is batch normalisation (V-GIM).
        padding: whose published paddings: Löwe's, CPC_audio's, or none at all (Barello's).
        variational: convolutions, by their stage, that end in `heads`; V-GIM's are those that end its modules, 1, 3, 4.
        heads: ``gaussian`` gives those stages two convolutions of one frame, for the mean and the log-variance of a
            Gaussian; ``mean`` only the first, as the published Greedy InfoMax beside V-GIM has it: its control.
        heads_start: ``normal`` starts heads so that draws of units are near N(0, 1) over the data, on average, where
            the stages are normalised; ``published`` as any convolution, with means of a deviation of a third. What
            starts near N(0, 1) stays there, where scores of the loss start small (infonce's
            ``predictors_start="unit"``); from elsewhere the KL takes long to get there.
        mean, std: of the samples; `prepare` takes the first off and divides by the second. Löwe's by default.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        channels: int = 512,
        context_channels: int = 256,
        cell: Cell = "gru",
        norm: Norm = "none",
        padding: Padding = "gim",
        variational: list[int] | None = None,
        heads: Heads = "gaussian",
        heads_start: HeadsStart = "normal",
        mean: float = _MEAN,
        std: float = _STD,
    ) -> None:
        super().__init__()
        _check_options(channels, context_channels, norm, std)
        headed = _checked_stages(variational or [])
        layers = [
            Conv(kernel, stride, pad)
            for (kernel, stride), pad in zip(_KERNELS_AND_STRIDES, _PADDINGS[padding], strict=True)
        ]
        self._convs = tuple((layer,) for layer in layers)  # the convolutions of each stage
        stages: list[nn.Module] = []
        width = 1
        for index, convs in enumerate(self._convs):
            stage = _conv_stage(width, channels, convs, norm)
            if index in headed:
                stage.add_module("heads", _heads(channels, heads, heads_start))
            stages.append(stage)
            width = channels
        if cell != "none":
            stages.append(RecurrentContext(width, context_channels, cell))
        self.stages = nn.ModuleList(stages)
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def prepare(self, x: Tensor) -> Tensor:
        """Samples in [-1, 1], ``(B, 1, T)``, normalised. Raises `InfomaxError` on another shape or on too short a T."""
        if x.ndim != 3 or x.shape[1] != 1:
            raise InfomaxError(
                f"speech_conv reads sound of one channel, (B, 1, T), not {tuple(x.shape)}",
                "mix the sound to mono, or use an encoder made for this data",
            )
        if x.shape[-1] < self.least_samples:
            raise InfomaxError(
                f"speech_conv needs at least {self.least_samples} samples to make one frame, got {x.shape[-1]}",
                "leave out such short items, or take longer crops",
            )
        return (x - self.mean) / self.std

    def readout(self, y: Tensor, stage: int) -> Tensor:
        """A stage's output as it is, ``(B, C, T)``."""
        return y

    def geometry(self, stage: int) -> tuple[Axis, ...]:
        """Where the frames of `stage` lie among the samples; -1 is the samples, the context lies where it reads."""
        if not -1 <= stage < len(self.stages):
            raise IndexError(f"speech_conv has stages 0 to {len(self.stages) - 1}, not {stage}")
        axis = Axis()
        for convs in self._convs[: stage + 1]:
            for conv in convs:
                axis = axis.convolve(conv.kernel, conv.stride, conv.padding)
        return (axis,)

    @property
    def least_samples(self) -> int:
        """The shortest input of which every stage makes a frame."""
        need = 1
        for convs in reversed(self._convs):
            for conv in reversed(convs):
                need = max(1, (need - 1) * conv.stride + conv.kernel - 2 * conv.padding)
        return need


@dataclass(frozen=True)
class Conv:
    """The shape of a convolution in time."""

    kernel: int
    stride: int
    padding: int


class ChannelNorm(nn.Module):
    """Every frame's channels to mean 0 and (unbiased) variance 1, then a scale and a shift a channel.

    As in CPC_audio (Rivière et al. 2020). ``(B, C, T)`` in and out.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        # (x - m) / sqrt(v n / (n - 1) + eps), v the biased variance, is layer normalisation with another eps and scale
        channels = len(self.weight)
        ratio = (channels - 1) / channels
        frames = F.layer_norm(x.transpose(1, 2), (channels,), self.weight * ratio**0.5, self.bias, self.eps * ratio)
        return frames.transpose_(1, 2)  # in place: of a view a ReLU in place would make copies


class GaussianHeads(nn.Module):
    """Mean and log-variance of a Gaussian for each frame ``(B, C, T)``, by a convolution of one frame each."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean = FrameConv(channels, channels, 1)
        self.logvar = FrameConv(channels, channels, 1)

    def forward(self, x: Tensor) -> Gaussian:
        return Gaussian(self.mean(x), self.logvar(x))


def _heads(channels: int, heads: Heads, start: HeadsStart) -> nn.Module:
    if heads == "mean":
        control = FrameConv(channels, channels, 1)
        if start == "normal":
            _start_normal(control, 1.0)
        return control
    made = GaussianHeads(channels)
    if start == "normal":
        _start_normal(made.mean, 1 - _NOISE)
        nn.init.zeros_(made.logvar.weight)
        nn.init.constant_(made.logvar.get_parameter("bias"), math.log(_NOISE))
    return made


@torch.no_grad()
def _start_normal(head: nn.Conv1d, variance: float) -> None:
    """Have units of mean 0 and of this variance, where what comes in are rectified standard normals."""
    nn.init.normal_(head.weight, 0.0, math.sqrt(variance / (head.in_channels * _RECTIFIED_VARIANCE)))
    head.get_parameter("bias").copy_(-_RECTIFIED_MEAN * head.weight.sum((1, 2)))


class RecurrentContext(nn.Module):
    """One recurrent layer that reads frames forward in time: ``(B, C, T)`` to ``(B, H, T)``, starting from zeros."""

    is_context = True

    def __init__(self, channels: int, context_channels: int, cell: Literal["gru", "lstm"]) -> None:
        super().__init__()
        layer = {"gru": nn.GRU, "lstm": nn.LSTM}[cell]
        self.rnn = layer(channels, context_channels, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.resume(x, None)[0]

    def resume(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The context of the next frames, going on from `state` (None: zeros), and the state after them."""
        context, state = self.rnn(x.transpose(1, 2), state)
        return context.transpose(1, 2), state


def _conv_stage(channels: int, width: int, convs: Sequence[Conv], norm: Norm) -> nn.Sequential:
    """Convolution, norm and ReLU, once for each of `convs`: ``(B, channels, T)`` to ``(B, width, T')``."""
    inputs = [channels] + [width] * (len(convs) - 1)
    return nn.Sequential(*(_conv_layer(given, width, conv, norm) for given, conv in zip(inputs, convs, strict=True)))


def _conv_layer(channels: int, width: int, conv: Conv, norm: Norm) -> nn.Sequential:
    layer: OrderedDict[str, nn.Module] = OrderedDict()
    layer["conv"] = FrameConv(channels, width, conv.kernel, conv.stride, conv.padding)
    if norm == "channel":
        layer["norm"] = ChannelNorm(width)
    elif norm == "batch":
        layer["norm"] = nn.BatchNorm1d(width)
    # in place: neither a convolution nor a norm needs its own output again for its gradient
    layer["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(layer)


def _checked_stages(variational: Sequence[int]) -> frozenset[int]:
    last = len(_KERNELS_AND_STRIDES) - 1
    if wrong := [stage for stage in variational if not 0 <= stage <= last]:
        raise InfomaxError(
            f"speech_conv: variational names stage {wrong[0]}, but the convolutions are stages 0 to {last}",
            "V-GIM's are [1, 3, 4]",
        )
    return frozenset(variational)


def _check_options(channels: int, context_channels: int, norm: Norm, std: float) -> None:
    least = 2 if norm == "channel" else 1  # the unbiased variance of one channel does not exist
    if channels < least:
        raise InfomaxError(f"speech_conv: channels is {channels}, but norm: {norm} needs at least {least}")
    if context_channels < 1:
        raise InfomaxError(f"speech_conv: context_channels is {context_channels}, but must be at least 1")
    if not std > 0:
        raise InfomaxError(f"speech_conv: std is {std}, but must be positive")
