"""The training step beside the papers' step written plainly (plain.py): time, peak memory, equal losses.

    python benchmarks/step.py                    # the table: batch 8 and 32, one thread and two, fp32, bf16
    python benchmarks/step.py --channels 64      # a quick look

Ours is the step of `infomax train gim`: the trainer itself, on one batch of noise. Timings are of pairs in turns, in
one process. Memory is that of a process of its own for each side: the peak during a step above what the process held
before there was a model, less parameters, optimizer state and gradients (of ours only the largest block's gradients,
since it never holds more).
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Literal

import torch
from measure import FEW_PAIRS, compare, has_bf16, markdown, matrix_speed, peak_memory, resident_memory, write_result
from plain import PlainModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from infomax_cli.core.api import Batch, derive_seed
from infomax_cli.core.build import build, resolve
from infomax_cli.core.trainer import Trainer
from infomax_cli.overrides import apply_overrides
from infomax_cli.recipe import parse, read_recipe
from infomax_cli.recipe_files import find_recipe

CPU = torch.device("cpu")
Amp = Literal["none", "bf16"]
LR = 2e-4


@dataclass(frozen=True)
class Setting:
    """What a step is of. `splits` are the blocks that the six stages are cut into."""

    batch: int = 8
    samples: int = 20480
    channels: int = 512
    splits: int = 6
    amp: Amp = "none"

    def sound(self) -> Tensor:
        """Noise as loud as speech, ``(B, 1, T)``."""
        return 0.063 * torch.randn(self.batch, 1, self.samples, generator=torch.Generator().manual_seed(1))


class Ours:
    """The trainer of recipe `gim`, stepping on one batch."""

    def __init__(self, setting: Setting, *changes: str) -> None:
        raw = read_recipe(find_recipe("gim"))
        overrides = [
            f"data={{name: syllables, crop: {setting.samples}, speakers: 2, words: 16}}",
            f"encoder.channels={setting.channels}",
            f"cut={_CUTS[setting.splits]}",
            f"train={{steps: 1000000, batch: {setting.batch}, lr: {LR}, amp: {setting.amp}, workers: 0}}",
            *changes,
        ]
        self.trainer = Trainer(build(resolve(parse(apply_overrides(raw, overrides), "gim")), CPU), CPU)
        self.batch = Batch((setting.sound(),), {}, ("",) * setting.batch)

    def step(self) -> None:
        self.trainer.train_on(self.batch)
        self.trainer.step += 1

    def losses(self) -> list[float]:
        """Of the steps since they were last asked for, their mean a block."""
        return [value for name, value in self.trainer.meter.read().items() if name.endswith("/infonce")]

    def plain(self, setting: Setting) -> Plain:
        """The plain model with the same weights."""
        model = PlainModel(setting.channels, greedy=setting.splits == 6)
        predictors = [block.losses["infonce"].predictors for block in self.trainer.blocks]
        model.load_ours(self.trainer.experiment.encoder, predictors)  # type: ignore[arg-type]
        return Plain(model, setting, self.trainer.options.seed)

    def held(self) -> int:
        """Bytes of parameters, optimizer state, and the gradients of the largest block."""
        blocks = [block.trained_parameters() for block in self.trainer.blocks if block.is_trained]
        states = sum(_optimizer_bytes(stepper.optimizer) for stepper in self.trainer.steppers.values())
        return _bytes(itertools.chain(*blocks)) + states + max(map(_bytes, blocks))


class Plain:
    """The papers' step: all losses summed, one backward pass, one Adam."""

    def __init__(self, model: PlainModel, setting: Setting, seed: int) -> None:
        self.model, self.amp, self.seed = model, setting.amp, seed
        self.sound, self.number = setting.sound(), 0
        self.optimizer = torch.optim.Adam(model.parameters(), lr=LR)
        self.last: list[float] = []

    def step(self) -> None:
        seeds = [derive_seed(self.seed, "train", self.number, block, 0) for block in range(6)]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.amp == "bf16"):
            losses = self.model.losses(self.sound, seeds)
        self.optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        self.optimizer.step()
        self.number += 1
        self.last = [float(loss.detach()) for loss in losses]

    def losses(self) -> list[float]:
        return self.last

    def held(self) -> int:
        parameters = list(self.model.parameters())
        return 2 * _bytes(parameters) + _optimizer_bytes(self.optimizer)


_CUTS = {1: "none", 2: "[2]", 3: "[1,3]", 4: "[0,1,3]", 5: "[0,1,2,3]", 6: "each"}


def _bytes(parameters: Any) -> int:
    return sum(parameter.nbytes for parameter in parameters)


