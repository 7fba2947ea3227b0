"""The training step of AMDIM beside the paper's step written plainly: time, peak memory, equal losses.

    python benchmarks/amdim.py                          # 32 pixels, ndf 64, n_rkhs 256, depth 3, batch 32, one thread
    python benchmarks/amdim.py --batch 8 --ndf 16       # a quick look

Ours is the step of the trainer on noise: encoder and loss as plugins in a block, channels last, its own optimizer. The
plain one has the same layers in the order of the description, one backward pass, torch's Adam. Timings are of pairs in
turns, in one process. Memory is that of a process of its own for each side: the peak during a step above what the
process held before there was a model, with freed memory handed back at once, so that holes in the heap, which differ
from run to run by more than the sides do, do not count.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from measure import FEW_PAIRS, compare, markdown, peak_memory, resident_memory, write_result
from torch import Tensor, nn

from infomax_cli import registry
from infomax_cli.core.api import Batch, DataSpec
from infomax_cli.core.blocks import Block, describe_blocks, partition, prepare
from infomax_cli.core.stepper import Stepper
from infomax_cli.recipe import SamplingOptions, TrainOptions

CPU = torch.device("cpu")
LR, BETAS, DECAY = 2e-4, (0.8, 0.999), 1e-5
SIZE = 32
Side = Literal["ours", "plain"]


@dataclass(frozen=True)
class Setting:
    """What a step is of."""

    batch: int = 32
    ndf: int = 64
    n_rkhs: int = 256
    depth: int = 3
    threads: int = 1

    def images(self) -> list[Tensor]:
        """Two views ``(B, 3, 32, 32)`` in [0, 1]."""
        random = torch.Generator().manual_seed(1)
        return [torch.rand(self.batch, 3, SIZE, SIZE, generator=random) for _ in range(2)]


class Ours:
    """One block, stepped as the trainer steps it."""

    def __init__(self, setting: Setting) -> None:
        torch.manual_seed(0)
        make_encoder, make_loss = registry.load("encoders", "amdim_resnet"), registry.load("losses", "amdim")
        self.encoder = make_encoder(size=SIZE, ndf=setting.ndf, n_rkhs=setting.n_rkhs, depth=setting.depth)
        self.encoder.to(memory_format=torch.channels_last)
        data = DataSpec(3, (SIZE, SIZE), ("height", "width"), None, {}, {"train": setting.batch})
        (spec,) = describe_blocks(self.encoder, partition(len(self.encoder.stages), "none"), data, views=2)
        self.loss = make_loss(spec)
        self.block = Block(self.encoder, spec, {"amdim": self.loss}, {"amdim": 1.0}, SamplingOptions())
        options = TrainOptions(steps=1, batch=setting.batch, lr=LR, betas=[*BETAS], weight_decay=DECAY)
        self.stepper = Stepper(self.block.trained_parameters(), options, CPU)
        self.batch = Batch(tuple(setting.images()), {}, ("",) * setting.batch)
        self.last = torch.zeros(())

    def step(self) -> None:
        torch.manual_seed(2)
        with torch.no_grad():
            inputs = prepare(self.encoder, self.batch.views)
        output = self.block(inputs, self.batch)
        self.stepper.backward(output.total)
        self.stepper.step(LR)
        self.last = output.total.detach()


class PlainLayer(nn.Module):
    """A residual layer as it is described: the shortcut is always pooled, and padded with zero channels."""

    def __init__(self, channels: int, width: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride, self.added = kernel, stride, width - channels
        self.conv1 = nn.Conv2d(channels, width, kernel, stride, bias=False)
        self.conv2 = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.conv1(x), inplace=True)
        shortcut = F.avg_pool2d(x, self.kernel, self.stride)
        if self.added:
            shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, self.added))
        return self.conv2(hidden) + shortcut


class PlainEmbedding(nn.Module):
    """The network on a local map, of convolutions with a kernel of 1x1."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 1, bias=False)
        self.shortcut = nn.Conv2d(channels, width, 1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv2(F.relu(self.conv1(x), inplace=True)) + self.shortcut(x))
        return y


