"""What a step costs: Greedy InfoMax beside CPC, against length, batch, width and blocks; and block-by-block training.

    python benchmarks/cost.py

Writes ``benchmarks/results/cost.json`` and the picture ``benchmarks/results/cost.png``. One thread, fp32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from measure import RESULTS, compare, markdown, own_memory, peak_own_memory, write_result
from step import Ours, Setting, memory_apart
from torch import nn

from infomax_cli.core.build import build, resolve
from infomax_cli.core.trainer import Trainer
from infomax_cli.overrides import apply_overrides
from infomax_cli.recipe import parse, read_recipe
from infomax_cli.recipe_files import find_recipe
from infomax_cli.runs import Run, new_run

CPU = torch.device("cpu")
MB = 2**20
SMALL = Setting(channels=128)  # what one thing at a time is varied of
CURVES: Mapping[str, Sequence[int]] = {
    "samples": (5120, 10240, 20480, 40960),
    "batch": (2, 4, 8, 16, 32),
    "channels": (64, 128, 256, 512),
    "splits": (1, 2, 3, 4, 5, 6),
}
BATCHES = (1, 2, 4, 8, 16, 32)


# --- Greedy InfoMax beside CPC ----------------------------------------------------------------------------------------


def gim_beside_cpc(pairs: int) -> dict[str, Any]:
    """Time of a step of either at batch 8, and memory against the batch: in all, and above what is held."""
    torch.set_num_threads(1)
    gim, cpc = Ours(Setting()), Ours(Setting(splits=1))
    found: dict[str, Any] = {"cpc_over_gim": compare(gim.step, cpc.step, pairs), "memory": []}
    del gim, cpc
    for batch in BATCHES:
        row = {"batch": batch}
        for name, splits in (("gim", 6), ("cpc", 1)):
            row |= {
                f"{name}_{key}": value for key, value in memory_apart("ours", Setting(batch, splits=splits)).items()
            }
        found["memory"].append(row)
    return found


# --- one thing at a time ----------------------------------------------------------------------------------------------


def curves(repeats: int = 3) -> dict[str, list[dict[str, float]]]:
    """Seconds and bytes of a step, with one of length, batch, width and blocks varied."""
    return {what: [_cost(what, value, repeats) for value in values] for what, values in CURVES.items()}


def _cost(what: str, value: int, repeats: int) -> dict[str, float]:
    setting = replace(SMALL, **{what: value})  # type: ignore[arg-type]
    made = Ours(setting)
    made.step()
    seconds = []
    for _ in range(repeats):
        began = time.process_time()
        made.step()
        seconds.append(time.process_time() - began)
    return {"value": value, "seconds": statistics.median(seconds), **memory_apart("ours", setting)}


def plot(found: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    titles = {"samples": "samples of a crop", "batch": "batch", "channels": "channels", "splits": "blocks"}
    for place, (what, rows) in enumerate(found.items()):
        x = [row["value"] for row in rows]
        for line, (values, unit) in enumerate(
            (([row["seconds"] for row in rows], "CPU s a step"), ([row["above"] / MB for row in rows], "MB above"))
        ):
            axes = figure.add_subplot(2, 4, 4 * line + place + 1)
            axes.plot(x, values, marker="o", color=("#0072b2", "#d55e00")[line])
            axes.set(xlim=(0, None), ylim=(0, None), xlabel=titles[what])
            axes.grid(alpha=0.3)
            if place == 0:
                axes.set_ylabel(unit)
    shape = f"{SMALL.channels} channels, batch {SMALL.batch}, {SMALL.samples} samples, {SMALL.splits} blocks"
    figure.suptitle(f"A step of Greedy InfoMax: {shape}, but for what is varied")
    figure.savefig(path, dpi=110)


# --- joint, or block by block -----------------------------------------------------------------------------------------

WAYS = ("joint", "block by block", "block by block, cached")


def train_as(way: str, steps: int) -> dict[str, float]:
    """Train all six blocks, of width 256, for `steps` each, all at once or one after the other: seconds, and the peak
    above what the process held before, the mapped pages of a cache not counted."""
    torch.set_num_threads(1)
    nn.Conv1d(1, 8, 3)(torch.zeros(1, 1, 64)).sum().backward()  # what torch sets up once is not the training's
    with tempfile.TemporaryDirectory() as folder:
        _trainer(1)  # so is the corpus
        before, began = own_memory(), time.process_time()
        peak = peak_own_memory(lambda: _train(way, steps, Path(folder)))
        return {"seconds": time.process_time() - began, "peak": peak - before}


def _train(way: str, steps: int, folder: Path) -> None:
    if way == "joint":
        _trainer(steps).train(new_run(folder, "joint"), _Nobody())
        return
    source: Run | None = None
    for block in range(6):
        cached = f"train.cache={str(block > 0 and way.endswith('cached')).lower()}"
        trainer = _trainer(steps, f"train.block={block}", "train.crops=1", cached)
        if source is not None:
            trainer.start_from(source)
        source = new_run(folder, f"block{block}")
        trainer.train(source, _Nobody())


def _trainer(steps: int, *changes: str) -> Trainer:
    overrides = [
        "data={name: syllables, crop: 20480, speakers: 2, words: 32}",
        "encoder.channels=256",
        f"train={{steps: {steps}, batch: 8, lr: 2e-4, workers: 0, save_every: {steps}, validate_every: {steps}}}",
        *changes,
    ]
    raw = apply_overrides(read_recipe(find_recipe("gim")), overrides)
    return Trainer(build(resolve(parse(raw, "gim")), CPU), CPU)


class _Nobody:
    def preparing(self, what: str, done: int, total: int) -> None: ...

    def note(self, text: str) -> None: ...

    def progress(self, step: int) -> None: ...

    def metrics(self, step: int, values: Mapping[str, float]) -> None: ...


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60, help="of each block, joint and block by block")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        print(json.dumps(train_as(given.way, given.steps)))
        return
    torch.set_num_threads(1)
    result: dict[str, Any] = {"curves": curves()}
    plot(result["curves"], RESULTS / "cost.png")
    result["gim_and_cpc"] = gim_beside_cpc(given.pairs)
    result["ways"] = {way: _apart(way, given.steps) for way in WAYS}
    print(tables(result))
    print("written:", write_result("cost", result), file=sys.stderr)


def _apart(way: str, steps: int) -> dict[str, float]:
    words = [sys.executable, __file__, "--way", way, "--steps", str(steps)]
    found: dict[str, float] = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return found


def tables(result: Mapping[str, Any]) -> str:
    beside = result["gim_and_cpc"]
    memory = [
        [str(row["batch"]), *(f"{row[key] / MB:.0f}" for key in ("gim_above", "cpc_above", "gim_total", "cpc_total"))]
        for row in beside["memory"]
    ]
    ways = [[way, f"{row['seconds']:.0f} s", f"{row['peak'] / MB:.0f} MB"] for way, row in result["ways"].items()]
    return "\n\n".join([
        f"A step of CPC takes {beside['cpc_over_gim']} times that of Greedy InfoMax.",
        markdown(["batch", "GIM, MB above", "CPC, MB above", "GIM, MB in all", "CPC, MB in all"], memory),
        markdown(["training", "CPU time", "peak memory"], ways),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
