"""`infomax export`: one file that computes what the encoder does, for any batch and any length."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tiny
import toys
from conftest import Infomax
from infomax_cli import PretrainedEncoder, load
from infomax_cli.core import exporting
from infomax_cli.core.exporting import export
from infomax_cli.core.inputs import InputSpec
from infomax_cli.errors import InfomaxError
from infomax_cli.recipe import parse
from infomax_cli.runs import Run
from infomax_plugins.encoders._spectrogram import Spectrogram
from infomax_plugins.encoders.amdim_resnet import AMDIMResNet
from infomax_plugins.encoders.dim_convnet import DIMConvNet
from infomax_plugins.encoders.resnet_patches import ResNetPatches
from infomax_plugins.encoders.speech_conv import SpeechConv

RECIPE = parse({"name": "toy", "data": "tones", "encoder": "toy", "loss": "toy", "train": {"steps": 1}}, "toy.yaml")
SOUNDS = [(1, 900), (2, 3200), (5, 4999)]  # batches and lengths that were not tried at export


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Iterator[Run]:
    """Greedy InfoMax with Gaussians at stages 1 and 4, and a GRU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INFOMAX_CACHE", str(shared_cache))
        changes = ("train.steps=2", "encoder.variational=[1,4]", "encoder.norm=batch")
        yield tiny.train(tmp_path_factory.mktemp("runs"), *changes)[1]


@pytest.fixture(autouse=True)
def _newest(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFOMAX_RUNS", str(run.path.parent))


def sound(batch: int, samples: int) -> Tensor:
    return 0.1 * torch.randn(batch, 1, samples, generator=torch.Generator().manual_seed(samples))


def onnx(path: Path) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"input": x.numpy()})[0])


def test_safetensors_is_what_load_takes(infomax: Infomax, run: Run) -> None:
    done = infomax("export", "--depth", "3")
    path = run.path / "export" / "depth3.safetensors"
    assert done.code == 0, done.err
    assert f"wrote {path}" in done.err
    assert "largest difference to the original: 0 (batches of 1 and 3, " in done.err
    assert f'features = load("{path}")(x)  # x: float32 (B, 1, T) at 16000 Hz, in [-1, 1]' in done.out
    with torch.no_grad():
        assert torch.equal(load(path)(sound(2, 3200)), load(run.path, depth=3)(sound(2, 3200)))


def test_onnx_of_a_recurrent_context_takes_any_batch_and_length(infomax: Infomax, here: Path, run: Run) -> None:
    import onnx as library

    done = infomax("export", str(run.path), "--format", "onnx", "--out", "gim.onnx")
    assert done.code == 0, done.err
    assert len(done.err.splitlines()) == 2
    found, encoder = onnx(here / "gim.onnx"), load(run.path)
    for batch, samples in SOUNDS:
        expected = encoder(sound(batch, samples)).detach()
        torch.testing.assert_close(found(sound(batch, samples)), expected, atol=1e-5, rtol=0)
    model = library.load(here / "gim.onnx")
    assert [node.op_type for node in model.graph.node].count("GRU") == 1
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert (facts["sample_rate"], facts["hop"], facts["centre"], facts["depth"]) == ("16000", "160", "20.0", "5")
    recipe = json.loads(facts["recipe"])
    assert recipe["encoder"]["name"] == "speech_conv"
    assert "root" not in recipe["data"]


