"""Convolutions in time whose frames lie one after the other in memory.

A map ``(B, C, T)`` with strides ``(T C, 1, C)`` is read without a copy by matrix products, recurrent cells, norms over
channels and losses that fetch frames; under bf16 a convolution that writes it is several times faster too.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input


class FrameConv(nn.Conv1d):
    """`nn.Conv1d` in values and gradients, ``(B, C, T)`` to ``(B, C', T')``; frames lie one after the other in both.

    It is computed as a convolution of images with one row, since those may have their channels last.
    """

    def __init__(self, channels: int, width: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__(channels, width, kernel, stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        image = x.unsqueeze(2)  # (B, C, 1, T)
        if x.stride(1) != 1:  # a single channel too, of which `contiguous` would say that it has every layout
            image = image.clone(memory_format=torch.channels_last)
        plain = torch.compiler.is_compiling() or x.dtype != torch.float32 or torch.is_autocast_enabled(x.device.type)
        convolve = F.conv2d if plain or x.device.type != "cpu" else _Convolution.apply
        y: Tensor = convolve(image, self.weight.unsqueeze(2), self.bias, (1, *self.stride), (0, *self.padding))
        return y.squeeze_(2)  # in place: of a view a ReLU in place would make copies


class _Convolution(torch.autograd.Function):
    """`F.conv2d` for a CPU in fp32, whose own gradient for the weights takes two to nine times longer than this one."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        on_x = None
        if ctx.needs_input_grad[0]:
            on_x = conv2d_input(x.shape, weight, grad, ctx.stride, ctx.padding)  # type: ignore[no-untyped-call]
        on_weight = _weight_gradient(x, grad, weight.shape[-1], ctx.stride[1], ctx.padding[1])
        return on_x, on_weight, grad.sum((0, 2, 3)), None, None


def _weight_gradient(x: Tensor, grad: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """``(C', C, 1, kernel)``, from the input ``(B, C, 1, T)`` and the gradient of the output ``(B, C', 1, T')``.

    For each tap one product an item, of the output's gradient with the frames that the tap reads.
    """
    x, grad = x.squeeze(2).transpose(1, 2), grad.squeeze(2).transpose(1, 2)  # (B, T, C), (B, T', C')
    result = x.new_zeros(kernel, grad.shape[-1], x.shape[-1])
    for tap in range(kernel):
        offset = tap - padding  # output t reads frame stride * t + offset, where there is one
        first = max(0, -(offset // stride))
        last = min(grad.shape[1] - 1, (x.shape[1] - 1 - offset) // stride)
        if last < first:
            continue
        read = x[:, stride * first + offset : stride * last + offset + 1 : stride]
        for frames, gradient in zip(read, grad[:, first : last + 1], strict=True):
            result[tap].addmm_(gradient.t(), frames)
    return result.permute(1, 2, 0).unsqueeze(2)
