"""The networks that embed maps for Deep InfoMax: the published scoring network, and a trunk of one's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dim_blocks import block_spec
from infomax_cli.core.api import Axis, DoesNotFit, MapSpec
from infomax_plugins.losses._critics import ConvTrunk, MI1x1ConvNet, check_axes
from infomax_plugins.losses.local_dim import LocalDIM


def as_convolutions(net: MI1x1ConvNet, x: Tensor) -> Tensor:
    """The scoring network on a map ``(B, C, *grid)``, as published: 1x1 convolutions and norms over channels."""
    first, norm, _, second = net.block
    conv = F.conv1d if x.ndim == 3 else F.conv2d
    ones = (1,) * (x.ndim - 2)
    hidden = conv(x, first.weight.view(*first.weight.shape, *ones))
    axes = [0, *range(2, x.ndim)]
    mean, variance = hidden.mean(axes, keepdim=True), hidden.var(axes, unbiased=False, keepdim=True)
    scale, shift = (p.view(1, -1, *ones) for p in (norm.weight, norm.bias))
    hidden = torch.relu((hidden - mean) / torch.sqrt(variance + norm.eps) * scale + shift)
    made = conv(hidden, second.weight.view(*second.weight.shape, *ones), second.bias)
    made = made + conv(x, net.shortcut.weight.view(*net.shortcut.weight.shape, *ones))
    mean, variance = made.mean(1, keepdim=True), made.var(1, unbiased=False, keepdim=True)
    scale, shift = (p.view(1, -1, *ones) for p in (net.norm.weight, net.norm.bias))
    return (made - mean) / torch.sqrt(variance + net.norm.eps) * scale + shift


def scrambled(net: MI1x1ConvNet) -> MI1x1ConvNet:
    """In float64, with norms that do not start at one and zero."""
    for parameter in net.double().parameters():
        nn.init.normal_(parameter, 0.3, 0.5)
    return net


@pytest.mark.parametrize("grid", [(5,), (2, 3), (1, 1)])
def test_the_scoring_network_is_the_published_one_on_grids_of_one_and_two_axes(grid: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    net = scrambled(MI1x1ConvNet(4, 6))
    x = torch.randn(7, 4, *grid, dtype=torch.float64, requires_grad=True)
    found = net(x.flatten(2).transpose(1, 2))  # (B, L, units)
    expected = as_convolutions(net, x).flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(found)
    tensors = [x, *net.parameters()]
    wanted = torch.autograd.grad((expected * weight).sum(), tensors)
    torch.testing.assert_close(torch.autograd.grad((found * weight).sum(), tensors), wanted)


def test_its_shortcut_starts_as_all_but_the_identity_where_there_are_units_enough() -> None:
    wide, narrow = MI1x1ConvNet(3, 5).shortcut.weight, MI1x1ConvNet(5, 3).shortcut.weight
    off = wide.detach() - torch.eye(5, 3)
    assert off[~torch.eye(5, 3, dtype=torch.bool)].abs().max() <= 0.01
    assert off.diagonal().abs().max() == 0
    assert off.abs().sum() > 0
    assert (narrow.diagonal() != 1).all()


def test_the_networks_of_the_published_cifar_encoder_have_9_2_million_parameters() -> None:
    spec = block_spec((3, (32, 32)), (64, (16, 16)), (128, (8, 8)), (256, (4, 4)), (1024, (1, 1)), (64, (1, 1)))
    loss = LocalDIM(spec, local_map="8x8")
    assert sum(p.numel() for p in loss.parameters()) == 9_195_520


@pytest.mark.parametrize("grid", [(8, 8), (7, 7), (4, 4), (2, 3), (1, 1), (128,), (9,), (1,), (5, 40), (1, 13)])
def test_a_trunk_makes_one_vector_of_any_grid(grid: tuple[int, ...]) -> None:
    trunk = ConvTrunk(MapSpec(6, grid, (Axis(),) * len(grid)), 10)
    made = trunk(torch.randn(3, 6, *grid))
    assert made.shape == (3, 10)
    made.square().sum().backward()
    assert all(p.grad is not None for p in trunk.parameters())


@pytest.mark.parametrize(("channels", "widths"), [(200, [400, 512, 512, 512]), (700, [700, 700, 700, 700])])
def test_a_trunk_widens_to_512_and_never_narrows(channels: int, widths: list[int]) -> None:
    with torch.device("meta"):
        trunk = ConvTrunk(MapSpec(channels, (64, 64), (Axis(), Axis())), 4)
    assert [layer.out_channels for layer in trunk.convs if isinstance(layer, nn.Conv2d)] == widths


def test_a_trunk_cannot_read_three_axes() -> None:
    with pytest.raises(DoesNotFit, match="one or two axes, but this one has 3"):
        check_axes(MapSpec(4, (2, 2, 2), (Axis(),) * 3), "global_dim")
