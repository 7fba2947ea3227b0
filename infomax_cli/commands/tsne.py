"""`infomax tsne`: look at what a run has learned."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infomax_cli.commands.asking import RUN, depths_of, find_run_and_changes
from infomax_cli.errors import UsageError
from infomax_cli.wording import suggest

if TYPE_CHECKING:
    from infomax_cli.core.tsne import Seen

_METHODS = ("tsne", "umap", "pca")
_LEGEND = (
    "silhouette of the classes, from -1 to 1, in the standardised features and in the plane; purity: the share of a "
    "point's ten nearest that are of its class, in %"
)


def tsne(
    run: Annotated[str | None, typer.Argument(help=RUN)] = None,
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Changes to its data, such as data.path=/new/place.")
    ] = None,
    color: Annotated[str | None, typer.Option(help="The label that gives the colours; may be left out of one.")] = None,
    depth: Annotated[str, typer.Option(help="all, last, or a number.")] = "all",
    method: Annotated[str, typer.Option(help="tsne, umap (an extra) or pca.")] = "tsne",
    frames: Annotated[
        bool,
        typer.Option("--frames/--pooled", help="A point is a frame, or an item (of aligned labels a segment)."),
    ] = False,
    limit: Annotated[int, typer.Option(help="How many points at most.")] = 2000,
    fraction: Annotated[float, typer.Option(help="The share of the items that points are drawn from.")] = 1.0,
    perplexity: Annotated[float, typer.Option(help="Of t-SNE: about how many neighbours count.")] = 30.0,
    split: Annotated[
        str | None, typer.Option(help="The split whose items are shown; else that on which the label is probed.")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="random: the numbers of an encoder of fresh weights beside it.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws points and begins the embedding.")] = 0,
    step: Annotated[
        int | None, typer.Option(min=0, help="An older checkpoint, by its step, where train.keep kept it.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    root: Annotated[Path | None, typer.Option(help="Where the data lies, if not where the run found it.")] = None,
    runs: Annotated[Path | None, typer.Option(help="Where runs lie; else $INFOMAX_RUNS, else ./runs.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON on stdout.")] = False,
) -> None:
    """Bring features to the plane: a picture, a page to zoom into, filter and hear, and TensorBoard's projector.

    infomax tsne --color vowel        infomax tsne RUN --color speaker --depth last --baseline random
    """
    from infomax_cli.console import messages
    from infomax_cli.core.device import choose_device
    from infomax_cli.core.subject import load_subject
    from infomax_cli.core.tsne import TsneOptions, look, write_seen
    from infomax_cli.progress import StageDisplay

    options = TsneOptions(
        color=color, method=_one_of("--method", method, _METHODS), frames=frames, split=split, limit=limit,
        fraction=fraction, perplexity=perplexity, seed=seed,
    )  # fmt: skip
    if baseline is not None:
        _one_of("--baseline", baseline, ("random",))
    found, changes = find_run_and_changes(run, changes, runs)
    subject = load_subject(found, choose_device(device), root, step, changes)
    depths = depths_of(depth, len(subject.encoder.stages))
    _say(f"looking at {found.path}")
    with StageDisplay(messages()) as display:
        seen = look(subject, depths, options, display, baseline=baseline is not None)
    if seen.perplexity is not None and seen.perplexity < perplexity:
        points = len(seen.cloud.points)
        _say(f"note: perplexity {seen.perplexity:.3g} in place of {perplexity:g}: there are {points} points")
    _report(found.name, seen, as_json=as_json)
    files = write_seen(found, subject, seen)
    _say(
        f"wrote {files[0]} and {', '.join(file.name for file in files[1:])}; "
        f"tensorboard --logdir {found.path} has a projector"
    )


def _say(message: str) -> None:
    from infomax_cli.console import messages

    messages().print(message, soft_wrap=True, markup=False)


def _one_of(option: str, word: str, known: tuple[str, ...]) -> Any:
    if word not in known:
        raise UsageError(f"{option} {word}: not known", suggest(word, known))
    return word


def _report(name: str, seen: Seen, *, as_json: bool) -> None:
    from rich.table import Table

    from infomax_cli.console import print_json, print_table

    if as_json:
        print_json({"run": name, **seen.to_dict()})
        return
    count, unit = len(seen.cloud.points), seen.cloud.unit
    title = f"{seen.cloud.label}: {count:,} {unit}s of {seen.options.split}"
    table = Table(title=title, caption=_LEGEND, box=None)
    beside = seen.apart[0].untrained_silhouette is not None
    columns = ["depth", "dims", "silhouette", *(["untrained"] if beside else []), "in the plane", "purity"]
    for column in [*columns, *(["untrained"] if beside else [])]:
        table.add_column(column, justify="left" if column == "depth" else "right")
    for apart in seen.apart:
        fresh = [f"{apart.untrained_silhouette:.3f}"] if apart.untrained_silhouette is not None else []
        pure = [f"{100 * apart.untrained_purity:.1f}"] if apart.untrained_purity is not None else []
        numbers = [f"{apart.silhouette:.3f}", *fresh, f"{apart.plane_silhouette:.3f}", f"{100 * apart.purity:.1f}"]
        table.add_row(str(apart.depth), str(apart.dims), *numbers, *pure)
    print_table(table)
