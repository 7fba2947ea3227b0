"""`infomax explain`: what single dimensions of a run's latents mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infomax_cli.commands.asking import RUN, depths_of, find_run_and_changes
from infomax_cli.errors import UsageError
from infomax_cli.wording import suggest

if TYPE_CHECKING:
    from infomax_cli.core.dependency import Dependency
    from infomax_cli.core.explanation import Explanation, Question
    from infomax_cli.core.subject import Subject
    from infomax_cli.runs import Run


def explain(
    run: Annotated[str | None, typer.Argument(help=RUN)] = None,
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
        typer.Option("--contribution", help="Also: how few dimensions carry an item (trains decoders, see decode)."),
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
    from infomax_cli.console import messages
    from infomax_cli.core.decode import DecodeOptions
    from infomax_cli.core.dependency import DependencyOptions
    from infomax_cli.core.device import choose_device
    from infomax_cli.core.explain import explain as run_explain
    from infomax_cli.core.explanation import Explanation, Question
    from infomax_cli.core.subject import load_subject

    critic = DependencyOptions(steps=critic_steps, batch=batch, seed=seed)
    decoder = DecodeOptions(steps=steps, width=width, seed=seed)
    found, changes = find_run_and_changes(run, changes, runs)
    subject = load_subject(found, choose_device(device), root, changes=changes)
    depths, stages = depths_of(depth, len(subject.encoder.stages)), len(subject.encoder.stages)
    question = Question(
        label=_chosen(subject, label), depths=tuple(depths), all_depths=len(depths) == stages, means=means, seed=seed,
        contribution=decoder if contribution else None, dependency=critic if dependency else None,
    )  # fmt: skip
    messages().print(f"explaining {found.path}", soft_wrap=True, markup=False)
    scores = _contribution(found, subject, question)
    with messages().status("reading features"):
        explained = run_explain(
            subject, question.label, question.depths, seed=seed, sampled=not means,
            tell=lambda text: messages().print(f"note: {text}", soft_wrap=True, markup=False),
        )  # fmt: skip
    answer = Explanation(
        run=found.name, trained_steps=subject.trained, question=question, depths=[depth for depth, _ in explained],
        values=[values for _, values in explained], contribution=scores, dependency=_dependency(subject, question),
    )  # fmt: skip
    _report(found, answer, as_json=as_json)


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


def _contribution(run: Run, subject: Subject, question: Question) -> dict[int, dict[int, float]]:
    """By depth; none where it is not asked for."""
    from infomax_cli.commands.decode import have_decoders
    from infomax_cli.core.decode import Decoding
    from infomax_cli.core.explain import contribution

    if question.contribution is None:
        return {}
    decoding = Decoding(subject, question.depths, question.contribution)
    have_decoders(run, decoding)
    return {depth: contribution(decoding, depth) for depth in question.depths}


def _dependency(subject: Subject, question: Question) -> dict[int, Dependency]:
    """By depth; none where it is not asked for."""
    from infomax_cli.console import messages
    from infomax_cli.core.dependency import measure_dependency
    from infomax_cli.progress import StageDisplay

    critic = question.dependency
    if critic is None:
        return {}
    with StageDisplay(messages()) as display:
        display.stage("training critics", critic.steps * len(question.depths))
        return measure_dependency(subject, question.label, question.depths, critic, display.advance)


def _report(run: Run, answer: Explanation, *, as_json: bool) -> None:
    from rich.table import Table

    from infomax_cli.console import messages, print_json, print_table, results
    from infomax_cli.core.explain_pages import write_explanation
    from infomax_cli.core.explanation import HEADER

    if as_json:
        print_json(answer.to_dict())
    else:
        table = Table(title=f"what dimensions tell about {answer.question.label}, on test", box=None)
        for name in HEADER:
            table.add_column(name, justify="right")
        for row in answer.rows():
            table.add_row(*row)
        print_table(table)
        for note in answer.notes():
            results().print(note, soft_wrap=True, markup=False)
    page = write_explanation(run.path / "explain", answer)
    messages().print(f"wrote {page} and the pictures beside it", soft_wrap=True, markup=False)
