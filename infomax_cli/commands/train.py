"""`infomax train`: a recipe in, a run out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infomax_cli.errors import UsageError

if TYPE_CHECKING:
    from infomax_cli.core.build import Experiment
    from infomax_cli.recipe import Recipe
    from infomax_cli.runs import Run

MAY_CHANGE_ON_RESUME = ("data.root", "train.epochs", "train.steps", "train.workers")


def train(
    name: Annotated[
        str, typer.Argument(help="A recipe: a name (`infomax recipes`) or a YAML file. With --resume also a run.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to it, such as train.lr=1e-3.")
    ] = None,
    splits: Annotated[
        int | None, typer.Option(min=1, help="Cut the encoder into this many blocks: 1 is end to end.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Another dataset in place of the recipe's.")] = None,
    root: Annotated[Path | None, typer.Option(help="Where the data lies; else $INFOMAX_DATA.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    amp: Annotated[str | None, typer.Option(help="Mixed precision: bf16, fp16 or none.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run NAME, or the newest of recipe NAME.")
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

    infomax train gim --splits 6        infomax train gim loss.negatives=16 train.lr=1e-3
    """
    from infomax_cli.paths import runs_root

    folder = runs or runs_root()
    given = {"train.amp": amp, "train.block": train_block, "data.root": None if root is None else str(root.resolve())}
    changes = [*(overrides or []), *(f"{key}={value}" for key, value in given.items() if value is not None)]
    if resume:
        if splits or data or source:
            raise UsageError(
                "--resume is the same run: it takes no --splits, --data or --from", "start anew with --from RUN"
            )
        run, recipe = _resumed(name, changes, folder)
    else:
        run, recipe = None, _fresh(name, changes, splits, data, source, folder)
    _execute(recipe, run, device=device, folder=folder, dry_run=dry_run, as_json=as_json)


def _fresh(
    name: str, changes: list[str], splits: int | None, data: str | None, source: str | None, folder: Path
) -> Recipe:
    """The recipe by name, with what the command line changes about it, resolved."""
    from infomax_cli.console import messages
    from infomax_cli.core import build
    from infomax_cli.recipe import apply_overrides, parse, read_recipe
    from infomax_cli.recipe_files import find_recipe
    from infomax_cli.runs import find_run

    path = find_recipe(name)
    raw: dict[str, Any] = read_recipe(path)
    if data is not None:
        raw, kept = build.replace_data(raw, data)
        keeping = ", ".join(f"{key}={raw['data'][key]}" for key in kept) or "nothing"
        messages().print(f"data: {data}, keeping of the recipe's: {keeping}", soft_wrap=True)
    if source is not None:
        changes = [*changes, f"train.init={find_run(source, folder).path.resolve()}"]
    raw = apply_overrides(raw, changes)
    recipe = build.resolve(parse(raw, str(path)))
    if splits is not None:
        raw["cut"] = build.splits_override(recipe, splits)
        recipe = build.resolve(parse(raw, str(path)))
    if (recipe.train.block or 0) > 0 and recipe.train.init is None:
        raise UsageError(
            f"--train-block {recipe.train.block}: the blocks below it would be untrained",
            "give --from RUN to take them from",
        )
    return recipe


def _resumed(name: str, changes: list[str], folder: Path) -> tuple[Run, Recipe]:
    """The run to go on with, and its recipe."""
    from infomax_cli.core import build
    from infomax_cli.recipe import apply_overrides, parse
    from infomax_cli.runs import find_run

    for change in changes:
        if change.partition("=")[0] not in MAY_CHANGE_ON_RESUME:
            raise UsageError(
                f"{change}: --resume is the same run; only {', '.join(MAY_CHANGE_ON_RESUME)} may change",
                "start a new run from its weights with --from RUN",
            )
    is_run = any((path / "recipe.yaml").is_file() for path in (Path(name), folder / name))
    run: Run = find_run(name, folder) if is_run else find_run(None, folder, recipe=name)
    raw = run.recipe().to_dict()
    for ending in ("epochs", "steps"):  # only one of the two may stand
        if any(change.startswith(f"train.{ending}=") for change in changes):
            raw["train"] |= {"epochs": None, "steps": None}
    return run, build.resolve(parse(apply_overrides(raw, changes), str(run.recipe_file)))


def _execute(recipe: Recipe, run: Run | None, *, device: str, folder: Path, dry_run: bool, as_json: bool) -> None:
    from infomax_cli.console import messages, print_json, results
    from infomax_cli.core.build import build
    from infomax_cli.core.device import choose_device
    from infomax_cli.core.files import write_text
    from infomax_cli.core.trainer import Trainer
    from infomax_cli.display import TrainDisplay
    from infomax_cli.runs import find_run, new_run

    where = choose_device(device)
    experiment = build(recipe, where)
    if dry_run:
        _describe(experiment, as_json=as_json)
        return
    console = messages()
    resuming, run = run is not None, run or new_run(folder, recipe.name)
    with run.lock():
        if not resuming:
            write_text(run.recipe_file, f"# Resolved by infomax; made from {recipe.source}\n{recipe.to_yaml()}")
        trainer = Trainer(experiment, run, where)
        if resuming:
            trainer.resume()
        elif recipe.train.init is not None:
            trainer.start_from(find_run(recipe.train.init, folder))
        verb = "going on with" if resuming else "training"
        console.print(f"{verb} {run.path} on {where}, steps {trainer.step} to {trainer.total}", soft_wrap=True)
        items = recipe.train.batch * recipe.train.accumulate
        with TrainDisplay(console, start=trainer.step, total=trainer.total, batch=items) as display:
            trainer.train(display)
    if as_json:
        print_json({"run": str(run.path), "step": trainer.step, "metrics": display.values})
    else:
        results().print(f"trained {run.path}", soft_wrap=True)
        labels = " | ".join(experiment.data.labels)
        if labels:
            console.print(f"next: infomax probe {labels}", soft_wrap=True)


def _describe(experiment: Experiment, *, as_json: bool) -> None:
    """What would be trained: the resolved recipe, the data, and every block with its losses and parameters."""
    from rich.table import Table

    from infomax_cli.console import print_json, results
    from infomax_cli.core.trainer import describe_blocks_trained

    rows = describe_blocks_trained(experiment)
    if as_json:
        print_json({"recipe": experiment.recipe.to_dict(), "sizes": dict(experiment.data.sizes), "blocks": rows})
        return
    console = results()
    console.print(experiment.recipe.to_yaml(), soft_wrap=True)
    console.print("items: " + ", ".join(f"{split} {size:,}" for split, size in experiment.data.sizes.items()))
    table = Table(*rows[0], box=None)
    for row in rows:
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row.values()))
    console.print(table)
    console.print(f"{sum(row['parameters'] for row in rows):,} parameters")
