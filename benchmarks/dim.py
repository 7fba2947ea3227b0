"""The training step of Deep InfoMax beside the paper's step written plainly: time, peak memory, equal losses.

    python benchmarks/dim.py                            # basic32x32, batch 64, scoring networks of 2048 units: minutes
    python benchmarks/dim.py --batch 16 --units 256     # a quick look

Ours is the step of the trainer on noise: encoder and loss as plugins in a block, channels last, its own optimizer. The
plain one has the same layers in the order of the description, one backward pass, torch's Adam; its noise-contrastive
loss copies the scores of the negatives for every location, ``N x L x (1 + N L)`` logits. Timings are of pairs in turns,
in one process. Memory is that of a process of its own for each side: the peak during a step above what the process
held before there was a model, with freed memory handed back at once, so that holes in the heap do not count.
"""

from __future__ import annotations

import argparse
import json
import math
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
from infomax_cli.core.api import Batch, DataSpec, Features
from infomax_cli.core.blocks import Block, describe_blocks, partition, prepare
from infomax_cli.core.device import autocast
from infomax_cli.core.stepper import Stepper
from infomax_cli.recipe import SamplingOptions, TrainOptions

CPU = torch.device("cpu")
LR = 1e-4
SIZE = 32
Side = Literal["ours", "plain"]
Measure = Literal["nce", "jsd"]
MEASURES: tuple[Measure, ...] = ("nce", "jsd")


@dataclass(frozen=True)
class Setting:
    """What a step is of; `units` are those of the scoring networks."""

    batch: int = 64
    units: int = 2048
    threads: int = 1

    def images(self) -> Tensor:
        """``(B, 3, 32, 32)`` in [0, 1]."""
        return torch.rand(self.batch, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


class Ours:
    """One block, stepped as the trainer steps it."""

    def __init__(self, setting: Setting, measure: Measure) -> None:
        torch.manual_seed(0)
        self.encoder = registry.load("encoders", "dim_convnet")(config="basic32x32")
        self.encoder.to(memory_format=torch.channels_last)
        data = DataSpec(3, (SIZE, SIZE), ("height", "width"), None, {}, {"train": setting.batch})
        (spec,) = describe_blocks(self.encoder, partition(len(self.encoder.stages), "none"), data, views=1)
        self.loss = registry.load("losses", "local_dim")(spec, local_map="8x8", measure=measure, units=setting.units)
        self.block = Block(self.encoder, spec, {"local_dim": self.loss}, {"local_dim": 1.0}, SamplingOptions())
        self.options = TrainOptions(steps=1, batch=setting.batch, lr=LR)
        self.stepper = Stepper(self.block.trained_parameters(), self.options, CPU)
        self.batch = Batch((setting.images(),), {}, ("",) * setting.batch)
        self.last = torch.zeros(())

    def step(self) -> None:
        with torch.no_grad():
            inputs = prepare(self.encoder, self.batch.views)
        with autocast(CPU, self.options.amp):
            output = self.block(inputs, self.batch)
        assert output.total is not None
        self.stepper.backward(output.total)
        self.stepper.step(LR)
        self.last = output.total.detach()


# --- the paper's step ------------------------------------------------------------------------------------------------


class PlainScoring(nn.Module):
    """The network on a map: two 1x1 convolutions and a shortcut, then layer normalisation over channels."""

    def __init__(self, channels: int, units: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, units, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(units)
        self.conv2 = nn.Conv2d(units, units, 1)
        self.shortcut = nn.Conv2d(channels, units, 1, bias=False)
        self.norm = nn.LayerNorm(units)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.norm1(self.conv1(x)), inplace=True)) + self.shortcut(x)
        y = self.norm(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return y.flatten(2)  # (N, D, L)


class PlainModel(nn.Module):
    """The encoder for 32 pixels and the networks on its local map and its code."""

    def __init__(self, units: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels, width in ((3, 64), (64, 128), (128, 256)):
            conv = nn.Conv2d(channels, width, 4, 2, 1, bias=False)
            layers.append(nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)))
        self.convs = nn.ModuleList(layers)
        self.full = nn.Sequential(
            nn.Flatten(), nn.Linear(4096, 1024, bias=False), nn.BatchNorm1d(1024), nn.ReLU(inplace=True)
        )
        self.top = nn.Linear(1024, 64)
        self.on_local, self.on_global = PlainScoring(128, units), PlainScoring(64, units)

    def load_ours(self, ours: Ours) -> None:
        """Take over all weights; they come in the same order."""
        theirs = [p for module in (ours.encoder, ours.loss) for p in module.parameters()]
        with torch.no_grad():
            for own, other in zip(self.parameters(), theirs, strict=True):
                own.copy_(other.contiguous().view_as(own))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images to embedded locations ``(N, D, L)`` and globals ``(N, D, M)``."""
        x = (x - 0.5) / 0.5
        first = self.convs[0](x)
        local = self.convs[1](first)
        code = self.top(self.full(self.convs[2](local)))
        return self.on_local(local), self.on_global(code[:, :, None, None])


def plain_nce(local: Tensor, code: Tensor) -> Tensor:
    """Each location's own score among those of all locations of the other items, copied for it."""
    items, width, locations = local.shape
    globals_ = code.shape[2]
    positive = torch.matmul(local.transpose(1, 2), code).unsqueeze(2)  # (N, L, 1, M)
    flat_code = code.transpose(1, 2).reshape(-1, width)  # (N M, D)
    flat_local = local.transpose(1, 2).reshape(-1, width)  # (N L, D)
    negative = torch.mm(flat_code, flat_local.t()).view(items, globals_, items, locations).permute(0, 2, 3, 1)
    own = torch.eye(items, dtype=torch.bool).view(items, items, 1, 1)
    negative = negative.masked_fill(own, -math.inf).reshape(items, 1, items * locations, globals_)
    logits = torch.cat([positive, negative.expand(-1, locations, -1, -1)], 2)  # (N, L, 1 + N L, M)
    return -F.log_softmax(logits, 2)[:, :, 0].mean()


