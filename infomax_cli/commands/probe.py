"""`infomax probe`: what can be read from a run's frozen encoder, depth by depth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infomax_cli.commands.asking import RUN, find_run_and_changes
from infomax_cli.errors import UsageError
from infomax_cli.wording import suggest

if TYPE_CHECKING:
    from rich.table import Table

    from infomax_cli.core.probe_result import ProbeResult, Score
    from infomax_cli.core.subject import Subject
    from infomax_cli.core.watcher import Watcher
    from infomax_cli.runs import Run

_BASELINES = ("random", "mfcc", "raw")


def probe(
    label: Annotated[str, typer.Argument(help="A label of the data, or several with commas: vowel,speaker.")],
    run: Annotated[str | None, typer.Argument(help=RUN)] = None,
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Changes to its data, such as data.path=/new/place.")
    ] = None,
    depth: Annotated[str | None, typer.Option(help="all, last, or a number; else as the protocol has it.")] = None,
    labels_per_class: Annotated[
        str | None,
        typer.Option(metavar="N[,N...]", help="Learn from N labelled items (frames) of a class; 1,2,4,all: a curve."),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Draw them so many times; mean and deviation are told.")] = 1,
    draws: Annotated[
        int, typer.Option(metavar="N", help="Learn from N draws of an item's Gaussians too (variational encoders).")
    ] = 0,
    baseline: Annotated[str | None, typer.Option(help="Any of random,mfcc,raw.")] = None,
    classifier: Annotated[
        str | None, typer.Option(help="linear, mlp or knn; else the protocol's, linear in most.")
    ] = None,
    pool: Annotated[str | None, typer.Option(help="Items to one row: mean, last, none, or flatten (images).")] = None,
    protocol: Annotated[
        str,
        typer.Option(
            help="optimum, or as published: gim, vgim, cpc-audio, barello; images: dim, amdim[-imagenet, -places205], "
            "gim-vision."
        ),
    ] = "optimum",
    neighbours: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Also a picture of N test items, each with its nearest of training."),
    ] = 0,
    data: Annotated[
        str | None, typer.Option(metavar="NAME", help="Another dataset, with labels of its own, for the same encoder.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws held-out items, subsets and untrained weights.")] = 0,
    step: Annotated[
        int | None, typer.Option(min=0, help="An older checkpoint, by its step, where train.keep kept it.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    root: Annotated[Path | None, typer.Option(help="Where the data lies, if not where the run found it.")] = None,
    runs: Annotated[Path | None, typer.Option(help="Where runs lie; else $INFOMAX_RUNS, else ./runs.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Read labels from a run's frozen encoder, at every depth.

    \b
    infomax probe phone --baseline random,mfcc        infomax probe vowel,speaker RUN --depth 4
    infomax probe class --protocol dim                infomax probe class RUN --data stl10 --neighbours 10
    """
    from infomax_cli.core.device import choose_device
    from infomax_cli.core.probe import probe_few
    from infomax_cli.core.probe_options import ProbeOptions, parse_labels
    from infomax_cli.core.subject import load_subject

    options = ProbeOptions(
        depth=_depth(depth),
        classifier=None if classifier is None else _one_of("--classifier", classifier, ("linear", "mlp", "knn")),
        pool=None if pool is None else _one_of("--pool", pool, ("mean", "last", "none", "flatten")),
        protocol=protocol,
        repeats=repeats,
        draws=draws,
        baselines=tuple(_one_of("--baseline", part, _BASELINES) for part in (baseline or "").split(",") if part),
        neighbours=neighbours,
        seed=seed,
    )
    found, changes = find_run_and_changes(run, changes, runs)
    subject = load_subject(found, choose_device(device), root, step, changes, data, tell=_say)
    with _watching(found) as watcher:
        labels = parse_labels(label, list(subject.data.labels))
        results = probe_few(subject, labels, _counts(labels_per_class), options, watcher)
    _draw_sheets(found, subject, [curve[0] for curve in results.values()])
    if len(next(iter(results.values()))) > 1:
        _report_curves(found, results, as_json=as_json)
    else:
        _report(found, {name: result for name, (result,) in results.items()}, as_json=as_json)


def _say(text: str) -> None:
    from infomax_cli.console import messages

    messages().print(text, soft_wrap=True, markup=False)


def _draw_sheets(run: Run, subject: Subject, results: Sequence[ProbeResult]) -> None:
    """A picture of the nearest neighbours of each label and depth that they were found for."""
    from infomax_cli.core.neighbours import draw_sheet
    from infomax_cli.errors import CheckpointError

    for result in results:
        for sheet in result.sheets:
            path = run.path / "probes" / f"{result.sheet_stem(sheet)}.png"
            title = f"{run.name}, depth {sheet.layer}: {result.label}"
            try:
                draw_sheet(path, title, sheet, subject, result)
            except OSError as error:
                raise CheckpointError(
                    f"cannot write {path}: {error.strerror or error}", "make room there, or make it writable"
                ) from error
            _say(f"wrote {path}")


def _depth(text: str | None) -> Any:
    if text in (None, "all", "last"):
        return text
    try:
        return int(text or "")
    except ValueError:
        raise UsageError(f"--depth {text}: not a depth", "use all, last or a number from 0 on") from None


def _counts(text: str | None) -> list[int | None]:
    """Numbers of labels a class; None is all of them."""
    counts: list[int | None] = []
    for word in (text or "all").split(","):
        if word.strip() != "all" and not word.strip().isdecimal():
            raise UsageError(f"--labels-per-class {text}: {word!r} is no number", "for example 1,2,4,8,all")
        counts.append(None if word.strip() == "all" else int(word))
    return counts


