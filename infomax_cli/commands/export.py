"""`infomax export`: a trained encoder as one file, for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infomax_cli.commands.asking import RUN, depth_of
from infomax_cli.errors import UsageError
from infomax_cli.wording import suggest

if TYPE_CHECKING:
    from infomax_cli.core.exporting import Exported, Format
    from infomax_cli.core.pretrained import PretrainedEncoder


def export(
    run: Annotated[str | None, typer.Argument(help=f"{RUN} Or an encoder.safetensors.")] = None,
    form: Annotated[str, typer.Option("--format", help="safetensors, onnx or torch-export.")] = "safetensors",
    depth: Annotated[str, typer.Option(help="last, or a number.")] = "last",
    out: Annotated[Path | None, typer.Option(help="The file; else export/ in the run's folder.")] = None,
    runs: Annotated[Path | None, typer.Option(help="Where runs lie; else $INFOMAX_RUNS, else ./runs.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Write a run's encoder as one file: raw sound or images in, the features of one depth out.

    \b
    infomax export RUN                             weights and recipe, for `infomax_cli.load`
    infomax export RUN --format onnx --depth 4     for onnxruntime, any batch and any length
    infomax export RUN --format torch-export       for torch alone; sound of two frames or more

    Before the file gets its name it is read back and compared with the original.
    """
    from infomax_cli.core import exporting
    from infomax_cli.core.pretrained import encoder_path, load_file
    from infomax_cli.paths import runs_root

    if form not in exporting.FORMATS:
        raise UsageError(f"--format {form}: not known", suggest(form, list(exporting.FORMATS)))
    file = encoder_path(run, runs or runs_root())
    model = load_file(file)
    if depth == "all":
        raise UsageError("--depth all: a file gives out one depth", "export one after the other: --depth 0")
    model.depth = depth_of(depth, len(model.depths))
    name = f"depth{model.depth}.{exporting.SUFFIXES[form]}"
    path = out or _place(file, name)
    if path.is_dir():
        raise UsageError(f"--out {path} is a folder", f"name a file in it: --out {path / name}")
    if path.exists() and path.samefile(file):
        raise UsageError(f"--out {path} is what is to be exported", "choose another file")
    made = exporting.export(model, form, path)
    _report(model, form, made, as_json=as_json)


def _place(file: Path, name: str) -> Path:
    """In the run; of an encoder that is no run's, in the working folder."""
    return file.parent / "export" / name if (file.parent / "recipe.yaml").is_file() else Path(f"{file.stem}-{name}")


def _report(model: PretrainedEncoder, form: Format, made: Exported, *, as_json: bool) -> None:
    from infomax_cli.console import messages, print_json, results
    from infomax_cli.core.exporting import metadata, snippet

    batches = sorted({shape[0] for shape in made.shapes})
    grids = sorted({shape[2:] for shape in made.shapes})
    if as_json:
        print_json({"file": str(made.path), "difference": made.difference, "shapes": made.shapes, **metadata(model)})
    sizes = ", ".join("x".join(map(str, grid)) for grid in grids)
    unit = "samples" if model.inputs.is_sound else "pixels"
    tried = f"batches of {' and '.join(map(str, batches))}, {sizes} {unit}"
    console = messages()
    console.print(f"wrote {made.path}", soft_wrap=True, markup=False)
    console.print(
        f"largest difference to the original: {made.difference:.2g} ({tried})",
        soft_wrap=True, markup=False,
    )  # fmt: skip
    if not as_json:
        results().print(snippet(model, form, made.path), soft_wrap=True, markup=False)