def test_a_program_of_torch_needs_nothing_of_ours(infomax: Infomax, here: Path, run: Run) -> None:
    done = infomax("export", "--format", "torch-export", "--out", "gim.pt2", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["difference"] < 1e-5
    extra = {"infomax.json": ""}
    program = torch.export.load(here / "gim.pt2", extra_files=extra)
    assert not [node for node in program.graph.nodes if "infomax" in str(node.target)]
    found, encoder = program.module(), load(run.path)
    for batch, samples in SOUNDS:
        expected = encoder(sound(batch, samples)).detach()
        torch.testing.assert_close(found(sound(batch, samples)), expected, atol=1e-5, rtol=0)
    assert json.loads(extra["infomax.json"])["hop"] == "160"


class Recurrence(nn.Module):
    """An LSTM on the samples, in time."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([Cells()])

    def prepare(self, x: Tensor) -> Tensor:
        return x

    def readout(self, y: Tensor, stage: int) -> Tensor:
        return y

    def geometry(self, stage: int) -> tuple[Any, ...]:
        return toys.SpeechEncoder().geometry(-1)


class Cells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(1, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x.permute(2, 0, 1))[0].permute(1, 2, 0)


@pytest.mark.parametrize("form", ["onnx", "torch-export"])
def test_an_lstm_of_a_stranger_takes_any_length_too(here: Path, form: exporting.Format) -> None:
    model = PretrainedEncoder(Recurrence(), RECIPE, InputSpec.of(toys.SPEECH))
    made = export(model, form, here / "lstm")
    assert made.difference < 1e-6
    assert {shape[-1] for shape in made.shapes} == {19, 34, 39}
    assert type(model.encoder.stages[0].rnn) is nn.LSTM  # the original is as it was


def test_an_image_encoder_takes_any_batch(here: Path) -> None:
    model = PretrainedEncoder(toys.ImageEncoder(), RECIPE, InputSpec.of(toys.IMAGES), depth=1)
    export(model, "onnx", here / "images.onnx")
    images = torch.rand(7, 3, 16, 16)
    torch.testing.assert_close(onnx(here / "images.onnx")(images), model(images).detach(), atol=1e-5, rtol=0)
    assert "x: float32 (B, 3, 16, 16), in [0, 1]" in exporting.snippet(model, "onnx", here / "images.onnx")


SPEECH = InputSpec(1, (5120,), ("time",), 16000)
IMAGES, LARGER = (InputSpec(3, (side, side), ("height", "width"), None) for side in (16, 32))
SHIPPED: dict[str, tuple[type[Any], dict[str, Any], InputSpec]] = {
    "gim and cpc": (SpeechConv, {"channels": 6, "context_channels": 5}, SPEECH),
    "dim": (DIMConvNet, {"size": 16, "widths": [4, 4, 4, 8], "units": 8}, IMAGES),
    "dim on crops": (DIMConvNet, {"config": "foldmultialex64x64", "size": 32, "widths": [4] * 7}, LARGER),
    "amdim on speech": (AMDIMResNet, {"ndf": 4, "n_rkhs": 16, "depth": 1, "spectrogram": Spectrogram()}, SPEECH),
    "cpc on patches": (
        ResNetPatches,
        {"resnet": 34, "size": 16, "patch": 8, "stride": 4, "widths": (4,), "blocks": (1,), "context": "pixelcnn"},
        IMAGES,
    ),
}


@pytest.mark.parametrize("form", ["onnx", "torch-export"])
@pytest.mark.parametrize("name", SHIPPED)
def test_every_encoder_of_ours_is_exported_for_any_batch_and_any_length(
    here: Path, name: str, form: exporting.Format
) -> None:
    kind, options, inputs = SHIPPED[name]
    model = PretrainedEncoder(kind(**options), RECIPE, inputs)
    export(model, form, here / "it.pt2")
    found = onnx(here / "it.pt2") if form == "onnx" else torch.export.load(here / "it.pt2").module()
    for batch, more in ((2, 777), (5, 1001), (1, 4321)):  # not tried at export; images have one size
        grid = [inputs.grid[0] + more] if inputs.is_sound else inputs.grid
        x = 0.1 * torch.randn(batch, inputs.channels, *grid)
        torch.testing.assert_close(found(x), model(x).detach(), atol=1e-4, rtol=0)


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [lambda y: y + 2e-4, lambda y: y[..., 1:], lambda y: y * float("nan")])
def test_a_file_that_computes_something_else_is_refused(
    infomax: Infomax, here: Path, run: Run, monkeypatch: pytest.MonkeyPatch, wrong: Any
) -> None:
    def write(model: PretrainedEncoder, path: Path) -> exporting.Run:
        path.write_text("wrong")
        return lambda x: wrong(model(x))

    monkeypatch.setattr(exporting, "_write_program", write)
    done = infomax("export", "--format", "torch-export", "--out", "x.pt2")
    assert (done.code, "the torch-export computes something else: it is off by" in done.err) == (1, True)
    assert not list(here.glob("*x.pt2*"))


class Moody(toys.SpeechEncoder):
    """What it does depends on what it hears."""

    def readout(self, y: Tensor, stage: int) -> Tensor:
        return y if float(y.sum()) > 0 else -y


def test_what_cannot_be_exported_is_one_clear_line(here: Path) -> None:
    model = PretrainedEncoder(Moody(), RECIPE, InputSpec.of(toys.SPEECH), depth=0)
    with pytest.raises(InfomaxError, match=r"torch\.export cannot express this encoder: ") as error:
        export(model, "torch-export", here / "x.pt2")
    assert "\n" not in error.value.message
    assert not list(here.glob("*x.pt2*"))


def test_what_is_missing_is_named_with_the_command_that_installs_it(
    infomax: Infomax, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    done = infomax("export", "--format", "onnx")
    assert done.code == 1
    assert "error: --format onnx needs onnx, onnxscript and onnxruntime" in done.err
    assert "hint: pip install 'infomax[onnx]'" in done.err


def test_a_full_disk_is_one_clear_line_and_leaves_nothing(
    infomax: Infomax, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(model: PretrainedEncoder, path: Path) -> exporting.Run:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(exporting, "_write_program", write)
    done = infomax("export", "--format", "torch-export", "--out", "x/encoder.pt2")
    assert done.code == 1
    assert done.err.splitlines()[0] == "error: cannot write x/encoder.pt2: No space left on device"
    assert not list((here / "x").iterdir())


def test_what_makes_no_sense_is_refused(infomax: Infomax, run: Run) -> None:
    for words, told in (
        (["--format", "onx"], "did you mean onnx?"),
        (["--depth", "all"], "a file gives out one depth"),
        (["--depth", "9"], "the encoder has depths 0 to 5\nhint: or --depth last\n"),
        (["--depth", "top"], "hint: use last or a number from 0 on\n"),
        (["--out", str(run.encoder_file)], "is what is to be exported"),
        (["--out", str(run.path)], f"name a file in it: --out {run.path}/depth5.safetensors"),
    ):
        done = infomax("export", *words)
        assert (done.code, told in done.err) == (2, True), done.err
