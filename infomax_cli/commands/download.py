"""`infomax download`: a dataset's name in, its folders on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infomax_cli.errors import DataError, InfomaxError, PluginError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

    from infomax_cli.core.api import Dataset
    from infomax_cli.fetching.catalogue import Entry, Subset
    from infomax_cli.fetching.plan import Options

_STATES = {"absent": "", "whole": "here", "damaged": "damaged", "unmarked": "here, not checked",
           "incomplete": "incomplete"}  # fmt: skip
_DEEDS = {"nothing": "here already", "downloaded": "downloaded", "mended": "mended",
          "not checked": "here already; not from infomax, and not checked (--verify does)"}  # fmt: skip


def download(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A dataset (see --list), or a plugin's.")] = None,
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Options of a plugin's dataset: data.size=small.")
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="List what can be downloaded, and what is here.")] = False,
    subset: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only these, set apart by commas; or all.")
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Where data lies; else $INFOMAX_DATA.")] = None,
    mirror: Annotated[
        str | None, typer.Option(metavar="URL", help="Take all files from below this address instead.")
    ] = None,
    file: Annotated[
        list[Path] | None, typer.Option(help="A file of it that you have already; may be repeated.")
    ] = None,
    keep_archive: Annotated[bool, typer.Option("--keep-archive", help="Keep archives, in ROOT/archives.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read every file that is here, and mend it.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Files fetched at once.")] = 3,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for which a server may be silent.")] = 30.0,
    retries: Annotated[int, typer.Option(min=0, help="Attempts in a row that may bring nothing more.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Download a dataset, or what is missing of it: resumed, checked, there as a whole or not at all.

    \b
    infomax download --list
    infomax download librispeech --subset dev-clean,train-clean-100
    infomax download librispeech --verify
    """
    from infomax_cli.fetching.http import Patience
    from infomax_cli.fetching.plan import Options
    from infomax_cli.paths import chosen_root

    where = chosen_root(root)
    if listing:
        _list(where, as_json=as_json)
        return
    if name is None:
        raise UsageError("which dataset?", "`infomax download --list` lists them")
    if mirror is not None and not _is_address(mirror):
        raise UsageError(f"--mirror {mirror}: not an http address", "for files on this machine there is --file")
    entry = _find(name, changes or [])
    if isinstance(entry, PluginDownload):
        asked = {"--subset": subset, "--mirror": mirror, "--file": file, "--keep-archive": keep_archive,
                 "--verify": verify, "--dry-run": dry_run, "--json": as_json}  # fmt: skip
        if given := [option for option, value in asked.items() if value]:
            raise UsageError(f"{given[0]}: {name} downloads by itself, and knows no such option", "leave it out")
        entry.run(where)
        return
    options = Options(
        mirror=mirror,
        files=tuple(file or ()),
        keep_archive=keep_archive,
        verify=verify,
        jobs=jobs,
        patience=Patience(timeout=timeout, retries=retries),
    )
    subsets = _present(entry, where) if verify and not subset else entry.choose(subset or ())
    if dry_run:
        _describe(entry, subsets, where, options, as_json=as_json)
    else:
        _obtain(entry, subsets, where, options, as_json=as_json)


