"""`infomax decode`: what a run's latents sound like, depth by depth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from infomax_cli.commands.asking import RUN, depths_of, find_run_and_changes
from infomax_cli.errors import Interrupted, UsageError

if TYPE_CHECKING:
    from infomax_cli.core.decode import Decoding, Judged
    from infomax_cli.core.exhibition import Row
    from infomax_cli.runs import Run


def decode(
    run: Annotated[str | None, typer.Argument(help=RUN)] = None,
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Changes to its data, such as data.path=/new/place.")
    ] = None,
    depth: Annotated[str, typer.Option(help="all, last, or a number.")] = "all",
    sample: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Decode N draws of latents, frame by frame.")
    ] = None,
    draws: Annotated[
        str | None,
        typer.Option(help="Whence --sample draws: prior, N(0, I), by default; or fitted, the units' Gaussian."),
    ] = None,
    interpolate: Annotated[
        tuple[str, str] | None, typer.Option(metavar="A B", help="Walk between two test items, by number or id.")
    ] = None,
    traverse: Annotated[
        int | None, typer.Option(min=0, metavar="DIM", help="Sweep one dimension of an item's latents.")
    ] = None,
    item: Annotated[str | None, typer.Option(help="The test item that --traverse starts from; else the first.")] = None,
    items: Annotated[int, typer.Option(min=1, help="Test items to reconstruct and hear.")] = 4,
    judged_on: Annotated[
        int, typer.Option("--judged-on", min=1, help="Test crops over which errors are measured.")
    ] = 64,
    points: Annotated[int, typer.Option(min=2, help="Sounds of --interpolate and --traverse.")] = 7,
    loss: Annotated[
        str | None,
        typer.Option(
            help="Of sound: stft (by default), mse, spectral, fft, mel; of images: mse (by default), l1, ms-ssim. Or a "
            "sum: mse+mel."
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of a decoder.")] = 500,
    batch: Annotated[int, typer.Option(min=1, help="Crops of a step.")] = 8,
    lr: Annotated[float, typer.Option(help="Adam's learning rate; it ends at zero.")] = 1e-3,
    width: Annotated[int, typer.Option(min=1, help="Channels of a decoder.")] = 128,
    seed: Annotated[int, typer.Option(help="Draws weights, crops and samples.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    root: Annotated[Path | None, typer.Option(help="Where the data lies, if not where the run found it.")] = None,
    runs: Annotated[Path | None, typer.Option(help="Where runs lie; else $INFOMAX_RUNS, else ./runs.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Train a decoder for each depth of a frozen encoder, then hear what its latents hold.

    \b
    infomax decode                        reconstructions of every depth, and how good they are
    infomax decode --depth 4 --sample 8   draws from N(0, I); --draws fitted: from the features' own Gaussian
    infomax decode --depth 4 --interpolate 0 1
    infomax decode --depth 4 --traverse 17
    """
    from infomax_cli.core.decode import DecodeOptions, Decoding
    from infomax_cli.core.device import choose_device
    from infomax_cli.core.subject import load_subject

    _check(sample, draws, interpolate, traverse, item)
    found, changes = find_run_and_changes(run, changes, runs)
    subject = load_subject(found, choose_device(device), root, changes=changes)
    depths = depths_of(depth, len(subject.encoder.stages))
    options = DecodeOptions(loss=loss, steps=steps, batch=batch, lr=lr, width=width, seed=seed)
    decoding = Decoding(subject, depths, options)
    if traverse is not None:
        decoding.check_unit(traverse, depths)
    # what is asked about is read before minutes of training, not after
    if sample is not None:
        chosen = []
    elif interpolate is None and traverse is None:
        chosen = decoding.items(items)
    else:
        chosen = [decoding.item(name) for name in (interpolate or (item or "0",))]
    if interpolate is not None and chosen[0].id == chosen[1].id:
        raise UsageError(f"--interpolate {' '.join(interpolate)}: there is nothing between an item and itself")
    have_decoders(found, decoding)
    if sample is not None:
        _sample(found, decoding, sample, "fitted" if draws == "fitted" else "prior", as_json=as_json)
    elif interpolate is not None:
        _interpolate(found, decoding, chosen, points, as_json=as_json)
    elif traverse is not None:
        _traverse(found, decoding, chosen[0], traverse, points, as_json=as_json)
    else:
        _reconstruct(found, decoding, chosen, judged_on, as_json=as_json)


