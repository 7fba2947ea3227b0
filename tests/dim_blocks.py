"""Blocks for the losses of Deep InfoMax, features for them, and an image encoder that trains in a moment."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infomax_cli.core.api import Axis, Batch, BlockSpec, DataSpec, Features, LabelSpec, LossOutput, MapSpec
from infomax_cli.core.blocks import Block, describe_blocks, partition
from infomax_cli.recipe import Cut, SamplingOptions

BATCH = Batch(views=(), labels={}, ids=())
IMAGES = DataSpec(3, (16, 16), ("height", "width"), None, {"class": LabelSpec(4)}, {"train": 64})

Grid = tuple[int, ...]


def block_spec(*maps: tuple[int, Grid], views: int = 1, context: int | None = None) -> BlockSpec:
    """A block of the maps ``(channels, grid)``, its input first; `context` is the index of that of a context stage."""
    specs = tuple(MapSpec(channels, grid, (Axis(),) * len(grid)) for channels, grid in maps)
    return BlockSpec(
        index=2,
        stages=tuple(range(len(maps) - 1)),
        maps=specs,
        target=len(maps) - 1 if context is None else context - 1,
        context=context,
        posteriors=(),
        views=views,
        data=IMAGES,
    )


def random_features(spec: BlockSpec, items: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64) -> Features:
    """Maps of the block's shapes, all but its input with a gradient."""
    draw = torch.Generator().manual_seed(seed)
    maps = [torch.randn(items, each.channels, *each.grid, generator=draw, dtype=dtype) for each in spec.maps]
    return features(maps[0], *(each.requires_grad_() for each in maps[1:]))


def features(*maps: Tensor) -> Features:
    return Features(maps=maps, target=maps[-1])


def gradients(value: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Of all of them; zero of those on which it does not depend."""
    found = torch.autograd.grad(value, list(tensors), retain_graph=True, allow_unused=True)
    return [torch.zeros_like(x) if each is None else each for x, each in zip(tensors, found, strict=True)]


def assert_learns_in_float32(value: Tensor, loss: nn.Module) -> None:
    """What a loss says under autocast is finite and in fp32, and all that it owns gets a finite gradient."""
    value.backward()
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in loss.parameters())


def total(output: LossOutput) -> Tensor:
    return torch.stack(list(output.terms.values())).sum()


class TinyImages(nn.Module):
    """Deep InfoMax's shape: strided convolutions, and a fully connected stage as a map of one position."""

    def __init__(self, channels: int = 8, code: int = 6) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            [_halving(3, channels), _halving(channels, channels), nn.Conv2d(channels, code, 4)]  # 8x8, 4x4, 1x1
        )

    def prepare(self, x: Tensor) -> Tensor:
        return x

    def readout(self, y: Tensor, stage: int) -> Tensor:
        return y

    def geometry(self, stage: int) -> tuple[Axis, ...]:
        axes = [Axis("height"), Axis("width")]
        for kernel, stride, padding in [(4, 2, 1), (4, 2, 1), (4, 1, 0)][: stage + 1]:
            axes = [axis.convolve(kernel, stride, padding) for axis in axes]
        return tuple(axes)


def _halving(channels: int, wider: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, wider, 4, 2, 1, bias=False), nn.BatchNorm2d(wider), nn.ReLU())


def blob_images(items: int, seed: int = 0) -> Tensor:
    """Images ``(items, 3, 16, 16)`` of a few smooth patterns each, so that places tell of the whole."""
    draw = torch.Generator().manual_seed(seed)
    return F.interpolate(torch.randn(items, 3, 4, 4, generator=draw), size=(16, 16), mode="bilinear")


def image_blocks(
    losses: Sequence[tuple[type[nn.Module], dict[str, object]]], cut: Cut = "none", views: int = 1
) -> list[Block]:
    """The blocks of a `TinyImages`, each with all the losses."""
    encoder = TinyImages()
    specs = describe_blocks(encoder, partition(3, cut), IMAGES, views)
    made = []
    for spec in specs:
        judges = {make.__name__: make(spec, **options) for make, options in losses}
        made.append(Block(encoder, spec, judges, dict.fromkeys(judges, 1.0), SamplingOptions()))  # type: ignore[arg-type]
    return made


def train(
    blocks: Sequence[Block], steps: int, views: int = 1, items: int = 32
) -> tuple[dict[str, float], dict[str, float]]:
    """What the blocks tell of their losses before and after `steps` of Adam, each on its own, on the same images."""
    made = [blob_images(items, seed=0) for _ in range(views)]
    images = tuple(image + 0.1 * torch.randn_like(image) for image in made)
    batch = Batch(images, {}, ())
    optimizers = [torch.optim.Adam(block.trained_parameters(), 3e-3) for block in blocks]
    told: list[dict[str, float]] = []
    for _ in range(steps):
        inputs, seen = images, {}
        for block, optimizer in zip(blocks, optimizers, strict=True):
            output = block(inputs, batch)
            optimizer.zero_grad()
            output.total.backward()
            optimizer.step()
            seen |= {f"block{block.index}/{name}": float(v) for name, v in (output.terms | output.watched).items()}
            inputs = output.outputs
        told.append(seen)
    return told[0], told[-1]