def _optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    return sum(part.nbytes for state in optimizer.state.values() for part in state.values() if part.dim())


# --- measuring -------------------------------------------------------------------------------------------------------


def compare_steps(setting: Setting, threads: int, pairs: int) -> dict[str, Any]:
    """Ours against the plain step: equal losses first, then time."""
    torch.set_num_threads(threads)
    ours = Ours(setting)
    plain = ours.plain(setting)
    ours.step(), plain.step()
    apart = max(abs(a - b) for a, b in zip(ours.losses(), plain.losses(), strict=True))
    return {"losses_apart": apart, "time": compare(ours.step, plain.step, pairs)}


def step_memory(side: Literal["ours", "plain"], setting: Setting) -> dict[str, int]:
    """Bytes above what the process held before the model, at the peak of a step: in all, and above what is held."""
    torch.set_num_threads(1)
    nn.Conv1d(1, 8, 3)(torch.zeros(1, 1, 64)).sum().backward()  # what torch sets up once is not the step's
    setting.sound()
    before = resident_memory()
    made: Ours | Plain = Ours(setting) if side == "ours" else Plain(
        PlainModel(setting.channels, greedy=setting.splits == 6), setting, 0
    )  # fmt: skip
    made.step()  # there is an optimizer's state after it
    peak = peak_memory(made.step) - before
    return {"total": peak, "above": peak - made.held()}


@functools.cache
def memory_apart(side: Literal["ours", "plain"], setting: Setting) -> dict[str, int]:
    """`step_memory` in a process of its own."""
    words = [
        "--memory", side, "--batches", setting.batch, "--samples", setting.samples,
        "--channels", setting.channels, "--splits", setting.splits, "--amps", setting.amp,
    ]  # fmt: skip
    done = subprocess.run([sys.executable, __file__, *map(str, words)], check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, int] = json.loads(done.stdout)
    return found


def arithmetic(setting: Setting) -> int:
    """Floating-point operations that a step cannot do without: those of the convolutions, the GRU and the predictions,
    forward and backward, and of the scores of the negatives that are read."""
    small = Setting(1, setting.samples, setting.channels, setting.splits)
    ours = Ours(small)
    with FlopCounterMode(display=False) as counter:
        ours.step()
    return counter.get_total_flops() * setting.batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--amps", nargs="+", default=["none", "bf16"] if has_bf16() else ["none"])
    parser.add_argument("--samples", type=int, default=20480)
    parser.add_argument("--channels", type=int, default=512)
    parser.add_argument("--splits", type=int, default=6)
    parser.add_argument("--pairs", type=int, default=FEW_PAIRS)
    parser.add_argument("--memory", choices=["ours", "plain"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    sizes = (given.samples, given.channels, given.splits)
    settings = [Setting(batch, *sizes, amp) for amp in given.amps for batch in given.batches]
    if given.memory:
        print(json.dumps(step_memory(given.memory, settings[0])))
        return
    measured = [_measure(setting, threads, given.pairs) for setting in settings for threads in given.threads]
    print(table(measured))
    if given.channels == 512:
        print("written:", write_result("step", {"steps": measured}), file=sys.stderr)


def _measure(setting: Setting, threads: int, pairs: int) -> dict[str, Any]:
    print(f"batch {setting.batch}, {setting.amp}, {threads} threads", file=sys.stderr)
    found = {"batch": setting.batch, "amp": setting.amp, "threads": threads, **compare_steps(setting, threads, pairs)}
    found["share_of_matrix_speed"] = arithmetic(setting) / found["time"].ours / matrix_speed(threads)
    return found | {"memory": {"ours": memory_apart("ours", setting), "plain": memory_apart("plain", setting)}}


def table(measured: list[dict[str, Any]]) -> str:
    rows = []
    for row in measured:
        time, memory = row["time"], row["memory"]
        ours, plain = memory["ours"], memory["plain"]
        rows.append([
            str(row["batch"]), {"none": "fp32"}.get(row["amp"], row["amp"]), str(row["threads"]),
            f"{time.ours:.2f} s", f"{time.theirs:.2f} s", f"{time}", f"{100 * row['share_of_matrix_speed']:.0f} %",
            f"{ours['above'] / 2**20:.0f} MB", f"{plain['above'] / 2**20:.0f} MB",
            f"{plain['above'] / ours['above']:.1f}", f"{row['losses_apart']:.0e}",
        ])  # fmt: skip
    header = ["batch", "", "threads", "ours", "plain", "times faster", "of matrix speed"]
    header += ["memory", "plain", "times less", "losses apart"]
    return markdown(header, rows)


if __name__ == "__main__":
    main()