def _one_of(option: str, word: str, known: tuple[str, ...]) -> Any:
    word = word.strip()
    if word not in known:
        raise UsageError(f"{option} {word}: not known", suggest(word, known))
    return word


@contextmanager
def _watching(run: Run) -> Iterator[Watcher]:
    """Progress on stderr."""
    from infomax_cli.console import messages
    from infomax_cli.progress import StageDisplay

    console = messages()
    console.print(f"probing {run.path}", soft_wrap=True, markup=False)
    with StageDisplay(console) as display:
        yield display


def _report(run: Run, results: dict[str, ProbeResult], *, as_json: bool) -> None:
    from infomax_cli.console import messages, print_json, print_table
    from infomax_cli.core.probe_result import write_result

    if as_json:
        print_json({"run": str(run.path), "labels": {label: result.to_dict() for label, result in results.items()}})
    for label, result in results.items():
        for note in result.notes:
            messages().print(f"note: {label}: {note}", soft_wrap=True, markup=False)
        if not as_json:
            print_table(_table(result))
        file, picture = write_result(run, result)  # last, so that a full disk does not hide what was found
        messages().print(f"wrote {file} and {picture.name}", soft_wrap=True, markup=False)


def _report_curves(run: Run, results: dict[str, tuple[ProbeResult, ...]], *, as_json: bool) -> None:
    from rich.table import Table

    from infomax_cli.console import messages, print_json, print_table
    from infomax_cli.core.probe_result import write_curve

    if as_json:
        plain = {label: [result.to_dict() for result in found] for label, found in results.items()}
        print_json({"run": str(run.path), "curves": plain})
    for label, found in results.items():
        for note in dict.fromkeys(note for result in found for note in result.notes):
            messages().print(f"note: {label}: {note}", soft_wrap=True, markup=False)
        if not as_json:
            title = f"{label}: {found[0].classifier}, test accuracy by labels a class"
            caption = (
                f"in %, ± over {max(result.repeats for result in found)} draws; chance {100 * found[0].chance:.1f}; "
                f"chosen: {_chosen(found)}"
            )
            table = Table(title=title, caption=caption, box=None)
            table.add_column("depth")
            for result in found:
                table.add_column(
                    "all" if result.labels_per_class is None else str(result.labels_per_class), justify="right"
                )
            for place, score in enumerate(found[0].scores):
                name = f"untrained {score.layer}" if score.source == "random" else score.layer
                table.add_row(name, *(_percent(result.scores[place]) for result in found))
            print_table(table)
        file, picture = write_curve(run, found)
        messages().print(f"wrote {file} and {picture.name}", soft_wrap=True, markup=False)


def _table(result: ProbeResult) -> Table:
    """A row for each depth, the untrained encoder's accuracy beside it, and the other baselines below."""
    from rich.table import Table

    from infomax_cli.core.plots import describe

    title = f"{result.label}: {describe(result)}; learnt on {result.train_split}, tested on {result.test_split}"
    sizes = {(score.train_rows, score.test_rows) for score in result.scores}
    rows = "; rows learnt from {:,}, tested {:,}".format(*next(iter(sizes))) if len(sizes) == 1 else ""
    after = "" if result.trained_steps is None else f"encoder after step {result.trained_steps:,}; "
    caption = f"{after}accuracy in %; chance (the commonest class) {100 * result.chance:.1f}{rows}"
    table = Table(title=title, caption=caption, box=None)
    untrained = {score.depth: score for score in result.of("random")}
    grids = any(score.grid for score in result.scores)
    columns = ["depth", *(["grid"] if grids else []), "hop", "dims", "test", *(["untrained"] if untrained else [])]
    for column in [*columns, "balanced", "train", "chosen", *([] if rows else ["rows"])]:
        table.add_column(column, justify="left" if column in ("depth", "chosen") else "right")
    for score in (score for score in result.scores if score.source != "random"):
        beside = [_percent(untrained.get(score.depth))] if untrained else []
        table.add_row(
            score.layer,
            *(["x".join(map(str, score.grid or ()))] if grids else []),
            f"{score.hop_ms:g} ms" if score.hop_ms is not None else "" if score.hop is None else str(score.hop),
            str(score.dims),
            _percent(score),
            *(beside if score.depth is not None else [""] if untrained else []),
            f"{100 * score.balanced_accuracy:.1f}",
            f"{100 * score.train_accuracy:.1f}",
            ", ".join(f"{name} {value:g}" for name, value in score.choice.items()),
            *([] if rows else [f"{score.train_rows:,} / {score.test_rows:,}"]),
        )
    return table


def _chosen(results: Sequence[ProbeResult]) -> str:
    """What was chosen on held-out rows, from the least to the most: ``k 1 to 20``."""
    values: dict[str, set[float]] = {}
    for choice in (choice for result in results for score in result.scores for choice in score.choices):
        for name, value in choice.items():
            values.setdefault(name, set()).add(value)
    return ", ".join(f"{name} {' to '.join(f'{edge:g}' for edge in sorted({min(each), max(each)}))}"
                     for name, each in values.items())  # fmt: skip


def _percent(score: Score | None) -> str:
    if score is None:
        return ""
    spread = "" if score.deviation is None else f" ± {100 * score.deviation:.1f}"
    return f"{100 * score.accuracy:.1f}{spread}"
