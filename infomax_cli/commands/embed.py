"""`infomax embed`: features of files, folders or a split, for others to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infomax_cli.commands.asking import depths_of
from infomax_cli.errors import CheckpointError, DataError, Interrupted, UsageError
from infomax_cli.wording import count_of, suggest

if TYPE_CHECKING:
    from infomax_cli.core.embed_sources import Source
    from infomax_cli.core.embedding import Embedded, Embedding
    from infomax_cli.core.pretrained import PretrainedEncoder

_TOLD = 20  # inputs that could not be used are named up to so many


def embed(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN] INPUT...", help="A run (else the newest) or an exported encoder; then files and folders."
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of the run's own data: train, test; KEY=VALUE changes it.")
    ] = None,
    depth: Annotated[str, typer.Option(help="all, last, or a number.")] = "last",
    pool: Annotated[str, typer.Option(help="none: every frame; mean: one vector an input.")] = "none",
    form: Annotated[
        str | None,
        typer.Option("--format", help="npy, npz, parquet or safetensors; else npy, of several depths npz."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="fp32, or fp16, half as large.")] = "fp32",
    out: Annotated[Path | None, typer.Option(help="A folder for them; else embed/ in the run's folder.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    data: Annotated[
        str | None, typer.Option(metavar="NAME", help="A split of this dataset instead of the run's own.")
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Where the data of --split lies, if not where it was.")] = None,
    runs: Annotated[Path | None, typer.Option(help="Where runs lie; else $INFOMAX_RUNS, else ./runs.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Write the features of sounds or images: a file each, and index.jsonl, which tells what they are.

    \b
    infomax embed recordings/                     the last depth of the newest run, frames by channels
    infomax embed RUN a.flac b.mp3 --depth 4 --format safetensors
    infomax embed RUN --split test --pool mean    of the data that the run was trained on

    Sound may be of any length. Stopped and called again, it goes on where it was.
    """
    from infomax_cli.console import messages
    from infomax_cli.core.embedding import Embedding, EmbedOptions
    from infomax_cli.core.feature_files import FORMATS, check_format
    from infomax_cli.core.pretrained import load_file

    file, given, changes = _sort_words(words or [], runs)
    if bool(given) == (split is not None):
        what = "--split or inputs: one at a time" if given else "there is nothing to embed"
        raise UsageError(what, "name files or folders, or --split test")
    if split is None and (changes or data is not None):
        raise UsageError(f"{changes[0] if changes else f'--data {data}'} is for --split", "which split? --split test")
    model = load_file(file, device=device)
    depths = depths_of(depth, len(model.depths))
    chosen = _one_of("--format", form or ("npz" if len(depths) > 1 else "npy"), FORMATS)
    check_format(chosen, depths)
    options = EmbedOptions(
        tuple(depths), _one_of("--pool", pool, ("none", "mean")), chosen, _one_of("--dtype", dtype, ("fp32", "fp16"))
    )
    in_run = (file.parent / "recipe.yaml").is_file()
    messages().print(f"embedding with {file.parent if in_run else file}", soft_wrap=True, markup=False)
    where = out or _folder(file, f"{data}-{split}" if data else split, depths, len(model.depths), pool, in_run=in_run)
    sources = _of_files(model, given) if split is None else _of_split(model, split, data, changes, root)
    embedding = Embedding(model, options, where)
    _report(_run(embedding, sources), embedding, as_json=as_json)


def _sort_words(words: Sequence[str], runs: Path | None) -> tuple[Path, list[Path], list[str]]:
    """The encoder's file, inputs, and changes; the first word is a run unless it is something else that is there."""
    from infomax_cli.paths import runs_root

    folder = runs or runs_root()
    rest = list(words)
    first = rest.pop(0) if rest and _means_run(rest[0], folder) else None
    changes = [word for word in rest if "=" in word and not Path(word).exists()]
    given = [Path(word).expanduser() for word in rest if word not in changes]
    if missing := [path for path in given if not path.exists()]:
        raise UsageError(f"there is no file or folder {str(missing[0])!r}", "infomax embed [RUN] INPUT...")
    return _find_encoder(first, folder), given, changes


def _means_run(word: str, folder: Path) -> bool:
    from infomax_cli.core.pretrained import FILE

    places = [place for place in (Path(word).expanduser(), folder / word) if place.exists()]
    if not places:
        return "=" not in word
    return any(
        (place / "recipe.yaml").is_file() or (place / FILE).is_file() or place.suffix == ".safetensors"
        for place in places
    )