def _is_address(text: str) -> bool:
    """Whether it is one that can be asked for; whether anybody is there is another matter."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(text)
        named = bool(parts.hostname) and parts.port != 0  # reading the port judges it
    except ValueError:
        return False
    return named and parts.scheme in ("http", "https") and text.isascii() and text.isprintable() and " " not in text


def _present(entry: Entry, root: Path) -> Mapping[str, Subset]:
    """The subsets of which there is anything."""
    from infomax_cli.fetching.store import look

    found = {name: subset for name, subset in entry.subsets.items()
             if look(root / subset.folder, subset).state != "absent"}  # fmt: skip
    if not found:
        raise DataError(f"there is nothing of {entry.name} in {root} to verify", entry.how_to_get(root))
    return found


def _obtain(entry: Entry, subsets: Mapping[str, Subset], root: Path, options: Options, *, as_json: bool) -> None:
    from infomax_cli.console import messages, print_json, results
    from infomax_cli.fetching.listing import command_that_trains
    from infomax_cli.fetching.obtain import obtain

    done = obtain(entry.name, subsets, root, options)
    if as_json:
        print_json([{"subset": task.name, "folder": str(task.folder), "did": task.did} for task in done])
        return
    for task in done:
        results().print(f"{task.folder}: {_DEEDS[task.did]}", soft_wrap=True, markup=False)
    if command := command_that_trains(entry, root):
        messages().print(f"next: {command}", soft_wrap=True, markup=False)


# --- plugins ---------------------------------------------------------------------------------------------------------


class PluginDownload:
    """A plugin's own `download`, of which nothing is known."""

    def __init__(self, name: str, dataset: Dataset) -> None:
        self.name, self.dataset = name, dataset

    def run(self, root: Path) -> None:
        """It may raise anything and print what it likes."""
        from infomax_cli import registry
        from infomax_cli.console import messages
        from infomax_cli.wording import describe_error

        try:
            with registry.contained():
                self.dataset.download(root)
        except (InfomaxError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise PluginError(
                f"dataset {self.name}: its download failed: {describe_error(error)}", "INFOMAX_DEBUG=1 shows where"
            ) from error
        messages().print(f"{self.name} is ready to train on", soft_wrap=True, markup=False)


def _find(name: str, changes: Sequence[str]) -> Entry | PluginDownload:
    """Out of the catalogue; else what a plugin says that it consists of (see `Dataset`), else its own download."""
    from infomax_cli import registry
    from infomax_cli.fetching.catalogue import CATALOGUE, Entry, Subset
    from infomax_cli.wording import suggest

    if name in CATALOGUE:
        if changes:
            raise UsageError(f"{changes[0]}: {name} takes no options here", "say what to get of it with --subset")
        return CATALOGUE[name]
    known = [plugin.name for plugin in registry.available("datasets")]
    if name.rpartition(":")[2] not in known:
        raise UsageError(f"there is no dataset {name!r} to download", suggest(name, [*CATALOGUE, *known]))
    from infomax_cli.core.build import dataset_by_name

    dataset = dataset_by_name(name, changes)
    subsets = getattr(dataset, "downloads", None)
    if subsets is None:
        return PluginDownload(name, dataset)
    if not isinstance(subsets, dict) or not all(isinstance(subset, Subset) for subset in subsets.values()):
        raise PluginError(f"dataset {name}: its downloads are no dict of Subset", "tell its authors")
    return Entry(name=name, about=name, subsets=subsets)


# --- what there is ---------------------------------------------------------------------------------------------------


def _list(root: Path, *, as_json: bool) -> None:
    """All that is known without importing a plugin."""
    from infomax_cli.console import messages, print_json, results
    from infomax_cli.fetching.listing import list_catalogue, list_foreign

    rows, foreign = list_catalogue(root), list_foreign()
    if as_json:
        print_json({"root": str(root), "datasets": rows, "plugins": foreign})
        return
    results().print(_table(rows))
    for plugin in foreign:
        results().print(f"{plugin['dataset']}: brought by {plugin['distribution']}", markup=False)
    messages().print(
        f"data lies in {root}; `syllables` and `digits` are embedded: nothing to download", soft_wrap=True, markup=False
    )


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    from rich.table import Table

    from infomax_cli.wording import describe_bytes

    table = Table("dataset", "subset", box=None, pad_edge=False)
    table.add_column("download", justify="right")
    table.add_column("on disk", justify="right")
    table.add_column("here")
    table.add_column("what it is", overflow="fold")
    last = None
    for row in rows:
        again, last = row["dataset"] == last, row["dataset"]
        name, about = ("", "") if again else (row["dataset"], row["about"])
        sizes = [describe_bytes(row[key]) if row[key] else "?" for key in ("size", "unpacked")]
        table.add_row(name, row["subset"] or "", *sizes, _STATES[row["state"]], about)
    return table


def _describe(entry: Entry, subsets: Mapping[str, Subset], root: Path, options: Options, *, as_json: bool) -> None:
    """What a download would do."""
    from rich.table import Table

    from infomax_cli.console import print_json, results
    from infomax_cli.fetching.listing import describe_plan
    from infomax_cli.fetching.plan import describe_need, plan, require_room
    from infomax_cli.fetching.store import Store
    from infomax_cli.fetching.watch import Silence
    from infomax_cli.wording import describe_bytes

    store = Store(root, entry.name)
    tasks = plan(store, subsets, options, Silence())
    if as_json:
        print_json({"root": str(root), "subsets": describe_plan(tasks)})
    else:
        table = Table("folder", "state", "files", box=None, pad_edge=False)
        table.add_column("to download", justify="right")
        for task in tasks:
            size = f"{'' if task.exact else '> '}{describe_bytes(task.missing)}" if task.files else ""
            names = " ".join(file.name for file in task.files)
            table.add_row(str(task.folder), _STATES[task.condition.state] or "not here", names, size)
        results().print(table)
        results().print(describe_need(tasks, store), soft_wrap=True, markup=False)
    require_room(tasks, store)
