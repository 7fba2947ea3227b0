"""`infomax runs`: what has been trained, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infomax_cli.errors import RecipeError, UsageError
from infomax_cli.wording import suggest

if TYPE_CHECKING:
    from infomax_cli.ledger import Entry

_FIELDS: Mapping[str, Callable[[Entry], Any]] = {
    "began": lambda entry: entry.began,
    "name": lambda entry: entry.run.name,
    "recipe": lambda entry: entry.recipe.name,
    "step": lambda entry: entry.step,
}


def list_runs(
    where: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Only runs whose recipe says so: name=gim, name=gim*, data.name=syllables, train.seed=1.",
        ),
    ] = None,
    sort: Annotated[
        str, typer.Option(help="began, name, recipe, step, loss, or a label that was probed: the best last.")
    ] = "began",
    runs: Annotated[Path | None, typer.Option(help="Where runs lie; else $INFOMAX_RUNS, else ./runs.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """List runs: recipe, steps, losses and the best depth's accuracy for every label that was probed.

    infomax runs        infomax runs name=gim train.seed=0 --sort phone
    """
    from infomax_cli.console import messages, print_json, print_table
    from infomax_cli.paths import runs_root

    folder = runs or runs_root()
    conditions = [_condition(text) for text in where or ()]
    entries, unreadable = _read(folder)
    for path, reason in unreadable:
        messages().print(f"note: {path} is left out: {reason}", soft_wrap=True, markup=False)
    found = _that_meet(conditions, _sorted(entries, sort) if entries else [])
    if as_json:
        print_json([_plain(entry) for entry in found])
    elif found:
        print_table(_table(found))
    elif entries:
        raise _none_meets(conditions, entries, folder)
    else:
        raise UsageError(f"{folder} holds no run", "train one first: infomax train gim-syllables")


def _read(folder: Path) -> tuple[list[Entry], list[tuple[Path, str]]]:
    """The runs, and those that cannot be read, with the reason."""
    from infomax_cli.ledger import read_entry
    from infomax_cli.runs import all_runs

    found, unreadable = [], []
    for run in all_runs(folder):
        try:
            found.append(read_entry(run))
        except (RecipeError, OSError) as error:
            unreadable.append((run.path, str(error)))
    return found, unreadable


# --- which ones ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Condition:
    """``KEY=VALUE`` of a recipe. A word may be a pattern: ``name=gim*``."""

    key: str
    text: str

    @property
    def value(self) -> Any:
        from infomax_cli.dialect import parse_yaml

        try:
            return parse_yaml(self.text, self.key)
        except RecipeError:  # a pattern may be no YAML
            return self.text

    def meets(self, settings: Mapping[str, Any]) -> bool:
        if self.key not in settings:
            return False
        found = settings[self.key]
        return bool(found == self.value) or (isinstance(found, str) and fnmatchcase(found, self.text))


def _condition(text: str) -> _Condition:
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise UsageError(f"{text}: not a condition", "for example name=gim or train.seed=0")
    return _Condition(key.strip(), value)


def _that_meet(conditions: Sequence[_Condition], entries: Sequence[Entry]) -> list[Entry]:
    """Raises `UsageError` where no run's recipe has the key of a condition."""
    settings = [_settings(entry) for entry in entries]
    known = list(dict.fromkeys(key for own in settings for key in own))
    for condition in conditions if entries else ():
        if condition.key not in known:
            longer = [key for key in known if key.endswith(f".{condition.key}")]
            hint = f"did you mean {longer[0]}?" if longer else suggest(condition.key, known)
            raise UsageError(f"{condition.key}: no run's recipe says anything of it", hint)
    return [
        entry
        for entry, own in zip(entries, settings, strict=True)
        if all(condition.meets(own) for condition in conditions)
    ]


def _none_meets(conditions: Sequence[_Condition], entries: Sequence[Entry], folder: Path) -> UsageError:
    """Says what the first condition that no run meets by itself might have been."""
    from infomax_cli.dialect import inline

    settings = [_settings(entry) for entry in entries]
    which = " ".join(f"{condition.key}={condition.text}" for condition in conditions)
    alone = [c for c in conditions if not any(c.meets(own) for own in settings)]
    hint = "each is met by some run, but never all by one"
    if alone:
        key = alone[0].key
        values = sorted({inline(own[key]) for own in settings if key in own})
        hint = suggest(alone[0].text, values, f"{key}=") or ""
    return UsageError(f"none of the {len(entries)} runs in {folder} has {which}", hint)


def _settings(entry: Entry) -> dict[str, Any]:
    from infomax_cli.ledger import every_setting

    return dict(every_setting(entry.recipe.to_dict()))


def _sorted(entries: list[Entry], by: str) -> list[Entry]:
    from infomax_cli.ledger import labels_of

    if by in _FIELDS:
        return sorted(entries, key=_FIELDS[by])
    if by == "loss":
        return sorted(entries, key=lambda entry: -(_shown_loss(entry) or 0.0))
    labels = labels_of(entries)
    if by not in labels:
        raise UsageError(f"--sort {by}: nothing to sort by", suggest(by, [*_FIELDS, "loss", *labels]))
    return sorted(entries, key=lambda entry: (entry.best(by) or (0, -1.0))[1])


def _shown_loss(entry: Entry) -> float | None:
    """On held-out items where there are such."""
    return entry.loss("validation") if entry.loss("validation") is not None else entry.loss("train")


def _table(entries: Sequence[Entry]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    from infomax_cli.ledger import labels_of

    labels = labels_of(entries)
    caption = "loss: all blocks together, the last mean"
    caption += "; a label: best accuracy in %, @ its depth" if labels else ""
    table = Table(box=None, caption=caption)
    for column in ("run", "recipe", "data", "began", "step", "train loss", "validation", *labels):
        table.add_column(column, justify="left" if column in ("run", "recipe", "data", "began") else "right")
    for entry in entries:
        steps = f"{entry.step:,}" + (f"/{entry.total:,}" if entry.total and entry.total != entry.step else "")
        losses = [entry.loss(stage) for stage in ("train", "validation")]
        bests = [entry.best(label) for label in labels]
        table.add_row(
            escape(entry.run.name),
            escape(entry.recipe.name),
            escape(entry.recipe.data.name),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.began)),
            steps,
            *("" if loss is None else f"{loss:.5g}" for loss in losses),
            *("" if best is None else f"{100 * best[1]:.1f} @{best[0]}" for best in bests),
        )
    return table


def _plain(entry: Entry) -> dict[str, Any]:
    from infomax_cli.ledger import labels_of

    return {
        "run": str(entry.run.path),
        "recipe": entry.recipe.name,
        "data": entry.recipe.data.name,
        "began": entry.began,
        "step": entry.step,
        "steps": entry.total,
        "losses": {stage: entry.loss(stage) for stage in ("train", "validation")},
        "best": {
            label: {"depth": best[0], "accuracy": best[1]}
            for label in labels_of([entry])
            if (best := entry.best(label)) is not None
        },
    }
