"""Runs that were never trained, with what there is to read of one."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tiny
from infomax_cli.runs import Run


def made_run(folder: Path, name: str, *, seed: int = 0, age: int = 0, recipe: str = "tiny") -> Run:
    """A run of four logged steps that was never trained: two blocks, whose losses are the seed plus a bit."""
    run = Run(folder / name)
    run.path.mkdir(parents=True)
    text = tiny.RECIPE.replace("train:   {", f"train:   {{seed: {seed}, ")
    run.recipe_file.write_text(f"name: {recipe}\n{text}")
    os.utime(run.recipe_file, (1e9 - age, 1e9 - age))
    lines: list[dict[str, Any]] = [
        {"step": 2, "train/block0/infonce": 3.0 + seed, "train/block1/infonce": 2.0, "train/block1/infonce/bound": 0.1},
        {"step": 4, "train/block0/infonce": 1.0 + seed, "train/block1/infonce": 1.5, "train/block1/infonce/bound": 0.3},
        {"step": 4, "validation/block0/infonce": 1.25 + seed, "validation/block1/infonce": None},
    ]
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def probed(run: Run, label: str, accuracies: Mapping[int, float], **changes: Any) -> None:
    """What a probe would have written."""
    scores = [{"source": "trained", "depth": d, "accuracy": a, "deviation": None} for d, a in accuracies.items()]
    scores += [{"source": "random", "depth": 0, "accuracy": 0.2, "deviation": None}]
    result = {
        "label": label, "aligned": True, "classifier": "linear", "protocol": "optimum", "pool": "label grid",
        "labels_per_class": None, "test_split": "test", "chance": 0.1, "scores": scores, "step": None, **changes,
    }  # fmt: skip
    file = run.path / "probes" / f"{label}-{len(list(run.path.glob('probes/*')))}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(result))