def _check(
    sample: int | None,
    draws: str | None,
    interpolate: tuple[str, str] | None,
    traverse: int | None,
    item: str | None,
) -> None:
    """Raise `UsageError` where options contradict one another."""
    if draws not in (None, "prior", "fitted"):
        raise UsageError(f"--draws {draws}: not known", "prior or fitted")
    if draws is not None and sample is None:
        raise UsageError(f"--draws {draws} is for --sample", "say how many: --sample 8")
    if item is not None and traverse is None:
        raise UsageError(f"--item {item} is for --traverse", "which dimension? --traverse 0 (--items N reconstructs N)")
    asked = [
        name
        for name, given in (("sample", sample), ("interpolate", interpolate), ("traverse", traverse))
        if given is not None
    ]
    if len(asked) > 1:
        raise UsageError(f"--{' and --'.join(asked)}: one at a time", "the decoders are kept: ask again for the other")


def have_decoders(run: Run, decoding: Decoding) -> None:
    """Train those that are missing; TensorBoard sees how. An interruption says what it leaves."""
    import contextlib
    import functools

    from infomax_cli.console import messages
    from infomax_cli.core.logbook import open_board
    from infomax_cli.progress import StageDisplay

    console = messages()
    console.print(f"decoding {run.path}", soft_wrap=True, markup=False)

    try:
        with contextlib.ExitStack() as stack:
            board = functools.cache(lambda: stack.enter_context(open_board(run)))  # where there is a step to log

            def log(step: int, losses: dict[str, float]) -> None:
                for name, value in losses.items():
                    board().add_scalar(name, value, step)

            display = stack.enter_context(StageDisplay(console))
            trained = decoding.load_or_train(run, display, log)
    except KeyboardInterrupt as stop:
        whole = ", ".join(map(str, decoding.kept))
        if not whole:
            raise Interrupted("before a decoder was trained", "the same command begins anew") from stop
        raise Interrupted(
            f"decoders of depth {whole} are kept in {run.path / 'decode'}", "the same command goes on with the rest"
        ) from stop
    if trained:
        named = ", ".join(map(str, trained))
        console.print(f"decoders of depth {named} are kept in {run.path / 'decode'}", soft_wrap=True, markup=False)


def _reconstruct(run: Run, decoding: Decoding, items: Sequence[Any], judged_on: int, *, as_json: bool) -> None:
    import json

    from infomax_cli.console import messages, print_table
    from infomax_cli.core.exhibition import Piece, Row, count_clipped
    from infomax_cli.core.files import write_text
    from infomax_cli.progress import StageDisplay

    with StageDisplay(messages()) as display:
        judged = decoding.judge(judged_on, display)
    rows = []
    for number, item in enumerate(items):
        original, made = decoding.reconstruct(item)
        pieces = [Piece("original", f"original-{number}", original)]
        pieces += [Piece(f"depth {depth}", f"depth{depth}-{number}", content) for depth, content in made.items()]
        rows.append(Row(item.id, pieces))
    folder = _folder(run, decoding, "reconstructions")
    table = [row.to_dict() for row in judged]
    kept = {"run": run.name, "depths": table, "clipped": count_clipped(rows, decoding.medium)}
    write_text(folder / "errors.json", json.dumps(kept, indent=2) + "\n")
    if not as_json:
        print_table(_table(judged, decoding))
    title = f"{run.name}: reconstructions"
    _write(run, decoding, folder, "reconstructions", title, rows, {"depths": table}, as_json=as_json)


def _sample(run: Run, decoding: Decoding, count: int, draws: Literal["prior", "fitted"], *, as_json: bool) -> None:
    rows = [_row(f"depth {depth}", depth, enumerate(decoding.sample(depth, count, draws)), "draw {}".format)
            for depth in decoding.depths]  # fmt: skip
    origin = "N(0, I)" if draws == "prior" else "the Gaussian of its features"
    folder = _folder(run, decoding, f"samples-{draws}")
    title = f"{run.name}: draws from {origin}"
    _write(run, decoding, folder, "samples", title, rows, {"draws": draws}, as_json=as_json)


