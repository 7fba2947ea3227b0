"""The command line. The only place that catches what goes wrong and puts it in words.

Nothing heavy is imported here: the verbs' modules import only typer, and the rest when they are called.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated

import typer

from infomax_cli import __version__
from infomax_cli.commands.decode import decode
from infomax_cli.commands.doctor import doctor
from infomax_cli.commands.explain import explain
from infomax_cli.commands.plugins import plugins
from infomax_cli.commands.probe import probe
from infomax_cli.commands.recipes import recipes
from infomax_cli.commands.train import train
from infomax_cli.errors import InfomaxError, Interrupted

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"infomax {__version__}")
        raise typer.Exit


@app.callback()
def infomax(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Learn representations of speech and images by maximizing mutual information."""


# one line a verb, in the order of the help
app.command("train")(train)
app.command("probe")(probe)
app.command("decode")(decode)
app.command("explain")(explain)
app.command("plugins")(plugins)
app.add_typer(recipes, name="recipes")
app.command("doctor")(doctor)


def main() -> None:
    """Run the command line; every error becomes a line on stderr and an exit code."""
    try:
        app(args=sys.argv[1:] or ["--help"], prog_name="infomax")
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if os.environ.get("INFOMAX_DEBUG"):
            import traceback

            traceback.print_exc()
        sys.exit(_report(error))


def _report(error: Exception) -> int:
    """Say what went wrong; return the exit code."""
    from infomax_cli.console import print_error
    from infomax_cli.wording import describe_error

    if isinstance(error, InfomaxError):
        print_error(error.message, error.hint, "stopped" if isinstance(error, Interrupted) else "error")
        return error.exit_code
    if isinstance(error, OSError) and error.errno in _OS_HINTS:
        where = f": {error.filename}" if error.filename else ""
        print_error(f"{(error.strerror or describe_error(error)).lower()}{where}", _OS_HINTS[error.errno])
    elif isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, without importing it
        print_error(f"out of memory: {describe_error(error)}", "a smaller train.batch or data.crop needs less")
    else:
        from infomax_cli.registry import malformed

        spoilt = malformed()
        hint = f"{spoilt[0]} is malformed, which may be why: remove that distribution" if spoilt else _REPORT
        print_error(f"unexpected: {describe_error(error)}", hint)
    return 1


_REPORT = "INFOMAX_DEBUG=1 shows where; please report it"
_OS_HINTS = {
    errno.ENOSPC: "make room on that disk, or choose another folder",
    errno.EDQUOT: "make room in your quota, or choose another folder",
    errno.EACCES: "choose a folder that you may write in, or ask for the permission",
    errno.EPERM: "choose a folder that you may write in, or ask for the permission",
    errno.ENOTDIR: "part of that path is a file; choose another folder",
    errno.EROFS: "that disk cannot be written; choose another folder",
}
