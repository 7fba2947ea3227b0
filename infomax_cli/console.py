"""Results go to stdout, messages to stderr. rich is imported when something is printed, not before."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

UNBOUNDED = 10_000  # columns: where nobody looks through a window, a table is as wide as what it holds


def results() -> Console:
    """The console for results. Piped or written to a file, nothing is wrapped or cut off."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else UNBOUNDED)


def print_table(table: Table) -> None:
    """A table on stdout. Its title and its caption stand on lines of their own: within it they would be broken at its
    width, however narrow that is."""
    console, title, caption = results(), table.title, table.caption
    table.title = table.caption = None
    for part, style in ((title, "italic"), (table, None), (caption, "dim italic")):
        if part:
            console.print(part, style=style, soft_wrap=part is not table, markup=False)


def messages() -> Console:
    """The console for messages and progress."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def print_json(data: Any) -> None:
    """`data` as JSON on stdout, and nothing else."""
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_error(message: str, hint: str | None = None, label: str = "error") -> None:
    """One line on stderr, ``error: message``, and below it ``hint: ...``; unwrapped, so that paths can be copied."""
    from rich.text import Text

    console = messages()
    console.print(Text.assemble((f"{label}: ", "bold red"), message), soft_wrap=True)
    if hint:
        console.print(Text.assemble(("hint: ", "bold cyan"), hint), soft_wrap=True)
