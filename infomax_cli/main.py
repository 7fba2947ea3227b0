"""The command line. The only place that catches what goes wrong and puts it in words.

Nothing heavy is imported here: the verbs' modules import only typer, and the rest when they are called.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import Annotated, Any

import typer

from infomax_cli import __version__
from infomax_cli.commands.compare import compare
from infomax_cli.commands.data import data
from infomax_cli.commands.decode import decode
from infomax_cli.commands.doctor import doctor
from infomax_cli.commands.download import download
from infomax_cli.commands.embed import embed
from infomax_cli.commands.explain import explain
from infomax_cli.commands.export import export
from infomax_cli.commands.plugins import plugins
from infomax_cli.commands.probe import probe
from infomax_cli.commands.recipes import recipes
from infomax_cli.commands.runs import list_runs
from infomax_cli.commands.train import train
from infomax_cli.commands.tsne import tsne
from infomax_cli.commands.views import views
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
app.command("tsne")(tsne)
app.command("embed")(embed)
app.command("export")(export)
app.command("runs")(list_runs)
app.command("compare")(compare)
app.command("download")(download)
app.command("data")(data)
app.command("plugins")(plugins)
app.command("views")(views)
app.add_typer(recipes, name="recipes")
app.command("doctor")(doctor)


def main() -> None:
    """Run the command line; every error becomes a line on stderr and an exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever asks to stop, asks the same as Ctrl-C
    try:
        code = app(args=sys.argv[1:] or ["--help"], prog_name="infomax", standalone_mode=False)
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except BrokenPipeError:  # whoever read the output, `head` perhaps, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still to be flushed goes nowhere
        sys.exit(1)
    except Exception as error:
        if os.environ.get("INFOMAX_DEBUG"):
            import traceback

            traceback.print_exc()
        sys.exit(_report(error))
    if code == _INTERRUPTED:  # where a verb has more to say, it raises `Interrupted`
        _say_stopped()
    sys.exit(code if isinstance(code, int) else 0)  # an int where the command line was left early: --help, ^C


def _say_stopped() -> None:
    from infomax_cli.console import print_error

    print_error("by Ctrl-C or SIGTERM", label="stopped")


def _report(error: Exception) -> int:
    """Say what went wrong; return the exit code."""
    from infomax_cli.console import print_error
    from infomax_cli.wording import describe_error

    if isinstance(error, InfomaxError):
        print_error(error.message, error.hint, "stopped" if isinstance(error, Interrupted) else "error")
        return error.exit_code
    if hasattr(error, "format_message"):  # of the parser, whose classes move from one typer to the next
        print_error(*_words_of_parser(error))
        return 2
    if isinstance(error, OSError) and error.errno in _OS_HINTS:
        name = error.filename2 or error.filename  # of a file that was to take another's place the other
        where = f": {name}" if name else ""
        print_error(f"{(error.strerror or describe_error(error)).lower()}{where}", _OS_HINTS[error.errno])
    elif isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, without importing it
        print_error(f"out of memory: {describe_error(error)}", "a smaller train.batch or data.crop needs less")
    else:
        from infomax_cli.registry import malformed

        spoilt = malformed()
        hint = f"{spoilt[0]} is malformed, which may be why: remove that distribution" if spoilt else _REPORT
        print_error(f"unexpected: {describe_error(error)}", hint)
    return 1


def _words_of_parser(error: Any) -> tuple[str, str]:
    """A message and a hint for an option, an argument or a verb that does not exist or does not fit."""
    message = str(error.format_message()).strip().removesuffix(".")
    verb = getattr(getattr(error, "ctx", None), "command_path", "infomax")
    return message[:1].lower() + message[1:], f"{verb} --help tells what there is"


_INTERRUPTED = 130  # the exit code of what Ctrl-C ended, by custom
_REPORT = "INFOMAX_DEBUG=1 shows where; please report it"
_OS_HINTS = {
    errno.ENOSPC: "make room on that disk, or choose another folder",
    errno.EDQUOT: "make room in your quota, or choose another folder",
    errno.EACCES: "choose a folder that you may use, or ask for the permission",
    errno.EPERM: "choose a folder that you may use, or ask for the permission",
    errno.ENOTDIR: "part of that path is a file; choose another folder",
    errno.ENOENT: "it does not exist, or nothing can be made there; choose another place",
    errno.EEXIST: "a file is where a folder should be; choose another place",
    errno.EISDIR: "a folder is where a file should be; choose another place",
    errno.EROFS: "that disk cannot be written; choose another folder",
}