def plain_jsd(local: Tensor, code: Tensor) -> Tensor:
    """The mean of the negatives' term less that of the positives'."""
    items, width, locations = local.shape
    globals_ = code.shape[2]
    flat_code, flat_local = code.transpose(1, 2).reshape(-1, width), local.transpose(1, 2).reshape(-1, width)
    scores = torch.mm(flat_code, flat_local.t()).view(items, globals_, items, locations).transpose(1, 2)
    own = torch.eye(items)
    positive = (math.log(2) - F.softplus(-scores)).mean((2, 3))
    negative = (F.softplus(-scores) + scores - math.log(2)).mean((2, 3))
    return (negative * (1 - own)).sum() / (1 - own).sum() - (positive * own).sum() / own.sum()


PLAIN: dict[Measure, Callable[[Tensor, Tensor], Tensor]] = {"nce": plain_nce, "jsd": plain_jsd}


class Plain:
    """The paper's step."""

    def __init__(self, setting: Setting, measure: Measure) -> None:
        self.model, self.images, self.measure = PlainModel(setting.units), setting.images(), PLAIN[measure]
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=LR)
        self.last = torch.zeros(())

    def step(self) -> None:
        loss = self.measure(*self.model(self.images))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.last = loss.detach()


SIDES: dict[Side, Callable[[Setting, Measure], Ours | Plain]] = {"ours": Ours, "plain": Plain}


# --- measuring -------------------------------------------------------------------------------------------------------