def _interpolate(run: Run, decoding: Decoding, ends: Sequence[Any], points: int, *, as_json: bool) -> None:
    from infomax_cli.core.decode import ends_of
    from infomax_cli.core.exhibition import Piece, Row

    first, second = ends
    shares = [place / (points - 1) for place in range(points)]
    one, other = (Piece("original", f"original-{place}", end) for place, end in enumerate(ends_of(first, second)))
    rows = []
    for depth in decoding.depths:
        between = zip(shares, decoding.interpolate(depth, first, second, points), strict=True)
        row = _row(f"depth {depth}", depth, between, "{:.0%}".format)
        rows.append(Row(row.title, [one, *row.pieces, other]))
    folder = _folder(run, decoding, f"interpolation-{first.id}-{second.id}")
    title = f"{run.name}: from {first.id} to {second.id}"
    _write(run, decoding, folder, "interpolation", title, rows, {"shares": shares}, as_json=as_json)


def _traverse(run: Run, decoding: Decoding, item: Any, unit: int, points: int, *, as_json: bool) -> None:
    rows, values = [], {}
    for depth in decoding.depths:
        values[depth], made = decoding.traverse(depth, item, unit, points)
        rows.append(_row(f"depth {depth}", depth, zip(values[depth], made, strict=True), "{:+.2f}".format))
    folder = _folder(run, decoding, f"traversal-{unit}-{item.id}")
    title = f"{run.name}: dimension {unit} of {item.id}"
    _write(run, decoding, folder, "traversal", title, rows, {"dimension": unit, "values": values}, as_json=as_json)


def _row(title: str, depth: int, made: Iterable[tuple[float, Any]], name: Callable[[float], str]) -> Row:
    """What a depth made of several values, each under its value."""
    from infomax_cli.core.exhibition import Piece, Row

    pieces = [Piece(name(value), f"depth{depth}-{place}", content) for place, (value, content) in enumerate(made)]
    return Row(title, pieces)


def _folder(run: Run, decoding: Decoding, name: str) -> Path:
    """Of some depths only, beside that of all. What an earlier call left there is taken away."""
    import re
    import shutil

    depths = "".join(f"-depth{depth}" for depth in decoding.depths)
    whole = len(decoding.depths) == len(decoding.subject.encoder.stages)
    folder = run.path / "decode" / re.sub(r"[^\w.-]+", "_", name + ("" if whole else depths))
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _write(
    run: Run, decoding: Decoding, folder: Path, stem: str, title: str, rows: Sequence[Row], found: dict[str, Any],
    *, as_json: bool,
) -> None:  # fmt: skip
    """The pieces, a picture and a page; the same in TensorBoard."""
    from infomax_cli.console import messages, print_json
    from infomax_cli.core.exhibition import count_clipped, describe_clipped, pieces_of, write_exhibition
    from infomax_cli.core.logbook import open_board
    from infomax_cli.core.pictures import log_piece

    clipped = count_clipped(rows, decoding.medium)
    note = describe_clipped(clipped, rows)
    picture, page = write_exhibition(folder, stem, title, rows, decoding.medium, note)
    with open_board(run) as board:
        for piece in pieces_of(rows):
            log_piece(board, f"decode/{folder.name}/{piece.name}", piece.content, decoding.medium.rate)
    if as_json:
        print_json({"run": str(run.path), **found, "clipped": clipped, "folder": str(folder)})
    if note:
        messages().print(f"note: {note}", soft_wrap=True, markup=False)
    messages().print(f"wrote {page}, {picture.name} and a file of each beside them", soft_wrap=True, markup=False)


def _table(judged: Sequence[Judged], decoding: Decoding) -> Any:
    from rich.table import Table

    medium = decoding.medium
    table = Table(
        title="reconstructions of test items", box=None,
        caption=f"means over {judged[0].items} crops; loss {decoding.loss_name}",
    )  # fmt: skip
    columns = [measure.title for measure in medium.measures.values()]
    for column in ("depth", "hop", "dims", *columns, "loss", "untrained", "parameters"):
        table.add_column(column, justify="left" if column == "depth" else "right")
    for row in judged:
        hop = f"{row.hop} px" if medium.rate is None else f"{1000 * row.hop / medium.rate:g} ms"
        table.add_row(
            str(row.depth), hop, str(row.units), *(f"{row.measures[name]:.2f}" for name in medium.measures),
            f"{row.loss:.3f}", f"{row.untrained_loss:.3f}", f"{row.parameters:,}",
        )  # fmt: skip
    return table
