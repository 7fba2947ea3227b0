"""`infomax train`: a recipe in, a run out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infomax_cli.errors import UsageError

if TYPE_CHECKING:
    from infomax_cli.core.build import Experiment
    from infomax_cli.core.trainer import Trainer
    from infomax_cli.recipe import Recipe
    from infomax_cli.runs import Run

Metrics = Mapping[str, float]


def train(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="A recipe: a name (`infomax recipes`) or a YAML file. With --resume also a run, or nothing.",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Changes to the recipe, such as train.lr=1e-3.")
    ] = None,
    splits: Annotated[
        int | None, typer.Option(min=1, help="Cut the encoder into this many blocks: 1 is end to end.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Another dataset in place of the recipe's.")] = None,
    root: Annotated[Path | None, typer.Option(help="Where the data lies; else $INFOMAX_DATA.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    amp: Annotated[str | None, typer.Option(help="Mixed precision: bf16, fp16 or none.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run NAME, the newest of recipe NAME, or the newest of all.")
    ] = False,
    source: Annotated[str | None, typer.Option("--from", metavar="RUN", help="Start from this run's encoder.")] = None,
    train_block: Annotated[
        int | None, typer.Option(min=0, help="Train this block alone, on frozen lower ones (see --from).")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be trained; write nothing.")] = False,
    runs: Annotated[Path | None, typer.Option(help="Where runs lie; else $INFOMAX_RUNS, else ./runs.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON on stdout.")] = False,
) -> None:
    """Train an encoder as a recipe says.

    \b
    infomax train gim-syllables
    infomax train gim --splits 3 loss.negatives=16 train.lr=1e-3
    infomax train gim --resume
    infomax train supervised --from RUN loss.label=class
    """
    from infomax_cli.paths import runs_root
    from infomax_cli.runs import find_run

    folder = runs or runs_root()
    given = {"train.amp": amp, "train.block": train_block, "data.root": None if root is None else str(root.resolve())}
    changes = [*(overrides or []), *(_override(key, value) for key, value in given.items() if value is not None)]
    if resume:
        if splits or data or source:
            raise UsageError(
                "--resume is the same run: it takes no --splits, --data or --from", "start anew with --from RUN"
            )
        words = changes if name is None else [name, *changes]
        run = find_run(_only_name(words), folder)
        recipe = _resumed(run, [word for word in words if "=" in word])
        _execute(recipe, run, device=device, folder=folder, dry_run=dry_run, as_json=as_json)
        return
    if name is None:
        raise UsageError("which recipe?", "for example: infomax train gim-syllables (`infomax recipes` lists them)")
    recipe = _fresh(name, changes, splits, data, source, folder)
    _execute(recipe, None, device=device, folder=folder, dry_run=dry_run, as_json=as_json)


def _override(key: str, value: object) -> str:
    """In JSON, which is YAML too: a path may hold what YAML takes for more than a word."""
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def _fresh(
    name: str, changes: list[str], splits: int | None, data: str | None, source: str | None, folder: Path
) -> Recipe:
    """The recipe by name, with what the command line changes about it, resolved. What is wrong with its form alone is
    found without importing torch."""
    from infomax_cli.overrides import apply_overrides, source_of
    from infomax_cli.recipe import parse, read_recipe
    from infomax_cli.recipe_files import find_recipe
    from infomax_cli.runs import find_run

    path = find_recipe(name)
    raw: dict[str, Any] = read_recipe(path)
    if source is not None:
        run = find_run(source, folder)
        raw = _borrow(raw, run, str(path), keep_data=data is not None)
        changes = [*changes, _override("train.init", str(run.path.resolve()))]
    if data is not None:
        raw = _replace_data(raw, data)
    if splits is not None and any(change.partition("=")[0].strip() == "cut" for change in changes):
        raise UsageError("--splits and cut= both say where to cut", "give one of them")
    raw = apply_overrides(raw, changes)
    blamed = source_of(str(path), changes)
    recipe = parse(raw, blamed)
    if (recipe.train.block or 0) > 0 and recipe.train.init is None:
        raise UsageError(
            f"--train-block {recipe.train.block}: the blocks below it would be untrained",
            "give --from RUN to take them from",
        )
    from infomax_cli.core import build

    recipe = build.resolve(recipe)
    if splits is not None:
        raw["cut"] = build.splits_override(recipe, splits)
        recipe = build.resolve(parse(raw, blamed))
    return recipe


def _borrow(raw: dict[str, Any], run: Run, source: str, *, keep_data: bool) -> dict[str, Any]:
    """The recipe with those sections that it leaves to the run it starts from; says which. Data that the command line
    replaces anyway is not among them, where the recipe has some."""
    from infomax_cli.recipe import borrowed_sections

    taken = [name for name in borrowed_sections(raw, source) if not (keep_data and name == "data" and raw.get("data"))]
    if not taken:
        return raw
    theirs = run.recipe().to_dict()
    named = ", ".join(f"{name} {theirs[name]['name']}" for name in taken)
    _say(f"from {run.path}: {named}")
    return {**raw, **{name: theirs[name] for name in taken}}


def _replace_data(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Another dataset in place of the recipe's; says what is kept of that."""
    from infomax_cli.core import build

    replaced, kept = build.replace_data(raw, name)
    keeping = ", ".join(f"{key}={replaced['data'][key]}" for key in kept) or "nothing"
    _say(f"data: {name}, keeping of the recipe's: {keeping}")
    return replaced