def compare_losses(setting: Setting, measure: Measure, pairs: int) -> dict[str, Any]:
    """The loss alone with its gradient at embeddings ``(N, D, 8, 8)`` and ``(N, D, 1, 1)``: both must be equal."""
    torch.set_num_threads(setting.threads)
    random = torch.Generator().manual_seed(0)
    local, code = (
        F.layer_norm(torch.randn(setting.batch, side, side, setting.units, generator=random), (setting.units,))
        .movedim(3, 1)
        .requires_grad_()
        for side in (8, 1)
    )
    batch = Batch((), {}, ())
    judge = Ours(Setting(2, 4), measure).loss
    judge.local_net = judge.global_net = nn.Identity()
    features = Features(maps=(code, code, local, code, code, code), target=code)

    def ours() -> tuple[Tensor, ...]:
        value = judge([features], batch).terms["contrast"]
        return (value, *torch.autograd.grad(value, (local, code)))

    def plain() -> tuple[Tensor, ...]:
        value = PLAIN[measure](local.flatten(2), code.flatten(2))
        return (value, *torch.autograd.grad(value, (local, code)))

    apart = max(_apart(mine, its) for mine, its in zip(ours(), plain(), strict=True))
    return {"apart": apart, "time": compare(ours, plain, pairs)}


def _apart(one: Tensor, other: Tensor) -> float:
    return float(((one - other).abs().max() / other.abs().max()).detach())


def compare_steps(setting: Setting, measure: Measure, pairs: int) -> dict[str, Any]:
    """Equal losses first, also after two steps (Adam's first steps go by the signs of gradients), then time."""
    torch.set_num_threads(setting.threads)
    ours, plain = Ours(setting, measure), Plain(setting, measure)
    plain.model.load_ours(ours)
    apart = []
    for _ in range(3):
        ours.step(), plain.step()
        apart.append(_apart(ours.last, plain.last))
    return {"apart": apart[0], "apart_after_two": apart[2], "time": compare(ours.step, plain.step, pairs)}


def step_memory(side: Side, setting: Setting, measure: Measure) -> int:
    """Bytes at the peak of a step above what the process held before the model."""
    torch.set_num_threads(setting.threads)
    SIDES[side](Setting(2, 4), measure).step()  # the libraries that are loaded once are not the step's
    setting.images()
    before = resident_memory()
    made = SIDES[side](setting, measure)
    made.step()  # there is an optimizer's state after it
    return peak_memory(made.step) - before


def memory_apart(side: Side, setting: Setting, measure: Measure) -> int:
    """`step_memory` in a process of its own."""
    words = ["--memory", side, "--measures", measure, "--batch", setting.batch, "--units", setting.units]
    handed_back = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}  # of glibc
    command = [sys.executable, __file__, *map(str, words)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | handed_back)
    return int(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in asdict(Setting()).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--measures", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--pairs", type=int, default=FEW_PAIRS)
    parser.add_argument("--memory", choices=["ours", "plain"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    setting = Setting(given.batch, given.units, given.threads)
    if given.memory:
        print(step_memory(given.memory, setting, given.measures[0]))
        return
    found: dict[Measure, dict[str, Any]] = {}
    for measure in given.measures:
        found[measure] = {
            "loss": compare_losses(setting, measure, given.pairs),
            "step": compare_steps(setting, measure, given.pairs),
            "memory": {side: memory_apart(side, setting, measure) for side in SIDES},
        }
    print(table(found))
    if setting == Setting() and len(found) == len(MEASURES):
        print("written:", write_result("dim", {**asdict(setting), **found}), file=sys.stderr)


def table(found: dict[Measure, dict[str, Any]]) -> str:
    header = ["", "ours", "plain", "times faster", "of processor time", "memory", "plain", "apart"]
    rows = []
    for measure, of in found.items():
        for part in ("loss", "step"):
            time, memory = of[part]["time"], of["memory"] if part == "step" else {}
            megabytes = [f"{memory[side] / 2**20:.0f} MB" if memory else "" for side in SIDES]
            rows.append([
                f"{measure}, {part}", f"{time.ours:.2f} s", f"{time.theirs:.2f} s", f"{time}", f"{time.processor:.2f}",
                *megabytes, f"{of[part]['apart']:.0e}",
            ])  # fmt: skip
    return markdown(header, rows)


if __name__ == "__main__":
    main()
