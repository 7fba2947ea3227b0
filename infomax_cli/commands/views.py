"""``infomax views``: the augmentations that a recipe's section `views` may name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table


def views(
    only: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Only these, with their options.")] = None,
) -> None:
    """List the augmentations that views are made by, and the published sets of them."""
    import inspect

    from infomax_cli.commands.plugins import options_table
    from infomax_cli.console import results
    from infomax_cli.core.augment import AUGMENTATIONS, PUBLISHED

    console, names = results(), [*AUGMENTATIONS, *PUBLISHED]
    if not only:
        console.print(_table(names))
        return
    _refuse_unknown(only, names)
    for name in only:
        if name in PUBLISHED:
            console.print(_table([name]))
            continue
        console.print(f"{name}: {inspect.getdoc(AUGMENTATIONS[name])}", markup=False)
        console.print(options_table(AUGMENTATIONS[name], name, skip=1), markup=False)


def _refuse_unknown(only: Sequence[str], names: Sequence[str]) -> None:
    from infomax_cli.errors import UsageError
    from infomax_cli.wording import suggest

    for name in only:
        if name not in names:
            raise UsageError(f"there is no augmentation {name!r}", suggest(name, names))


def _table(names: Sequence[str]) -> Table:
    from rich.table import Table
    from rich.text import Text

    from infomax_cli.core.augment import AUGMENTATIONS, PUBLISHED

    table = Table()
    for column in ("name", "for", "about"):
        table.add_column(column, overflow="fold", no_wrap=column != "about")
    for name in names:
        if name in PUBLISHED:
            table.add_row(name, "images", Text(str(PUBLISHED[name])))
        else:
            kind = AUGMENTATIONS[name]
            table.add_row(name, kind.medium or "any", Text(_first_sentence(kind.__doc__ or "")))
    return table


def _first_sentence(text: str) -> str:
    sentence, stop, _ = " ".join(text.split()).partition(". ")
    return sentence + stop.rstrip()
