"""A trained encoder in other people's code: `from infomax_cli import load`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scipy.signal import resample_poly
from torch import Tensor, nn

import tiny
import toys
from infomax_cli import PretrainedEncoder, load
from infomax_cli.core.api import DataError, DataSpec
from infomax_cli.core.blocks import encode
from infomax_cli.core.inputs import InputSpec
from infomax_cli.core.resample import resample
from infomax_cli.core.streaming import CannotStream, Streamer
from infomax_cli.errors import CheckpointError, UsageError
from infomax_cli.recipe import SamplingOptions, parse
from infomax_cli.runs import Run
from infomax_plugins.encoders.dim_convnet import DIMConvNet

WAVE = 0.1 * torch.randn(2, 3200, generator=torch.Generator().manual_seed(0))
README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Iterator[Run]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INFOMAX_CACHE", str(shared_cache))
        yield tiny.train(tmp_path_factory.mktemp("runs"), "train.steps=2")[1]


@pytest.fixture(scope="module")
def variational(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Iterator[Run]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INFOMAX_CACHE", str(shared_cache))
        changes = ("train.steps=2", "encoder.variational=[1,4]", "encoder.norm=batch", "encoder.cell=none")
        yield tiny.train(tmp_path_factory.mktemp("runs"), *changes)[1]


def of_images() -> PretrainedEncoder:
    return PretrainedEncoder(toys.ImageEncoder(), RECIPE, InputSpec.of(toys.IMAGES))


RECIPE = parse({"name": "toy", "data": "tones", "encoder": "toy", "loss": "toy", "train": {"steps": 1}}, "toy.yaml")


# --- loading ---------------------------------------------------------------------------------------------------------


def test_importing_infomax_does_not_import_torch_and_load_does() -> None:
    code = "import sys, infomax_cli; assert 'torch' not in sys.modules; infomax_cli.load; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_name_that_is_not_there_is_no_attribute() -> None:
    import infomax_cli

    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        _ = infomax_cli.laod


def test_a_run_is_loaded_by_path_by_name_or_as_the_newest(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFOMAX_RUNS", str(run.path.parent))
    ways = [load(run.path), load(str(run.path)), load(run.name), load(), load(run.name, runs=run.path.parent)]
    expected = load(run.encoder_file).layers(WAVE)
    for encoder in ways:
        assert tiny.same(encoder.layers(WAVE), expected)


def test_no_data_is_needed(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = tmp_path / "alone" / "encoder.safetensors"
    alone.parent.mkdir()
    alone.write_bytes(run.encoder_file.read_bytes())

    def refuse(*_: Any) -> None:
        raise AssertionError("the data was asked for")

    monkeypatch.setattr("infomax_cli.core.build.build_dataset", refuse)
    for source in (alone, alone.parent):
        assert load(source).sample_rate == 16000


def test_features_are_those_of_the_encoder_that_was_trained(run: Run) -> None:
    encoder = load(run.path)
    expected = encode(encoder.encoder, WAVE[:, None], SamplingOptions())
    assert tiny.same(encoder.layers(WAVE), list(expected))
    assert torch.equal(encoder(WAVE), expected[5])
    assert torch.equal(encoder(WAVE, depth=2), expected[2])
    assert torch.equal(load(run.path, depth=4)(WAVE), expected[4])
    assert tiny.same(dict(load_file(run.encoder_file)), dict(sorted(encoder.encoder.state_dict().items())))


def test_what_frames_are_is_told(run: Run) -> None:
    encoder = load(run.path, depth=4)
    assert (encoder.sample_rate, encoder.hop, encoder.centre, encoder.receptive_field) == (16000, 160, 20.0, 465)
    assert encoder.channels == 6
    assert [depth.hop for depth in encoder.depths] == [5, 20, 40, 80, 160, 160]
    assert [depth.channels for depth in encoder.depths] == [6] * 5 + [5]
    assert encoder.steps == 2
    assert "depth=4, channels=6, hop=160, sample_rate=16000" in repr(encoder)


def test_an_older_file_asks_the_data_and_says_what_to_do_without_it(
    run: Run, tmp_path: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFOMAX_CACHE", str(shared_cache))
    old = tmp_path / "encoder.safetensors"
    with safe_open(run.encoder_file, "pt") as file:
        metadata = {key: value for key, value in file.metadata().items() if key != "inputs"}
    save_file(load_file(run.encoder_file), old, metadata)
    assert load(old).sample_rate == 16000

    class Gone(tiny.Tones):
        def describe(self, root: Path) -> DataSpec:
            raise DataError("no data under /nowhere", "download it")

    raw = json.loads(metadata["recipe"])
    raw["data"] = {"name": "gone"}
    save_file(load_file(run.encoder_file), old, metadata | {"recipe": json.dumps(raw)})
    tiny.plant(monkeypatch, gone=Gone)
    with pytest.raises(CheckpointError, match="did not note the sample rate") as error:
        load(old)
    assert "put the data back" in str(error.value.hint)


def test_what_cannot_be_loaded_is_one_clear_line(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no run or recipe 'nothing'"):
        load("nothing", runs=tmp_path)
    with pytest.raises(UsageError, match="depth 9: the encoder has depths 0 to 5"):
        load(run.path, depth=9)
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, other)
    with pytest.raises(CheckpointError, match="does not tell how the encoder is built"):
        load(other)
    empty = tmp_path / "empty-run"
    empty.mkdir()
    (empty / "recipe.yaml").write_text("name: x\n")
    with pytest.raises(CheckpointError, match="its training has saved nothing yet"):
        load(empty)
    (empty / "checkpoints").mkdir()
    (empty / "checkpoints" / "last.pt").touch()
    with pytest.raises(CheckpointError, match=r"holds no encoder\.safetensors$"):
        load(empty)


def test_an_encoder_whose_plugin_is_gone_names_the_run(run: Run, tmp_path: Path) -> None:
    with safe_open(run.encoder_file, "pt") as file:
        recipe = file.metadata()["recipe"].replace("speech_conv", "speech_gone")
    save_file(load_file(run.encoder_file), tmp_path / "old.safetensors", {"recipe": recipe})
    with pytest.raises(UsageError, match=r"old\.safetensors: there is no encoder 'speech_gone'"):
        load(tmp_path / "old.safetensors")


# --- what it takes ---------------------------------------------------------------------------------------------------


def test_sound_may_have_any_shape_and_type(run: Run) -> None:
    encoder = load(run.path)
    expected = encoder(WAVE[:1, None])
    for shaped in (WAVE[0], WAVE[:1], WAVE[:1, None]):
        assert torch.equal(encoder(shaped), expected)
        assert torch.equal(encoder(shaped.numpy()), expected)
    assert torch.equal(encoder(WAVE[0].double().numpy()), expected)
    assert torch.equal(encoder(WAVE[0].tolist()), expected)
    backwards = np.ascontiguousarray(WAVE[0].numpy()[::-1])[::-1]
    assert torch.equal(encoder(backwards), expected)
    assert encoder(WAVE).shape == (2, 5, 20)
    whole = (WAVE[0] * 2**15).round().to(torch.int16)
    assert torch.equal(encoder(whole), encoder(whole.float() / 2**15))
    assert torch.equal(encoder(whole.numpy()), encoder((whole.int() * 2**16).numpy()))


def test_sound_that_does_not_fit_is_refused(run: Run) -> None:
    encoder = load(run.path)
    with pytest.raises(UsageError, match=r"takes sound \(T,\), \(B, T\) or \(B, 1, T\), not \(1, 2, 3200\)"):
        encoder(WAVE[None])
    with pytest.raises(UsageError, match=r"\(3200, 2\) looks like \(T, C\)"):
        encoder(WAVE.T)
    with pytest.raises(UsageError, match=r"of int16 or int32, not torch.uint8"):
        encoder(torch.zeros(3200, dtype=torch.uint8))


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_resampling_equals_that_of_files(rate: int) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3001))
    expected = resample_poly(x, 16000, rate, axis=1)
    found = resample(torch.from_numpy(x)[:, None], rate, 16000)[:, 0].numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_another_sample_rate_is_resampled_with_a_gradient(run: Run) -> None:
    encoder = load(run.path)
    x = torch.randn(8820, requires_grad=True)
    features = encoder(x, sample_rate=44100)
    assert features.shape == (1, 5, 20)
    assert torch.equal(features, encoder(resample(x[None, None], 44100, 16000)))
    features.square().mean().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_images_come_with_channels_first_as_floats_or_bytes() -> None:
    encoder = of_images()
    image = torch.randint(256, (3, 16, 16), dtype=torch.uint8)
    expected = encoder(image[None].float() / 255)
    assert expected.shape == (1, 8, 1, 1)
    assert torch.equal(encoder(image), expected)
    assert torch.equal(encoder(image.numpy() / 255), expected)
    assert (encoder.sample_rate, encoder.hop, encoder.centre) == (None, 2, 7.5)
    with pytest.raises(UsageError, match=r"takes \(3, height, width\), or a batch of them, not \(1, 16, 16, 3\)"):
        encoder(image.permute(1, 2, 0))
    with pytest.raises(UsageError, match="no sample rate"):
        encoder(image, 16000)
    with pytest.raises(UsageError, match=r"images in \[0, 1\], and these are brighter"):
        encoder(image.float())


# --- a module like any other -----------------------------------------------------------------------------------------


def test_evaluation_takes_the_mean_of_gaussians_and_training_draws(variational: Run) -> None:
    encoder = load(variational.path)
    assert not encoder.training
    stages = encoder.encoder.stages
    x = encoder.encoder.prepare(WAVE[:, None])
    for stage in stages[:1]:
        x = stage(x)
    assert torch.equal(encoder.layers(WAVE)[1], stages[1](x).mean)
    assert torch.equal(encoder(WAVE), encoder(WAVE))
    encoder.train()
    assert not torch.equal(encoder(WAVE), encoder(WAVE))


def test_it_can_be_trained_further_and_saved(run: Run, tmp_path: Path) -> None:
    encoder = load(run.path)
    head = nn.Linear(encoder.channels, 3)
    optimizer = torch.optim.SGD([*encoder.parameters(), *head.parameters()], lr=0.1)
    before = encoder(WAVE)
    encoder.train()
    nn.functional.cross_entropy(head(encoder(WAVE).mean(-1)), torch.tensor([0, 1])).backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())
    optimizer.step()
    encoder.eval()
    assert not torch.equal(encoder(WAVE), before)
    encoder.save(tmp_path / "tuned.safetensors")
    assert torch.equal(load(tmp_path / "tuned.safetensors")(WAVE), encoder(WAVE))
    other = load(run.path)
    other.load_state_dict(encoder.state_dict())
    assert torch.equal(other(WAVE), encoder(WAVE))


def test_a_saved_file_tells_its_depth_and_nothing_of_the_machine(run: Run, tmp_path: Path) -> None:
    load(run.path, depth=2).save(tmp_path / "two.safetensors")
    assert load(tmp_path / "two.safetensors").depth == 2
    with safe_open(tmp_path / "two.safetensors", "pt") as file:
        assert "root" not in json.loads(file.metadata()["recipe"])["data"]


def example(of: str) -> str:
    """The one block of Python in the README that uses a model, and that speaks `of` it."""
    blocks = [part.partition("```")[0] for part in README.read_text().split("```python\n")[1:]]
    (found,) = [block for block in blocks if "from infomax_cli import load" in block and of in block]
    return found


def test_the_example_in_the_readme_runs(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFOMAX_RUNS", str(run.path.parent))
    import soundfile

    soundfile.write(here / "speech.wav", WAVE[0].numpy(), 16000)
    found: dict[str, Any] = {}
    exec(example("speech.wav"), found)
    assert found["features"].shape == (1, 5, 20)


def test_the_example_of_images_in_the_readme_runs(here: Path) -> None:
    from PIL import Image

    text = "name: dim\ndata: cifar10\nencoder: {name: dim_convnet, widths: [4, 4, 4, 8]}\nloss: kl\ntrain: {steps: 1}\n"
    run = Run(here / "runs" / "dim")
    run.path.mkdir(parents=True)
    run.recipe_file.write_text(text)
    inputs = InputSpec(3, (32, 32), ("height", "width"), None)
    PretrainedEncoder(DIMConvNet(widths=[4, 4, 4, 8]), run.recipe(), inputs).save(run.encoder_file)
    Image.new("RGBA", (40, 30), "red").save(here / "photo.png")
    found: dict[str, Any] = {}
    exec(example("photo.png"), found)
    assert found["features"].shape == (1, 64, 1, 1)


# --- in pieces -------------------------------------------------------------------------------------------------------


def in_pieces(encoder: PretrainedEncoder, x: Tensor) -> list[Tensor]:
    """``(C, T')`` of every depth."""
    streamer = Streamer(encoder, range(len(encoder.depths)))
    maps = list(streamer.maps(lambda start, stop: x[..., start:stop], x.shape[-1]))
    assert len(maps) > 1
    return [torch.cat(column, -1) for column in zip(*maps, strict=True)]


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("samples", [17001, 20013, 35999])
def test_pieces_equal_the_whole_at_every_depth_ends_and_context_too(
    run: Run, cell: str, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from infomax_plugins.encoders.speech_conv import SpeechConv

    monkeypatch.setattr("infomax_cli.core.streaming.PIECE_SECONDS", 1)
    model = SpeechConv(channels=6, context_channels=5, cell=cell)
    encoder = PretrainedEncoder(model, load(run.path).recipe, load(run.path).inputs)
    x = 0.1 * torch.randn(1, 1, samples, generator=torch.Generator().manual_seed(1))
    for found, whole in zip(in_pieces(encoder, x), encoder.layers(x), strict=True):
        torch.testing.assert_close(found[None], whole, atol=1e-5, rtol=0)


class Normed(toys.SpeechEncoder):
    """A stranger's stage that looks at all frames, which its geometry does not tell."""

    def __init__(self) -> None:
        super().__init__()
        self.stages[1] = nn.Sequential(toys.Conv(6, 6), nn.InstanceNorm1d(6))


def test_an_encoder_that_must_see_the_whole_is_given_it_or_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infomax_cli.core.streaming.PIECE_SECONDS", 1)
    monkeypatch.setattr("infomax_cli.core.streaming.WHOLE_SECONDS", 2)
    x = torch.randn(1, 1, 40000)
    for model, depth, why in ((Normed(), 2, "depends on more"), (toys.SpeechEncoder(), 3, "cannot go on from a state")):
        encoder = PretrainedEncoder(model, RECIPE, InputSpec.of(toys.SPEECH))
        streamer = Streamer(encoder, [depth])
        (whole,) = streamer.maps(lambda start, stop: x[..., start:stop], 20000)
        torch.testing.assert_close(whole[0][None], encoder(x[..., :20000], depth=depth))
        with pytest.raises(CannotStream, match=f"depth {depth} .*{why}"):
            list(streamer.maps(lambda start, stop: x[..., start:stop], 40000))
    assert len(list(Streamer(encoder, [2]).maps(lambda start, stop: x[..., start:stop], 40000))) > 1
