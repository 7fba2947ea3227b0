"""What runs left to read: losses by step, and what probes found. No torch, and nothing of the data."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infomax_cli.recipe import SECTIONS, Recipe
from infomax_cli.runs import Run
from infomax_cli.wording import count_of

Curve = tuple[tuple[int, float], ...]  # (step, value), by step


@dataclass(frozen=True)
class Probed:
    """The accuracies that one probe found, by `depth` of the trained encoder; shares in [0, 1].

    `protocol` says in words how: two probes whose label and protocol are equal may be compared. `beside` holds the best
    accuracy of each baseline, `chance` that of naming the commonest class, `deviations` the spreads over repeats.
    """

    label: str
    protocol: str
    depths: Mapping[int, float]
    deviations: Mapping[int, float]
    beside: Mapping[str, float]
    chance: float

    @property
    def best(self) -> tuple[int, float]:
        """The depth that tells most, and what it tells."""
        return max(self.depths.items(), key=lambda found: found[1])


@dataclass(frozen=True)
class Entry:
    """A run in words and numbers. `losses` are curves by name (``train/block0/infonce``), `total` the step that it is
    to end at, where its recipe says so."""

    run: Run
    recipe: Recipe
    began: float
    losses: Mapping[str, Curve]
    probes: tuple[Probed, ...]

    @property
    def step(self) -> int:
        """The last step that was logged."""
        return max((curve[-1][0] for curve in self.losses.values()), default=0)

    @property
    def total(self) -> int | None:
        return self.recipe.train.steps

    def loss(self, stage: str) -> float | None:
        """What was minimised in ``train`` or ``validation``, the last mean, summed over blocks; None where nothing was
        logged."""
        blocks = block_losses(self.losses, stage)
        return math.fsum(curve[-1][1] for curve in blocks.values()) if blocks else None

    def best(self, label: str) -> tuple[int, float] | None:
        """The best depth for a label over all that probed it with every label, and its accuracy."""
        found = [probe.best for probe in self.probes if probe.label == label]
        return max(found, key=lambda best: best[1]) if found else None


def read_entry(run: Run) -> Entry:
    """Raises `RecipeError` where the run's recipe cannot be read; what else is damaged is left out."""
    recipe = run.recipe()
    return Entry(run, recipe, run.recipe_file.stat().st_mtime, read_losses(run.metrics), tuple(read_probes(run)))


def read_losses(metrics: Path) -> dict[str, Curve]:
    """Every number in ``metrics.jsonl``, by name. A line that was cut off, as by a crash, is left out."""
    curves: dict[str, list[tuple[int, float]]] = {}
    with contextlib.suppress(OSError):
        for line in metrics.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                values = json.loads(line)
                step = int(values.pop("step"))
            except (ValueError, KeyError, AttributeError, TypeError):
                continue
            for name, value in values.items():
                if isinstance(value, int | float):
                    curves.setdefault(name, []).append((step, float(value)))
    return {name: tuple(curve) for name, curve in curves.items()}


def read_probes(run: Run) -> Iterator[Probed]:
    """What probes of the newest encoder found, in the order of their files' names; not those of older checkpoints."""
    for path in sorted((run.path / "probes").glob("*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # not ours, or damaged
            found = json.loads(path.read_text(encoding="utf-8"))
            if found.get("step") is None and (probed := _probed(found)).depths:
                yield probed


def _probed(found: Mapping[str, Any]) -> Probed:
    trained = [score for score in found["scores"] if score["source"] == "trained"]
    beside: dict[str, float] = {}
    for score in found["scores"]:
        if score["source"] != "trained":
            name = {"random": "untrained"}.get(score["source"], score["source"])
            beside[name] = max(beside.get(name, 0.0), float(score["accuracy"]))
    return Probed(
        label=str(found["label"]),
        protocol=_protocol(found),
        depths={int(score["depth"]): float(score["accuracy"]) for score in trained},
        deviations={int(s["depth"]): float(s["deviation"]) for s in trained if s["deviation"] is not None},
        beside=beside,
        chance=float(found["chance"]),
    )


def _protocol(found: Mapping[str, Any]) -> str:
    """How it was probed, in words."""
    words = [found["classifier"]]
    words += [] if found["protocol"] == "optimum" else [f"protocol {found['protocol']}"]
    words += [] if found["aligned"] else [f"pool {found['pool']}"]
    words += [f"{count_of(found['labels_per_class'], 'label')} a class"] if found["labels_per_class"] else []
    words += [f"{count_of(found['draws'], 'draw')} an item"] if found.get("draws") else []
    words += [f"on {found['test_split']}{' of ' + found['data'] if found.get('data') else ''}"]
    return ", ".join(words)


def block_losses(losses: Mapping[str, Curve], stage: str) -> dict[int, Curve]:
    """What each block minimised: its total where that was logged, else its only term."""
    found: dict[int, Curve] = {}
    for name, curve in losses.items():
        parts = name.split("/")
        if len(parts) == 3 and parts[0] == stage and parts[1].removeprefix("block").isdecimal():
            block = int(parts[1].removeprefix("block"))
            if parts[2] == "total" or block not in found:
                found[block] = curve
    return dict(sorted(found.items()))


def labels_of(entries: Sequence[Entry]) -> list[str]:
    """Every label that was probed in any of them, in order of first appearance."""
    return list(dict.fromkeys(probe.label for entry in entries for probe in entry.probes))


def same_probes(entries: Sequence[Entry]) -> dict[tuple[str, str], dict[int, Probed]]:
    """What may be compared, by label and protocol: the probes, by the place of their run among `entries`."""
    found: dict[tuple[str, str], dict[int, Probed]] = {}
    for place, entry in enumerate(entries):
        for probe in entry.probes:
            found.setdefault((probe.label, probe.protocol), {})[place] = probe
    return found


def recipe_differences(entries: Sequence[Entry]) -> dict[str, dict[int, Any]]:
    """The dotted keys in which the recipes differ, with the value in each that has one, by its place in `entries`."""
    found: dict[str, dict[int, Any]] = {}
    for place, entry in enumerate(entries):
        for key, value in settings(entry.recipe.to_dict()):
            found.setdefault(key, {})[place] = value
    found.pop("name")
    first = {key: next(iter(values.values())) for key, values in found.items()}
    return {
        key: values
        for key, values in sorted(found.items(), key=lambda found: SECTIONS.index(found[0].partition(".")[0]))
        if len(values) < len(entries) or any(value != first[key] for value in values.values())
    }


def settings(plain: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """What a recipe says, by dotted key: of mappings, and of lists of them, every part."""
    parts = dict(enumerate(plain)) if isinstance(plain, list) and any(isinstance(p, dict) for p in plain) else plain
    if not isinstance(parts, dict) or not parts:
        yield where, plain
        return
    for key, value in parts.items():
        yield from settings(value, f"{where}.{key}" if where else str(key))


def every_setting(plain: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """As `settings`, but whole sections and lists too, and of a list of one mapping its parts without a number as well:
    ``loss``, ``loss.0``, ``loss.0.steps`` and ``loss.steps``."""
    if where:
        yield where, plain
    alone = isinstance(plain, list) and len(plain) == 1 and isinstance(plain[0], dict)
    for parts in (dict(enumerate(plain)) if isinstance(plain, list) else plain, plain[0] if alone else None):
        for key, value in parts.items() if isinstance(parts, dict) else ():
            yield from every_setting(value, f"{where}.{key}" if where else str(key))
