"""The model card of a run, ``<run>/README.md``: what the encoder is, what it learned from, what it knows, and how to
use it and make it again. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from infomax_cli import __version__
from infomax_cli.core.files import write_text
from infomax_cli.ledger import Entry, Probed, read_entry
from infomax_cli.runs import Run
from infomax_cli.wording import count_of, describe_input

FACTS = "data.json"  # what the data held when training began, as `infomax data --json` tells it


def write_card(run: Run) -> Path:
    """Write the card anew from what lies in the run. Raises `OSError` where it cannot be written."""
    card = run.path / "README.md"
    write_text(card, card_of(read_entry(run), _facts(run)))
    return card


def _facts(run: Run) -> Mapping[str, Any]:
    try:
        found = json.loads((run.path / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # an older run, or damaged
        return {}
    return found if isinstance(found, dict) else {}


def card_of(entry: Entry, facts: Mapping[str, Any]) -> str:
    """Markdown."""
    recipe = entry.recipe
    losses = ", ".join(f"`{loss.name}`" for loss in recipe.losses)
    lines = [
        f"# {entry.run.name}",
        "",
        f"An encoder, `{recipe.encoder.name}`, trained with infomax {__version__} by the recipe `{recipe.name}`: "
        f"loss {losses}; cut: {recipe.cut}.",
        "",
        "## Data",
        "",
        *_data(entry, facts),
        "",
        "## Training",
        "",
        *_training(entry),
        "",
        "## What it knows",
        "",
        *_scores(entry),
        "## Use it",
        "",
        "```python",
        "from infomax_cli import load",
        "",
        f'encoder = load("{entry.run.name}")  # this folder',
        f"features = encoder({_input(facts)}",
        "```",
        "",
        "`infomax embed`, `infomax export`, `infomax probe` and `infomax tsne` take this folder too.",
        "",
        "## Make it again",
        "",
        "From the folder that this one lies in (`--runs` says where the new run goes):",
        "",
        "```sh",
        f"infomax train {entry.run.name}/recipe.yaml",
        "```",
        "",
        "On the same machine and with the same versions it comes out the same, bit for bit. The recipe:",
        "",
        "```yaml",
        recipe.to_yaml().rstrip(),
        "```",
        "",
    ]
    return "\n".join(lines)


def _data(entry: Entry, facts: Mapping[str, Any]) -> Iterator[str]:
    data = entry.recipe.data
    subset = f", {data.options['subset']}" if data.options.get("subset") else ""
    rate = f", {facts['rate']:,} samples a second" if facts.get("rate") else ""
    yield f"`{data.name}`{subset}{rate}."
    splits = facts.get("splits") or {}
    if not splits:
        return
    long = any(split.get("seconds") for split in splits.values())  # images are not
    yield ""
    yield f"| split | items |{' hours |' if long else ''}"
    yield f"|---|---:|{'---:|' if long else ''}"
    for name, split in splits.items():
        hours = f"{split['seconds'] / 3600:.2f}" if split.get("seconds") else ""
        yield f"| {name} | {split.get('items', 0):,} |{f' {hours} |' if long else ''}"


def _input(facts: Mapping[str, Any]) -> str:
    """What is given to a loaded encoder, and the end of the line."""
    if facts.get("rate", True):
        return "samples, sample_rate)"
    return f"images)  # {describe_input(facts['channels'], facts['grid'], None)}"


def _training(entry: Entry) -> Iterator[str]:
    train = entry.recipe.train
    length = f" of {entry.total:,}" if entry.total not in (None, entry.step) else ""
    items = count_of(train.batch * train.accumulate, "item")
    yield f"{entry.step:,}{length} steps of {items}, {train.optimizer} at {train.lr:g}, seed {train.seed}."
    if train.init is not None:
        yield ""
        yield f"It began with the encoder of `{Path(train.init).name}`."
    for stage, words in (("train", "on training items"), ("validation", "on held-out items")):
        if (loss := entry.loss(stage)) is not None:
            yield ""
            yield f"Loss of all blocks together, the last mean {words}: {loss:.4f}."


def _scores(entry: Entry) -> Iterator[str]:
    if not entry.probes:
        yield "Nothing has been probed yet: `infomax probe` adds its scores here."
        yield ""
    for probe in entry.probes:
        yield from _score(probe)


def _score(probe: Probed) -> Iterator[str]:
    yield f"**{probe.label}**, {probe.protocol}; the encoder frozen, chance {100 * probe.chance:.1f} %:"
    yield ""
    yield "| depth | test accuracy (%) |"
    yield "|---|---:|"
    for depth, accuracy in sorted(probe.depths.items()):
        spread = f" ± {100 * probe.deviations[depth]:.1f}" if depth in probe.deviations else ""
        yield f"| {depth} | {100 * accuracy:.1f}{spread} |"
    for name, accuracy in probe.beside.items():
        best = ", best depth" if name == "untrained" else ""
        yield f"| {name}{best} | {100 * accuracy:.1f} |"
    yield ""
