"""`infomax explain`: what single dimensions of a run's latents mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infomax_cli.commands.asking import depths_of, find_run_and_changes
from infomax_cli.errors import UsageError
from infomax_cli.wording import suggest

if TYPE_CHECKING:
    from infomax_cli.core.dependency import Dependency
    from infomax_cli.core.explain import Explained
    from infomax_cli.core.subject import Subject
    from infomax_cli.runs import Run

_HEADER = ("depth", "dims", "best nats", "mean nats", "entropy", "sparsity", "90 % in", "|mean|", "deviation", "KS")
_LEGEND = (
    "best, mean nats: mutual information of the best dimension, and of the mean one, with the label, whose entropy is "
    "the most there is; sparsity: of the linear probe's weights, from 0 (all alike) to 1 (one dimension); 90 % in: so "
    "many dimensions hold that share of its weight; |mean|, deviation: averages over dimensions, 0 and 1 for N(0, 1); "
    "KS: the median dimension's distance from N(0, 1), from 0 to 1"
)
_CONTRIBUTION = (
    "0: the sound has become the other item's; 1: as far from it as with nothing replaced; above 1: farther, as mixed "
    "latents may sound like neither"
)

_FEW = 500  # held-out rows, below which an estimate of nats says little
_DEPENDENCY = (
    "nats: what a critic can tell of codes from the same codes with each dimension shuffled over the rows (the neural "
    "dependency measure): 0 where dimensions are independent"
)


def explain(
    run: Annotated[str | None, typer.Argument(help="A run: path, name, or nothing for the newest.")] = None,
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Changes to its data, such as data.path=/new/place.")
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="The label that dimensions may tell something about; may be left out of one.")
    ] = None,
    depth: Annotated[str, typer.Option(help="all, last, or a number.")] = "all",
    means: Annotated[bool, typer.Option("--means", help="Look at the means of Gaussians, not at draws.")] = False,
    contribution: Annotated[
        bool,
        typer.Option("--contribution", help="Also: how few dimensions carry a sound (trains decoders, see decode)."),
    ] = False,
    dependency: Annotated[
        bool,
        typer.Option("--dependency", help="Also: how far dimensions depend on each other (trains a critic a depth)."),
    ] = False,
    batch: Annotated[int, typer.Option(help="Rows of a critic's step, for --dependency.")] = 1000,
    critic_steps: Annotated[int, typer.Option(min=1, help="Training steps of a critic, for --dependency.")] = 1000,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of a decoder, for --contribution.")] = 500,
    width: Annotated[int, typer.Option(min=1, help="Channels of a decoder, for --contribution.")] = 128,
    seed: Annotated[int, typer.Option(help="Draws rows and samples.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    root: Annotated[Path | None, typer.Option(help="Where the data lies, if not where the run found it.")] = None,
    runs: Annotated[Path | None, typer.Option(help="Where runs lie; else $INFOMAX_RUNS, else ./runs.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """See what each dimension knows of a label, how a linear probe uses it, and how near to N(0, 1) it is.

    \b
    infomax explain --label vowel        infomax explain RUN --label syllable --depth 4 --contribution
    infomax explain --label class --depth last --dependency
    """
    from infomax_cli.commands.decode import have_decoders
    from infomax_cli.console import messages
    from infomax_cli.core.decode import DecodeOptions, Decoding
    from infomax_cli.core.dependency import DependencyOptions, measure_dependency
    from infomax_cli.core.device import choose_device
    from infomax_cli.core.explain import contribution as contribution_of
    from infomax_cli.core.explain import explain as run_explain
    from infomax_cli.core.subject import load_subject
    from infomax_cli.progress import StageDisplay

    critic = DependencyOptions(steps=critic_steps, batch=batch, seed=seed)
    found, changes = find_run_and_changes(run, changes, runs)
    subject = load_subject(found, choose_device(device), root, changes=changes)
    label = _chosen(subject, label)
    depths = depths_of(depth, len(subject.encoder.stages))
    messages().print(f"explaining {found.path}", soft_wrap=True, markup=False)
    scores: dict[int, dict[int, float]] = {}
    if contribution:
        decoding = Decoding(subject, depths, DecodeOptions(steps=steps, width=width, seed=seed))
        have_decoders(found, decoding)
        scores = {number: contribution_of(decoding, number) for number in depths}
    with messages().status("reading features"):
        explained = run_explain(subject, label, depths, seed=seed, sampled=not means)
    dependent: dict[int, Dependency] = {}
    if dependency:
        with StageDisplay(messages()) as display:
            display.stage("training critics", critic.steps * len(depths))
            dependent = measure_dependency(subject, label, depths, critic, display.advance)
    _report(found, label, explained, scores, dependent, as_json=as_json)


def _chosen(subject: Subject, label: str | None) -> str:
    """The label that is asked for, or the only one that there is."""
    known = list(subject.data.labels)
    if label is None and len(known) > 1:
        raise UsageError("which label?", f"--label takes one of: {', '.join(known)}")
    if label is None and known:
        return known[0]
    if label is None or label not in known:
        hint = suggest(label or "", known) or "take data that has labels, or name them: data.labels=[...]"
        what = "no labels" if label is None else f"no label {label!r}"
        raise UsageError(f"the data ({subject.recipe.data.name}) has {what}", hint)
    return label


def _report(
    run: Run,
    label: str,
    explained: Sequence[tuple[Explained, object]],
    scores: dict[int, dict[int, float]],
    dependent: dict[int, Dependency],
    *,
    as_json: bool,
) -> None:
    import json

    from rich.table import Table

    from infomax_cli.console import messages, print_json, print_table, results
    from infomax_cli.core.explain_pages import draw_contribution, draw_depth, write_page
    from infomax_cli.core.files import write_text
    from infomax_cli.errors import CheckpointError

    rows = [_row(found) for found, _ in explained]
    lines = [_told(depth, found) for depth, found in dependent.items()] + [_DEPENDENCY] * bool(dependent)
    plain = {
        "run": run.name, "label": label, "depths": [found.to_dict() for found, _ in explained],
        "contribution": {str(depth): left for depth, left in scores.items()},
        "dependency": {str(depth): found.to_dict() for depth, found in dependent.items()},
    }  # fmt: skip
    if as_json:
        print_json(plain)
    else:
        table = Table(title=f"what dimensions tell about {label}, on test", box=None)
        for name in _HEADER:
            table.add_column(name, justify="right")
        for row in rows:
            table.add_row(*row)
        print_table(table)
        results().print(_LEGEND, soft_wrap=True)
        for depth, left in scores.items():
            shares = ", ".join(f"{count}: {value:.2f}" for count, value in left.items())
            results().print(f"depth {depth}: share of the error left by dimensions replaced: {shares}", soft_wrap=True)
        if scores:
            results().print(_CONTRIBUTION, soft_wrap=True)
        for line in lines:
            results().print(line, soft_wrap=True)
    folder = run.path / "explain"
    pictures = []
    try:
        write_text(folder / f"{label}.json", json.dumps(plain, indent=1) + "\n")
        for found, values in explained:
            pictures.append(folder / f"{label}-depth{found.depth}.png")
            draw_depth(pictures[-1], f"{run.name}, depth {found.depth}: {label}", found, values)  # type: ignore[arg-type]
        if scores:
            pictures.append(folder / f"contribution-depth{'-'.join(map(str, scores))}.png")
            draw_contribution(pictures[-1], f"{run.name}: what dimensions carry", scores)
        page = folder / f"{label}.html"
        notes = [_LEGEND, *([_CONTRIBUTION] if scores else []), *lines]
        write_page(page, f"{run.name}: {label}", _HEADER, rows, notes, pictures)
    except OSError as error:
        raise CheckpointError(
            f"cannot write to {folder}: {error.strerror or error}", "make room there, or make it writable"
        ) from error
    messages().print(f"wrote {page} and the pictures beside it", soft_wrap=True, markup=False)


def _told(depth: int, found: Dependency) -> str:
    few = ", too few to rely on" if found.held_out_rows < _FEW else ""
    return (
        f"depth {depth}: its {found.units:,} dimensions depend on each other by at least {found.nats:.3f} nats, on "
        f"{found.held_out_rows:,} held-out rows{few} ({found.train_nats:.3f} on those learnt from; no more than "
        f"{found.most:.1f} could be told)"
    )


def _row(found: Explained) -> list[str]:
    count = len(found.information)
    distances = sorted(found.distance)
    return [
        str(found.depth),
        str(count),
        f"{max(found.information):.3f}",
        f"{sum(found.information) / count:.3f}",
        f"{found.entropy:.3f}",
        f"{found.sparsity:.2f}",
        str(found.carrying),
        f"{sum(map(abs, found.mean)) / count:.2f}",
        f"{sum(found.deviation) / count:.2f}",
        f"{distances[count // 2]:.3f}",
    ]
