"""`infomax compare`: runs side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from infomax_cli.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from infomax_cli.ledger import Entry

Justify = Literal["left", "right"]


def compare(
    names: Annotated[
        list[str], typer.Argument(metavar="RUN RUN...", help="Runs, each by its folder, its name or its recipe's name.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The picture; else compare.png where runs lie, its JSON beside it.")
    ] = None,
    runs: Annotated[Path | None, typer.Option(help="Where runs lie; else $INFOMAX_RUNS, else ./runs.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """See in what runs differ: recipes, losses, and probes by depth; with a picture.

    infomax compare gim-20260101-120000 cpc-20260101-130000
    """
    from infomax_cli.console import messages, print_json, print_table, results
    from infomax_cli.ledger import read_entry
    from infomax_cli.paths import runs_root
    from infomax_cli.runs import find_run

    folder = runs or runs_root()
    found = list({run.path.resolve(): run for run in (find_run(name, folder) for name in names)}.values())
    if len(found) < 2:
        raise UsageError(
            f"compare takes two runs or more{', and these are one' if len(names) > 1 else ''}",
            "`infomax runs` lists them",
        )
    entries = [read_entry(run) for run in found]
    titles = _titles(entries)
    plain = _plain(entries)
    if as_json:
        print_json(plain)
    else:
        for table in _tables(entries, titles):
            print_table(table)
            results().print()
    picture = out or folder / "compare.png"
    _write(entries, titles, plain, picture)
    messages().print(f"wrote {picture} and {picture.with_suffix('.json').name}", soft_wrap=True, markup=False)


def _titles(entries: Sequence[Entry]) -> list[str]:
    """The runs' names; their paths, where two are called alike."""
    names = [entry.run.name for entry in entries]
    return names if len(set(names)) == len(names) else [str(entry.run.path) for entry in entries]


def _write(entries: Sequence[Entry], titles: Sequence[str], plain: Any, picture: Path) -> None:
    from infomax_cli.core.comparison_plot import plot_comparison
    from infomax_cli.core.files import write_text

    if picture.suffix.lower() != ".png":
        raise UsageError(f"--out {picture}: the picture is a PNG", f"--out {picture.with_suffix('.png')}")
    try:
        write_text(picture.with_suffix(".json"), json.dumps(plain, indent=2, ensure_ascii=False) + "\n")
        plot_comparison(entries, titles, picture)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {picture}: {error.strerror or error}", "choose another place with --out"
        ) from error


def _tables(entries: Sequence[Entry], titles: Sequence[str]) -> list[Any]:
    from infomax_cli.ledger import same_probes

    tables = [_differences(entries, titles), _losses(entries, titles)]
    for (label, protocol), probed in same_probes(entries).items():
        table = _table(f"{label}: {protocol}, test accuracy in %", "depth", titles)
        for depth in sorted({depth for probe in probed.values() for depth in probe.depths}):
            table.add_row(str(depth), *(_percent(probed.get(place), depth) for place in range(len(entries))))
        for name in dict.fromkeys(name for probe in probed.values() for name in probe.beside):
            beside = [probed[place].beside.get(name) if place in probed else None for place in range(len(entries))]
            table.add_row(name, *("" if value is None else f"{100 * value:.1f}" for value in beside))
        tables.append(table)
    return tables


def _differences(entries: Sequence[Entry], titles: Sequence[str]) -> Any:
    """A row for each key in which the recipes differ, its values as they are written in a recipe."""
    from rich.text import Text

    from infomax_cli.dialect import inline
    from infomax_cli.ledger import recipe_differences

    found = recipe_differences(entries)
    if not found:
        return _table("recipes are equal", "key", titles)
    table = _table("recipes differ in (-: says nothing of it)", "key", titles, justify="left")
    for key, values in found.items():
        table.add_row(key, *(Text(inline(values[place])) if place in values else "-" for place in range(len(titles))))
    return table


def _losses(entries: Sequence[Entry], titles: Sequence[str]) -> Any:
    from infomax_cli.ledger import block_losses

    table = _table("losses, the last means", "", titles)
    table.add_row("steps", *(f"{entry.step:,}" for entry in entries))
    for stage in ("train", "validation"):
        by_run = [block_losses(entry.losses, stage) for entry in entries]
        for block in sorted({block for blocks in by_run for block in blocks}):
            last = [blocks[block][-1][1] if block in blocks else None for blocks in by_run]
            table.add_row(f"{stage}, block {block}", *_numbers(last))
        table.add_row(f"{stage}, all", *_numbers([entry.loss(stage) for entry in entries]))
    return table


def _table(title: str, first: str, titles: Sequence[str], justify: Justify = "right") -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, box=None)
    table.add_column(first)
    for name in titles:
        table.add_column(escape(name), justify=justify, overflow="fold")
    return table


def _numbers(values: Sequence[float | None]) -> list[str]:
    return ["" if value is None else f"{value:.4f}" for value in values]


def _percent(probe: Any, depth: int) -> str:
    if probe is None or depth not in probe.depths:
        return ""
    spread = f" ± {100 * probe.deviations[depth]:.1f}" if depth in probe.deviations else ""
    return f"{100 * probe.depths[depth]:.1f}{spread}"


def _plain(entries: Sequence[Entry]) -> dict[str, Any]:
    from infomax_cli.ledger import recipe_differences, same_probes

    paths = [str(entry.run.path) for entry in entries]
    return {
        "runs": paths,
        "differences": {
            key: {paths[place]: value for place, value in values.items()}
            for key, values in recipe_differences(entries).items()
        },
        "losses": {
            path: {"step": entry.step, **{stage: entry.loss(stage) for stage in ("train", "validation")}}
            for path, entry in zip(paths, entries, strict=True)
        },
        "probes": [
            {
                "label": label,
                "protocol": protocol,
                "runs": {
                    paths[place]: {"depths": dict(probe.depths), "beside": dict(probe.beside), "chance": probe.chance}
                    for place, probe in probed.items()
                },
            }
            for (label, protocol), probed in same_probes(entries).items()
        ],
    }
