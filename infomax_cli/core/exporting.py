"""A trained encoder for other programs: as weights, as a program of `torch.export`, as ONNX.

The graph takes raw input, `prepare` and all, and returns the readout of one depth; of Gaussians the mean. What was
written is read back and compared with the original before it gets its name.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from infomax_cli.core.blocks import encode
from infomax_cli.core.export_rnn import name_as_torch_does, onnx_translations, traceable
from infomax_cli.core.files import write_atomically
from infomax_cli.core.pretrained import PretrainedEncoder, load_file
from infomax_cli.errors import CheckpointError, InfomaxError
from infomax_cli.recipe import SamplingOptions
from infomax_cli.wording import describe_error, describe_input

Format = Literal["safetensors", "onnx", "torch-export"]
FORMATS: tuple[Format, ...] = get_args(Format)
SUFFIXES: dict[Format, str] = {"safetensors": "safetensors", "onnx": "onnx", "torch-export": "pt2"}
TOLERANCE = 1e-4
BATCHES = (1, 3)
INPUT, OUTPUT = "input", "features"

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Exported:
    """A file, and the largest difference to the original over the shapes that were tried."""

    path: Path
    difference: float
    shapes: tuple[tuple[int, ...], ...]


class _Graph(nn.Module):
    """Raw input ``(B, C, *grid)`` to the readout of one depth."""

    def __init__(self, encoder: Any, depth: int) -> None:
        super().__init__()
        self.encoder, self.depth = encoder, depth

    def forward(self, input: Tensor) -> Tensor:
        return encode(self.encoder, input, SamplingOptions(), self.depth)[-1].contiguous()


def export(model: PretrainedEncoder, form: Format, path: Path) -> Exported:
    """Write the encoder, with the depth that `model` has, as a file at `path`; whole, or not at all.

    Raises `InfomaxError` where something that the format needs is not installed, where the encoder cannot be exported
    so, or where the file does not compute what the encoder does, or cannot be written.
    """
    model = model.cpu().eval()
    write = {"safetensors": _write_safetensors, "onnx": _write_onnx, "torch-export": _write_program}[form]
    try:
        with write_atomically(path) as temporary:
            run = write(model, temporary)
            difference, shapes = _compare(model, run, form)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path}: {error.strerror or error}", "make room there, or choose another file with --out"
        ) from error
    return Exported(path, difference, shapes)


def metadata(model: PretrainedEncoder) -> dict[str, str]:
    """What a user must know of the graph, and the recipe that made it."""
    recipe = model.recipe.to_dict()
    recipe["data"].pop("root", None)
    facts = {
        "depth": model.depth, "channels": model.channels, "hop": model.hop, "centre": model.centre,
        "receptive_field": model.receptive_field, "sample_rate": model.sample_rate, "step": model.steps,
        "inputs": model.inputs.to_dict(), "recipe": recipe,
    }  # fmt: skip
    return {"format": "infomax", **{key: json.dumps(value) for key, value in facts.items() if value is not None}}


def snippet(model: PretrainedEncoder, form: Format, path: Path) -> str:
    """How to use the file, in Python."""
    grid = ["T"] if 2 in _dynamic(model) else model.inputs.grid
    x = f"x: float32 {describe_input(model.inputs.channels, grid, model.sample_rate)}"
    if form == "safetensors":
        return f'from infomax_cli import load\nfeatures = load("{path}")(x)  # {x}'
    if form == "torch-export":
        return f'import torch\nencoder = torch.export.load("{path}").module()\nfeatures = encoder(x)  # {x}'
    return (
        f'import onnxruntime\nsession = onnxruntime.InferenceSession("{path}")\n'
        f'features = session.run(None, {{"{INPUT}": x}})[0]  # {x}'
    )


# --- writing ---------------------------------------------------------------------------------------------------------


def _write_safetensors(model: PretrainedEncoder, path: Path) -> Run:
    model.save(path)
    return load_file(path)


def _write_program(model: PretrainedEncoder, path: Path) -> Run:
    graph = _Graph(traceable(model.encoder), model.depth).eval()
    dynamic = dict.fromkeys(_dynamic(model), torch.export.Dim.AUTO)
    with _told("torch.export"), quiet():
        program = torch.export.export(graph, (_example(model),), dynamic_shapes={INPUT: dynamic})
        name_as_torch_does(program)
        saved = io.BytesIO()  # torch dies where a file of its own meets a full disk
        torch.export.save(program, saved, extra_files={"infomax.json": json.dumps(metadata(model))})
        path.write_bytes(saved.getbuffer())
        return torch.export.load(path).module()


def _write_onnx(model: PretrainedEncoder, path: Path) -> Run:
    onnxruntime = _onnxruntime()
    graph = _Graph(traceable(model.encoder), model.depth).eval()
    dynamic = _dynamic(model)
    with _told("ONNX"), quiet():
        program = torch.onnx.export(
            graph, (_example(model),), dynamo=True, verbose=False, dynamic_shapes={INPUT: dynamic},
            input_names=[INPUT], output_names=[OUTPUT], custom_translation_table=onnx_translations(),
        )  # fmt: skip
        assert program is not None
        program.model.metadata_props.update(metadata(model))
        program.save(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {INPUT: x.numpy()})[0])


def _onnxruntime() -> Any:
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InfomaxError(
            f"--format onnx needs onnx, onnxscript and onnxruntime: {error}", "pip install 'infomax[onnx]'"
        ) from error
    return onnxruntime


def _example(model: PretrainedEncoder) -> Tensor:
    """What the graph is traced with; of sound several frames, since tracers take a single one for all there can be."""
    return torch.zeros(2, model.inputs.channels, *_grids(model)[-1])


def _dynamic(model: PretrainedEncoder) -> dict[int, str]:
    """The batch, and time where the output has frames in time."""
    timed = model.inputs.is_sound and any(axis.name == "time" for axis in model.depths[model.depth].axes)
    return {0: "batch", 2: "time"} if timed else {0: "batch"}


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """A failure of the exporter in one line."""
    try:
        yield
    except (InfomaxError, OSError, MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise InfomaxError(
            f"{what} cannot express this encoder: {describe_error(error)}",
            "--format safetensors always works; INFOMAX_DEBUG=1 shows where",
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what the exporters tell their own authors: deprecations, and which operators they pass over."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for kind in (DeprecationWarning, FutureWarning, UserWarning):
            warnings.filterwarnings("ignore", category=kind, module=r"(torch|onnx|onnxscript|onnx_ir|copyreg)\b")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


# --- comparing -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def _compare(model: PretrainedEncoder, run: Run, form: str) -> tuple[float, tuple[tuple[int, ...], ...]]:
    """The largest difference over batches and lengths of noise; raises `InfomaxError` above `TOLERANCE`."""
    noise = torch.Generator().manual_seed(0)
    largest, shapes = 0.0, []
    for batch in BATCHES:
        for grid in _grids(model):
            x = torch.rand(batch, model.inputs.channels, *grid, generator=noise)
            expected = model(0.2 * x - 0.1 if model.inputs.is_sound else x)
            try:
                found = run(0.2 * x - 0.1 if model.inputs.is_sound else x)
            except Exception as error:
                raise InfomaxError(
                    f"the {form} fails on an input {tuple(x.shape)}: {describe_error(error)}",
                    "nothing was written; --format safetensors always works",
                ) from error
            same = found.shape == expected.shape
            difference = float((found - expected).abs().max()) if same else float("inf")
            if not difference <= TOLERANCE:
                raise InfomaxError(
                    f"the {form} computes something else: it is off by {difference:.2g} on an input {tuple(x.shape)}",
                    "nothing was written; --format safetensors always works",
                )
            largest = max(largest, difference)
            shapes.append(tuple(x.shape))
    return largest, tuple(shapes)


def _grids(model: PretrainedEncoder) -> Sequence[tuple[int, ...]]:
    """Three lengths of sound, where the length is free: about the training's, and no multiple of any hop."""
    if 2 not in _dynamic(model):
        return [model.inputs.grid]
    (length,) = model.inputs.grid
    longest = max(depth.axis.field + 8 * depth.axis.hop for depth in model.depths)  # whatever depth is wanted
    length = max(min(length, 2 * longest), longest)
    return [(length + 1,), (length + length // 2 + 7,), (2 * length + 3,)]