def _find_encoder(name: str | None, folder: Path) -> Path:
    from infomax_cli.core.pretrained import encoder_path

    try:
        return encoder_path(name, folder)
    except UsageError as error:
        if name is None:
            raise
        raise UsageError(f"there is no run, recipe, file or folder {name!r}", error.hint) from error


def _folder(file: Path, split: str | None, depths: Sequence[int], count: int, pool: str, *, in_run: bool) -> Path:
    """In the run, named by what it holds; beside an encoder that is no run's, in the working folder."""
    which = "all" if len(depths) == count > 1 else f"depth{depths[0]}"
    name = "-".join([split or "files", which, *(["mean"] if pool == "mean" else [])])
    return (file.parent / "embed" if in_run else Path(f"{file.stem}-embed")) / name


def _of_files(model: PretrainedEncoder, given: Sequence[Path]) -> Sequence[Source]:
    from infomax_cli.core.embed_sources import files

    shorter = model.recipe.data.options.get("resize")
    return files(given, model.inputs, shorter if isinstance(shorter, int) else None)


def _of_split(
    model: PretrainedEncoder, name: str, dataset_name: str | None, changes: Sequence[str], root: Path | None
) -> Sequence[Source]:
    from infomax_cli.console import messages
    from infomax_cli.core import build
    from infomax_cli.core.embed_sources import OfSplit
    from infomax_cli.core.inputs import InputSpec
    from infomax_cli.core.subject import with_data
    from infomax_cli.paths import data_root

    def tell(text: str) -> None:
        messages().print(text, soft_wrap=True, markup=False)

    recipe = with_data(model.recipe, changes, dataset_name, tell)
    where = root or Path(recipe.root or data_root())
    dataset = build.build_dataset(recipe)
    data = dataset.describe(where)
    model.inputs.check_fits(InputSpec.of(data), recipe.data.name, recipe.data.options)
    if name not in data.sizes:
        raise UsageError(f"--split {name}: the data has no such split", suggest(name, list(data.sizes)))
    split = dataset.split(where, name)
    labels = {label: split.item_labels(label) for label, spec in data.labels.items() if not spec.aligned}
    return [OfSplit(split, index, f"{recipe.data.name}:{name}", labels) for index in range(len(split))]


def _run(embedding: Embedding, sources: Sequence[Source]) -> Embedded:
    from infomax_cli.console import messages
    from infomax_cli.progress import StageDisplay

    try:
        with StageDisplay(messages()) as display:
            return embedding.run(sources, display)
    except KeyboardInterrupt as stop:
        raise Interrupted(_kept(embedding, sources), "the same command goes on with the rest") from stop
    except OSError as error:  # inputs that cannot be read are left out: it is the output
        hint = "make room, or choose another folder with --out"
        raise CheckpointError(
            f"cannot write to {embedding.out}: {error.strerror or error}",
            f"{hint}; {_kept(embedding, sources)}" if embedding.result.made else hint,
        ) from error


def _kept(embedding: Embedding, sources: Sequence[Source]) -> str:
    done = embedding.result.made + embedding.result.kept
    return f"features of {done} of {len(sources)} inputs are kept in {embedding.out}"


def _report(result: Embedded, embedding: Embedding, *, as_json: bool) -> None:
    from infomax_cli.console import messages, print_json

    console = messages()
    for place, why in result.failed[:_TOLD]:
        told = why if place in why else f"{place}: {why}"
        console.print(f"left out: {told}", soft_wrap=True, markup=False)
    if len(result.failed) > _TOLD:
        console.print(f"left out: {len(result.failed) - _TOLD} more; --json tells all", soft_wrap=True, markup=False)
    if as_json:
        failed = [{"source": place, "error": why} for place, why in result.failed]
        print_json({"out": str(embedding.out), "made": result.made, "kept": result.kept, "failed": failed})
    if not result.made + result.kept:
        raise DataError(f"none of {count_of(len(result.failed), 'input')} could be embedded")
    inputs = count_of(result.made, "input")
    before = f", those of {result.kept} were there already" if result.kept else ""
    left = f", {len(result.failed)} left out" if result.failed else ""
    console.print(f"wrote features of {inputs} to {embedding.out}{before}{left}", soft_wrap=True, markup=False)


def _one_of(option: str, word: str, known: Sequence[str]) -> Any:
    if word not in known:
        raise UsageError(f"{option} {word}: not known", suggest(word, list(known)))
    return word
