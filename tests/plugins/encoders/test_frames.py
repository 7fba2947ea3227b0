"""Convolutions on frames equal torch's own, whatever the layout, and leave frames one after the other."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from infomax_plugins.encoders._frames import FrameConv

SHAPES = [(10, 5, 2), (8, 4, 2), (4, 2, 1), (3, 1, 0), (1, 1, 0), (2, 3, 4), (5, 1, 7)]  # kernel, stride, padding


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("frames_last", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_convolution_of_frames_equals_torchs(
    shape: tuple[int, int, int], channels: int, frames_last: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    ours = FrameConv(channels, 6, *shape).to(dtype)
    theirs = nn.Conv1d(channels, 6, *shape).to(dtype)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 23, channels, dtype=dtype).transpose(1, 2)
    x = (x if frames_last else x.contiguous()).requires_grad_()
    found = []
    for conv in (ours, theirs):
        y = conv(x)
        weight = torch.linspace(-1, 1, y.numel(), dtype=dtype).view_as(y)
        found.append([y, *torch.autograd.grad((y * weight).sum(), [x, *conv.parameters()])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    assert found[0][0].stride(1) == 1


@pytest.mark.parametrize("channels", [1, 16])
def test_under_autocast_it_is_computed_in_bf16(channels: int) -> None:
    torch.manual_seed(0)
    conv = FrameConv(channels, 16, 4, 2, 1)
    x = torch.randn(2, channels, 50)
    found = []
    for enabled in (False, True):
        conv.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = conv(x)
        y.float().square().mean().backward()
        assert y.dtype == (torch.bfloat16 if enabled else torch.float32)
        found.append([y.detach().float(), *(p.grad for p in conv.parameters() if p.grad is not None)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.02)


def test_a_relu_in_place_makes_no_copies() -> None:
    y = FrameConv(3, 4, 4, 2)(torch.randn(2, 3, 40))
    assert not y._is_view()
    assert torch.relu_(y).grad_fn.name().startswith("Relu")  # type: ignore[union-attr]  # not CopySlices