def _only_name(words: list[str]) -> str | None:
    """What is to be resumed: the one of the user's words that is no change; None where there is no such word."""
    names = [word for word in words if "=" not in word]
    if len(names) > 1:
        raise UsageError(
            f"--resume takes one name, of a run or of a recipe, or none: not {' and '.join(names)}",
            f"infomax train {names[-1]} --resume",
        )
    return names[0] if names else None


def _resumed(run: Run, changes: list[str]) -> Recipe:
    """The recipe of a run, with those changes that leave it the same run."""
    from infomax_cli.core import build
    from infomax_cli.overrides import apply_overrides, source_of
    from infomax_cli.recipe import parse
    from infomax_cli.runs import MAY_CHANGE_ON_RESUME

    for change in changes:
        if change.partition("=")[0].strip() not in MAY_CHANGE_ON_RESUME:
            raise UsageError(
                f"{change}: --resume is the same run; only {', '.join(MAY_CHANGE_ON_RESUME)} may change",
                f"start a new run from its weights with --from {run.path}",
            )
    source = source_of(str(run.recipe_file), changes)
    return build.resolve(parse(apply_overrides(run.recipe().to_dict(), changes), source))


def _execute(recipe: Recipe, run: Run | None, *, device: str, folder: Path, dry_run: bool, as_json: bool) -> None:
    from infomax_cli.console import print_json, results
    from infomax_cli.core.build import build
    from infomax_cli.core.device import choose_device, make_repeatable
    from infomax_cli.core.trainer import Trainer

    where = choose_device(device)
    make_repeatable(where)
    experiment = build(recipe, where)
    if dry_run:
        _describe(experiment, as_json=as_json)
        return
    for note in experiment.notes:
        _say(f"note: {note}")
    trainer = Trainer(experiment, where)
    if run is None:
        run, values = _begin(trainer, folder)
    else:
        values = _go_on(trainer, run)
    if as_json:
        print_json({"run": str(run.path), "step": trainer.step, "metrics": values})
    elif values:
        results().print(f"trained {run.path}", soft_wrap=True, markup=False)
        if labels := ",".join(experiment.data.labels):
            _say(f"next: infomax probe {labels}")


