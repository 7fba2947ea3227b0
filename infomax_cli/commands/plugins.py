"""``infomax plugins``: what is installed, and whether it works."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rich.table import Table

    from infomax_cli.registry import BrokenEntry, Plugin

    Verdicts = Mapping[Plugin, str | None]


def plugins(
    only: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME", help="Only these: names of plugins (then with their options), of distributions or of kinds."
        ),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Import each one, in an interpreter of its own.")] = False,
    time_limit: Annotated[float, typer.Option(min=0.1, help="Seconds that --check gives each plugin.")] = 120.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List encoders, losses and datasets, and where they come from; --check tries them."""
    from dataclasses import asdict

    from infomax_cli import registry
    from infomax_cli.console import print_json, results

    inventory = registry.inventory()
    plural: Mapping[str, str] = {word: kind for kind, word in registry.SINGULAR.items()}
    only = [plural.get(word, word) for word in only or []]
    chosen = _choose(inventory.plugins, inventory.broken, only)
    verdicts = _check(chosen, time_limit) if check else {}
    broken = [b for b in inventory.broken if not only or {b.name, b.distribution} & set(only)]
    if as_json:
        listed = [{**asdict(p), "checked": p in verdicts, "problem": verdicts.get(p)} for p in chosen]
        print_json({"plugins": listed, "broken": [asdict(entry) for entry in broken]})
    else:
        results().print(_table(chosen, verdicts, broken))
        for plugin in chosen:
            if {plugin.name, plugin.qualified} & set(only):
                _describe(plugin)
        _explain(chosen)
    if check and (broken or any(verdicts.values())):
        raise typer.Exit(1)


def _choose(plugins: Sequence[Plugin], broken: Sequence[BrokenEntry], only: Sequence[str]) -> list[Plugin]:
    from infomax_cli.errors import UsageError
    from infomax_cli.wording import suggest

    known = {word for p in plugins for word in (p.name, p.distribution, p.kind)}
    known |= {word for b in broken for word in (b.name, b.distribution) if word}
    wanted = set(only)
    for word in sorted(wanted - known - {p.qualified for p in plugins}):
        raise UsageError(f"there is no plugin, distribution or kind {word!r}", suggest(word, sorted(known)))
    return [p for p in plugins if not only or wanted & {p.name, p.distribution, p.kind, p.qualified}]


def _check(plugins: Sequence[Plugin], limit: float) -> Verdicts:
    from infomax_cli.checks import check_plugins
    from infomax_cli.console import messages

    usable = [plugin for plugin in plugins if plugin.status != "off"]
    with messages().status(f"importing {len(usable)} plugins"):
        return dict(check_plugins(usable, limit=limit))


def _table(plugins: Sequence[Plugin], verdicts: Verdicts, broken: Sequence[BrokenEntry]) -> Table:
    from rich.table import Table
    from rich.text import Text

    from infomax_cli.registry import SINGULAR

    table = Table(title_justify="left")
    for column in ("kind", "name", "from", "target", "status"):
        table.add_column(column, overflow="fold")
    for p in plugins:
        status = Text(p.status, style="" if p.status in ("built-in", "plugin") else "yellow")
        if p in verdicts:
            problem = verdicts[p]
            status = Text.assemble(status, ", ", (f"broken: {problem}", "red") if problem else ("works", "green"))
        table.add_row(SINGULAR[p.kind], p.name, f"{p.distribution} {p.version or '?'}", p.target, status)
    singular = {f"infomax.{kind}": word for kind, word in SINGULAR.items()} | {"infomax.recipes": "recipes"}
    for entry in broken:
        kind, where = singular.get(entry.group or "", ""), f"{entry.distribution} {entry.version or '?'}"
        table.add_row(kind, entry.name or "(all)", where, "", Text(f"broken: {entry.reason}", style="red"))
    return table


def _describe(plugin: Plugin) -> None:
    """What a plugin's class says of itself, and the options that a recipe may give it."""
    import inspect

    from infomax_cli import registry
    from infomax_cli.console import results

    loaded, console = registry.load_plugin(plugin), results()
    console.print(f"\n{inspect.getdoc(loaded) or plugin}", markup=False)
    table = options_table(loaded, plugin.name, skip=1 if plugin.kind == "losses" else 0)
    if table.row_count:
        console.print(table, markup=False)


def options_table(factory: Callable[..., Any], name: str, *, skip: int = 0) -> Table:
    """What a recipe may give a constructor, whose first `skip` parameters are not its business."""
    from rich.table import Table

    from infomax_cli.binding import describe_type, keyword_types, options_of

    hints = keyword_types(factory)
    table = Table("option", "takes", "default", box=None, title=f"options of {name}", title_justify="left")
    for key, option in options_of(factory, skip=skip).items():
        default = "(must be given)" if option.default is option.empty else str(option.default)
        table.add_row(key, describe_type(hints[key]) if key in hints else "", default)
    return table


def _explain(plugins: Sequence[Plugin]) -> None:
    """Say on stderr what the statuses that are not plain sailing mean."""
    from infomax_cli import registry
    from infomax_cli.console import messages

    console = messages()
    for name in registry.unknown_allowed():
        console.print(f"INFOMAX_PLUGINS lists {name}, which is not installed", markup=False, soft_wrap=True)
    for p in plugins:
        if p.status == "shadowed":
            console.print(f"{p}: a built-in has that name; pick it as {p.qualified}", markup=False, soft_wrap=True)
        elif p.status == "ambiguous":
            console.print(f"{p}: others have that name too; pick it as {p.qualified}", markup=False, soft_wrap=True)
        elif p.status == "off":
            console.print(f"{p}: switched off by INFOMAX_PLUGINS", markup=False, soft_wrap=True)
