"""``infomax data``: which datasets there are, and what one of them holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.table import Table

    from infomax_cli.core.api import Dataset
    from infomax_cli.core.holdings import Holdings

_MOST_CLASSES = 60  # a label of more is shown by how many it has
_MOST_PROBLEMS = 20  # JSON has them all


def data(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A dataset, or a run: the data it has.")] = None,
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Its options: data.subset=dev-clean.")
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Where data lies; else $INFOMAX_DATA.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Read every file to its end; name those that are bad.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw a sheet of examples, with their labels, as a PNG.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """List datasets and whether their files are there, or what one holds: items, hours, classes, what is corrupt.

    \b
    infomax data
    infomax data librispeech data.subset=dev-clean --check
    infomax data folder data.path=recordings --plot sheet.png
    """
    from infomax_cli.paths import chosen_root

    where = chosen_root(root)
    if name is None:
        _list(where, as_json=as_json)
        return
    from infomax_cli.console import messages, print_json
    from infomax_cli.core.holdings import take_stock
    from infomax_cli.progress import StageDisplay

    dataset, where = _find(name, changes or [], root)
    with StageDisplay(messages()) as display:
        holdings = take_stock(dataset, name, where, check=check, watch=display)
    if as_json:
        print_json({"dataset": name, "root": str(where), **holdings.to_dict()})
    else:
        _print(name, holdings)
    if plot is not None:
        from infomax_cli.core.sheet import draw_sheet

        draw_sheet(dataset, holdings.data, where, plot, f"{name}: examples of train")
        messages().print(f"wrote {plot}", soft_wrap=True, markup=False)
    if check and holdings.problems:
        raise typer.Exit(1)


def _find(name: str, changes: Sequence[str], root: Path | None) -> tuple[Dataset, Path]:
    """A dataset by its name, or that of a run, and where its files lie."""
    from infomax_cli import registry
    from infomax_cli.core.build import build_dataset, dataset_by_name, resolve
    from infomax_cli.errors import UsageError
    from infomax_cli.overrides import apply_overrides
    from infomax_cli.paths import chosen_root, runs_root
    from infomax_cli.recipe import parse
    from infomax_cli.runs import find_run

    changes = [change if change.startswith("data.") else f"data.{change}" for change in changes]
    known = [plugin.name for plugin in registry.available("datasets")]
    if name.rpartition(":")[2] in known:
        return dataset_by_name(name, changes, "data"), chosen_root(root)
    try:
        run = find_run(name, runs_root())
    except UsageError:
        from infomax_cli.wording import suggest

        raise UsageError(f"there is no dataset and no run {name!r}", suggest(name, known)) from None
    recipe = resolve(parse(apply_overrides(run.recipe().to_dict(), changes), str(run.recipe_file)))
    return build_dataset(recipe), chosen_root(root or (Path(recipe.root) if recipe.root else None))


# --- which there are -------------------------------------------------------------------------------------------------


def _list(root: Path, *, as_json: bool) -> None:
    """From metadata and folders alone."""
    from rich.table import Table

    from infomax_cli.console import messages, print_json, results
    from infomax_cli.fetching.listing import list_datasets

    rows = list_datasets(root)
    if as_json:
        print_json({"root": str(root), "datasets": rows})
        return
    table = Table("dataset", "from", "files", "what it is", box=None, pad_edge=False)
    for row in rows:
        table.add_row(row["dataset"], row["from"], _state(row), row["about"])
    results().print(table, markup=False)
    messages().print(
        f"data lies in {root} (INFOMAX_DATA or --root); `infomax data NAME` tells what a dataset holds",
        soft_wrap=True, markup=False,
    )  # fmt: skip


def _state(row: Mapping[str, Any]) -> str:
    from infomax_cli.wording import describe_bytes

    if row["state"] == "here":
        marks = {"damaged": " (damaged)", "incomplete": " (incomplete)"}
        there = [f"{name}{marks.get(state, '')}" for name, state in row["subsets"].items()]
        return "here" if there == ["all"] else f"here: {', '.join(there)}"
    if row["state"] == "not here":
        return f"{row['get']}" + (f" ({describe_bytes(row['size'])})" if row["size"] else "")
    words = {"embedded": "embedded: runs right now", "own": "yours", "unknown": f"infomax data {row['dataset']} tells"}
    return words[row["state"]]


# --- what one holds --------------------------------------------------------------------------------------------------


def _print(name: str, holdings: Holdings) -> None:
    from infomax_cli.console import messages, results

    console = results()
    place = "" if holdings.found_in is None else f" in {holdings.found_in}"
    console.print(f"{name}{place}: {_describe_items(holdings)}", soft_wrap=True, markup=False)
    console.print(_splits_table(holdings), markup=False)
    for label, spec in holdings.data.labels.items():
        if any(label in split.counts for split in holdings.splits.values()) and spec.classes <= _MOST_CLASSES:
            what = f"values every {spec.hop} samples" if spec.aligned else "items"
            console.print(f"\n{label}: {what} of each class", markup=False)
            console.print(_classes_table(label, holdings), markup=False)
    problems = holdings.problems
    for problem in problems[:_MOST_PROBLEMS]:
        console.print(f"bad: {problem}", soft_wrap=True, markup=False)
    if len(problems) > _MOST_PROBLEMS:
        console.print(f"and {len(problems) - _MOST_PROBLEMS} more, which --json lists", markup=False)
    checked = all(split.corrupt is not None for split in holdings.splits.values())
    if checked and not problems:
        messages().print("every item was read to its end, and is well")
    elif not checked:
        messages().print("nothing was decoded; --check reads every file to its end")


def _describe_items(holdings: Holdings) -> str:
    data = holdings.data
    if data.axes == ("time",) and data.rate:
        seconds = data.grid[0] / data.rate
        return f"sounds at {data.rate:,} Hz; a training item is {data.grid[0]:,} samples ({seconds:.2f} s)"
    return f"a training item is {data.channels} x {' x '.join(map(str, data.grid))} ({', '.join(data.axes)})"


def _splits_table(holdings: Holdings) -> Table:
    """One row a split: items, hours, the rates of its files, and how many classes of each label occur."""
    from rich.table import Table

    timed = holdings.data.rate is not None
    table = Table("split", box=None, pad_edge=False)
    for column in ("items", *(["hours"] if timed else []), *holdings.data.labels):
        table.add_column(column, justify="right")
    table.add_column("rates" if timed else "")
    table.add_column("corrupt", justify="right")
    for name, split in holdings.splits.items():
        hours = [] if not timed else ["?" if split.seconds is None else f"{split.seconds / 3600:.3f}"]
        classes = [_or_unknown(split.classes(label)) for label in holdings.data.labels]
        rates = ", ".join(f"{rate:,} Hz: {count:,}" for rate, count in split.rates.items())
        corrupt = "not checked" if split.corrupt is None else str(len(split.corrupt))
        table.add_row(name, f"{split.items:,}", *hours, *classes, rates, corrupt)
    return table


def _or_unknown(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def _classes_table(label: str, holdings: Holdings) -> Table:
    """One row a class: its items, or aligned values, in each split."""
    from rich.table import Table

    spec = holdings.data.labels[label]
    table = Table(label, box=None, pad_edge=False)
    splits = [split for split in holdings.splits.values() if label in split.counts]
    for name, split in holdings.splits.items():
        if label in split.counts:
            table.add_column(name, justify="right")
    for value in range(spec.classes):
        named = spec.names[value] if value < len(spec.names) else str(value)
        table.add_row(named, *(f"{split.counts[label][value]:,}" for split in splits))
    for row in _unknown_row(label, splits):
        table.add_row(*row, style="dim")
    return table


def _unknown_row(label: str, splits: Sequence[Any]) -> Iterator[list[str]]:
    if any(split.unknown.get(label) for split in splits):
        yield ["(unknown)", *(f"{split.unknown.get(label, 0):,}" for split in splits)]