def _begin(trainer: Trainer, folder: Path) -> tuple[Run, Metrics]:
    """Train a new run. One in which nothing has been trained by the time that something fails is taken away again."""
    from infomax_cli.core.files import write_text
    from infomax_cli.errors import Diverged, Interrupted
    from infomax_cli.runs import find_run, new_run

    recipe = trainer.experiment.recipe
    if recipe.train.init is not None:
        trainer.start_from(find_run(recipe.train.init, folder))
    run = new_run(folder, recipe.name)
    try:
        with run.lock():
            write_text(run.recipe_file, _recipe_text(recipe))
            _note_data(trainer.experiment, run)
            return run, _train(trainer, run, "training")
    except BaseException as error:
        if trainer.step == 0 and not isinstance(error, Interrupted | Diverged):
            shutil.rmtree(run.path, ignore_errors=True)
        raise


def _go_on(trainer: Trainer, run: Run) -> Metrics:
    """Train what is left of a run."""
    from infomax_cli.core.files import write_text
    from infomax_cli.errors import CheckpointError
    from infomax_cli.runs import find_run

    recipe = trainer.experiment.recipe
    with run.lock():
        run.remove_leftovers()
        if run.last.exists():
            trainer.resume(run)
        elif run.metrics.exists() and run.metrics.stat().st_size > 0:
            raise CheckpointError(f"{run.last} is gone", "put it back, or start a new run")
        elif recipe.train.init is not None:  # killed before its first checkpoint
            trainer.start_from(find_run(recipe.train.init, run.path.parent))
        if trainer.step > trainer.total:
            raise UsageError(
                f"{run.path} has been trained for {trainer.step} steps, more than {trainer.total}", "give more steps"
            )
        if trainer.finished:
            _say(
                f"{run.path} is trained to its end, {trainer.total} steps; for more give train.steps= or train.epochs="
            )
            return {}
        if run.recipe() != recipe:
            write_text(run.recipe_file, _recipe_text(recipe))
        return _train(trainer, run, "going on with")


def _note_data(experiment: Experiment, run: Run) -> None:
    """What the data holds, for the run's card."""
    from infomax_cli.card import FACTS
    from infomax_cli.core.files import write_text
    from infomax_cli.core.holdings import take_stock

    held = take_stock(experiment.dataset, experiment.recipe.data.name, experiment.root)
    write_text(run.path / FACTS, json.dumps(held.to_dict(), ensure_ascii=False) + "\n")


def _train(trainer: Trainer, run: Run, verb: str) -> Metrics:
    from infomax_cli.card import write_card
    from infomax_cli.console import messages
    from infomax_cli.display import TrainDisplay

    write_card(run)  # so that there is one whatever becomes of the run
    _say(f"{verb} {run.path} on {trainer.device}, steps {trainer.step} to {trainer.total}")
    items = trainer.options.batch * trainer.options.accumulate
    with TrainDisplay(messages(), start=trainer.step, total=trainer.total, batch=items) as display:
        trainer.train(run, display)
    write_card(run)
    return display.values


def _recipe_text(recipe: Recipe) -> str:
    return f"# Resolved by infomax; made from {recipe.source}\n{recipe.to_yaml()}"


def _say(message: str) -> None:
    from infomax_cli.console import messages

    messages().print(message, soft_wrap=True, markup=False)


def _describe(experiment: Experiment, *, as_json: bool) -> None:
    """What would be trained: the resolved recipe, the data, and every block with its losses and parameters."""
    from rich.markup import escape
    from rich.table import Table

    from infomax_cli.console import print_json, results
    from infomax_cli.core.trained_blocks import describe_blocks_trained

    rows = describe_blocks_trained(experiment)
    if as_json:
        print_json({"recipe": experiment.recipe.to_dict(), "sizes": dict(experiment.data.sizes), "blocks": rows})
        return
    console = results()
    console.print(experiment.recipe.to_yaml(), soft_wrap=True, markup=False)
    console.print("items: " + ", ".join(f"{split} {size:,}" for split, size in experiment.data.sizes.items()))
    table = Table(*rows[0], box=None)
    for row in rows:
        table.add_row(*(escape(f"{cell:,}" if isinstance(cell, int) else str(cell)) for cell in row.values()))
    console.print(table)
    console.print(f"{sum(row['parameters'] for row in rows):,} parameters")