class PlainModel(nn.Module):
    """The encoder for 32 pixels and the three tasks."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        ndf, depth = setting.ndf, setting.depth
        shapes = [(ndf, ndf, 1, 1)]
        for given, width, kernel, stride in ((1, 2, 4, 2), (2, 4, 2, 2), (4, 4, 3, 1), (4, 4, 3, 1)):
            shapes.append((given * ndf, width * ndf, kernel, stride))
            shapes += [(width * ndf, width * ndf, 1, 1)] * (depth - 1)
        shapes.append((4 * ndf, setting.n_rkhs, 3, 1))
        self.stem = nn.Conv2d(3, ndf, 3)
        self.layers = nn.ModuleList(PlainLayer(*shape) for shape in shapes)
        self.norm = nn.BatchNorm2d(setting.n_rkhs)
        self.embeddings = nn.ModuleDict({grid: PlainEmbedding(4 * ndf, setting.n_rkhs) for grid in ("5", "7")})

    def load_ours(self, ours: Ours) -> None:
        """Take over all weights; they come in the same order."""
        networks = ours.loss.networks
        of_5, of_7 = (networks[f"map{task.target.index}"] for task in ours.loss.tasks[:2])
        theirs = [p for module in (ours.encoder, of_5, of_7) for p in module.parameters()]
        mine = [p for name in ("stem", "layers", "norm", "embeddings") for p in getattr(self, name).parameters()]
        with torch.no_grad():
            for own, other in zip(mine, theirs, strict=True):
                own.copy_(other.view_as(own))

    def maps(self, x: Tensor) -> dict[int, Tensor]:
        """The embedded maps by their grid: 1, 5 and 7."""
        mean, std = ((torch.tensor(v) / 255).view(3, 1, 1) for v in ((125.3, 123.0, 113.9), (63.0, 62.1, 66.7)))
        x = F.relu(self.stem((x - mean) / std), inplace=True)
        tapped = {}
        for layer in self.layers:
            x = layer(x)
            tapped[x.shape[-1]] = x
        return {1: self.norm(x)} | {int(grid): net(tapped[int(grid)]) for grid, net in self.embeddings.items()}

    def loss(self, views: list[Tensor]) -> Tensor:
        one, two = (self.maps(view) for view in views)
        sources = []
        for maps in (one, two):
            items = torch.arange(len(maps[5]))
            drawn = torch.randint(25, (len(items),))
            sources.append({1: maps[1].flatten(1), 5: maps[5].flatten(2)[items, :, drawn]})
        tasks = ((1, 5), (1, 7), (5, 5))
        return torch.stack([
            0.5 * (plain_nce(sources[0][source], two[target]) + plain_nce(sources[1][source], one[target]))
            for source, target in tasks
        ]).sum()  # fmt: skip


def plain_nce(source: Tensor, target: Tensor, clip: float = 20.0) -> Tensor:
    """Loss and penalty of one task in one direction, for ``(B, D)`` and ``(B, D, H, W)``: image after image."""
    items, width = source.shape
    scores = (source @ target.flatten(2).transpose(0, 1).flatten(1)).view(items, items, -1) / width**0.5
    penalty = 0.05 * scores.square().mean()
    scores = clip * torch.tanh(scores / clip)
    losses = []
    for item, row in enumerate(scores):  # (B, L)
        others = torch.cat([row[:item], row[item + 1 :]]).logsumexp((0, 1))
        losses.append(torch.logaddexp(row[item], others) - row[item])
    return penalty + torch.stack(losses).mean()


class Plain:
    """The paper's step."""

    def __init__(self, setting: Setting) -> None:
        self.model, self.views = PlainModel(setting), setting.images()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=LR, betas=BETAS, weight_decay=DECAY)
        self.last = torch.zeros(())

    def step(self) -> None:
        torch.manual_seed(2)
        loss = self.model.loss(self.views)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.last = loss.detach()


SIDES: dict[Side, Callable[[Setting], Ours | Plain]] = {"ours": Ours, "plain": Plain}


# --- measuring -------------------------------------------------------------------------------------------------------


def compare_steps(setting: Setting, pairs: int) -> dict[str, Any]:
    """Equal losses over some steps first, then time."""
    torch.set_num_threads(setting.threads)
    ours, plain = Ours(setting), Plain(setting)
    plain.model.load_ours(ours)
    apart = 0.0
    for _ in range(3):
        ours.step(), plain.step()
        apart = max(apart, float((ours.last - plain.last).abs() / plain.last))
    return {"losses_apart": apart, "time": compare(ours.step, plain.step, pairs)}


def step_memory(side: Side, setting: Setting) -> int:
    """Bytes at the peak of a step above what the process held before the model."""
    torch.set_num_threads(setting.threads)
    SIDES[side](Setting(2, 4, 16, 1, setting.threads)).step()  # the libraries that are loaded once are not the step's
    setting.images()
    before = resident_memory()
    made = SIDES[side](setting)
    made.step()  # there is an optimizer's state after it
    return peak_memory(made.step) - before


def memory_apart(side: Side, options: list[str]) -> int:
    """`step_memory` in a process of its own."""
    command = [sys.executable, __file__, "--memory", side, *options]
    handed_back = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}  # of glibc
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | handed_back)
    return int(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in asdict(Setting()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    parser.add_argument("--pairs", type=int, default=FEW_PAIRS)
    parser.add_argument("--memory", choices=["ours", "plain"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    setting = Setting(given.batch, given.ndf, given.n_rkhs, given.depth, given.threads)
    if given.memory:
        print(step_memory(given.memory, setting))
        return
    found = compare_steps(setting, given.pairs)
    memory = {side: memory_apart(side, sys.argv[1:]) for side in SIDES}
    print(table(found, memory))
    if setting == Setting():
        print("written:", write_result("amdim", {**asdict(setting), **found, "memory": memory}), file=sys.stderr)


def table(found: dict[str, Any], memory: dict[Side, int]) -> str:
    time = found["time"]
    header = ["ours", "plain", "times faster", "of processor time", "memory", "plain", "times less", "losses apart"]
    row = [
        f"{time.ours:.2f} s", f"{time.theirs:.2f} s", f"{time}", f"{time.processor:.2f}",
        f"{memory['ours'] / 2**20:.0f} MB", f"{memory['plain'] / 2**20:.0f} MB",
        f"{memory['plain'] / memory['ours']:.2f}", f"{found['losses_apart']:.0e}",
    ]  # fmt: skip
    return markdown(header, [row])


if __name__ == "__main__":
    main()
