"""`infomax embed`: features of files, folders and splits, resumed, in bounded memory."""

from __future__ import annotations

import errno
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import tiny
import toys
from conftest import Forked, Infomax
from infomax_cli import load
from infomax_cli.core import embedding
from infomax_cli.core.embed_sources import Names
from infomax_cli.core.inputs import InputSpec
from infomax_cli.core.pretrained import PretrainedEncoder
from infomax_cli.runs import Run

Arrays = dict[str, np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Iterator[Run]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INFOMAX_CACHE", str(shared_cache))
        yield tiny.train(tmp_path_factory.mktemp("runs"), "train.steps=2")[1]


@pytest.fixture(autouse=True)
def _newest(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFOMAX_RUNS", str(run.path.parent))


def sound(path: Path, samples: int, rate: int = 16000) -> torch.Tensor:
    """A file of 16-bit noise, and what is in it."""
    noise = np.random.default_rng(samples).integers(-3000, 3000, samples).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise, rate)
    return torch.from_numpy(noise)


def index(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "index.jsonl").read_text().splitlines()]


def test_a_folder_becomes_frames_by_channels_and_an_index(infomax: Infomax, here: Path, run: Run) -> None:
    one, two = sound(here / "in" / "a.wav", 3200), sound(here / "in" / "deep" / "b.flac", 4000)
    (here / "in" / "notes.txt").write_text("no sound")
    done = infomax("embed", "in", "--out", "out")
    assert done.code == 0, done.err
    encoder = load(run.path)
    for name, samples in (("a.npy", one), ("deep/b.npy", two)):
        found = np.load(here / "out" / name)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, encoder(samples)[0].T.detach(), atol=1e-6)
    assert index(here / "out") == [
        {
            "id": id, "file": file, "key": "depth5", "depth": 5, "shape": [samples // 160, 5], "hop": 160,
            "centre": 20.0, "sample_rate": 16000, "duration": samples / 16000, "source": str(here / "in" / id),
        }
        for id, file, samples in (("a.wav", "a.npy", 3200), ("deep/b.flac", "deep/b.npy", 4000))
    ]  # fmt: skip
    assert done.err.startswith(f"embedding with {run.path}\n")
    assert "wrote features of 2 inputs to out" in done.err


def read_npz(path: Path) -> Arrays:
    with np.load(path) as file:
        return dict(file)


def read_safetensors(path: Path) -> Arrays:
    from safetensors import safe_open
    from safetensors.numpy import load_file

    with safe_open(path, "np") as file:
        assert file.metadata()["depth4.hop"] == "160"
    return load_file(path)


def read_parquet(path: Path) -> Arrays:
    import pyarrow.parquet as parquet

    table = parquet.read_table(path).to_pydict()
    assert set(table["id"]) == {"a.wav"}
    found: Arrays = {}
    for depth in sorted(set(table["depth"])):
        rows = [place for place, value in enumerate(table["depth"]) if value == depth]
        assert [table["frame"][row] for row in rows] == list(range(len(rows)))
        found[f"depth{depth}"] = np.array([table["features"][row] for row in rows])
        if depth == 4:
            assert table["time"][rows[3]] == pytest.approx((3 * 160 + 20) / 16000)
    return found


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
@pytest.mark.parametrize(
    ("form", "read"), [("npz", read_npz), ("safetensors", read_safetensors), ("parquet", read_parquet)]
)
def test_every_format_holds_every_depth(
    infomax: Infomax, here: Path, run: Run, form: str, read: Callable[[Path], Arrays], dtype: str
) -> None:
    samples = sound(here / "a.wav", 3200)
    done = infomax("embed", str(run.path), "a.wav", "--depth", "all", "--format", form, "--dtype", dtype, "--out", "o")
    assert done.code == 0, done.err
    found = read(here / "o" / f"a.{form}")
    assert sorted(found) == [f"depth{depth}" for depth in range(6)]
    for depth, values in enumerate(load(run.path).layers(samples)):
        np.testing.assert_allclose(found[f"depth{depth}"], values[0].T.detach(), atol=1e-3 if dtype == "fp16" else 1e-6)


def test_of_several_depths_the_default_is_npz_and_npy_is_refused(infomax: Infomax, here: Path) -> None:
    sound(here / "a.wav", 3200)
    assert infomax("embed", "a.wav", "--depth", "all", "--out", "o").code == 0
    assert (here / "o" / "a.npz").exists()
    done = infomax("embed", "a.wav", "--depth", "all", "--format", "npy")
    assert (done.code, "npy holds one array" in done.err) == (2, True)


def test_parquet_without_pyarrow_is_one_clear_line(
    infomax: Infomax, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound(here / "a.wav", 3200)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    done = infomax("embed", "a.wav", "--format", "parquet")
    assert done.code == 1
    assert done.err.splitlines() == [
        "error: --format parquet needs pyarrow, which is not installed",
        "hint: pip install 'infomax[parquet]'",
    ]


def test_the_mean_is_one_vector_of_all_frames(infomax: Infomax, here: Path, run: Run) -> None:
    samples = sound(here / "a.wav", 3200)
    assert infomax("embed", "tiny", "a.wav", "--pool", "mean", "--depth", "4", "--out", "o").code == 0
    expected = load(run.path, depth=4)(samples).mean(-1)[0].detach()
    np.testing.assert_allclose(np.load(here / "o" / "a.npy"), expected, atol=1e-6)


def test_a_split_is_embedded_with_its_labels_into_the_run(infomax: Infomax, run: Run) -> None:
    done = infomax("embed", run.name, "--split", "test", "--pool", "mean")
    assert done.code == 0, done.err
    lines = index(run.path / "embed" / "test-depth5-mean")
    assert len(lines) == 9
    assert all(line["labels"]["speaker"] == 4 for line in lines)  # who is held out
    assert lines[3]["source"] == "syllables:test[3]"
    assert np.load(run.path / "embed" / "test-depth5-mean" / lines[3]["file"]).shape == (5,)
    assert "there is no such split" not in done.err
    assert not any("left out" in line for line in done.err.splitlines())
    done = infomax("embed", "--split", "tset")
    assert (done.code, "did you mean test?" in done.err) == (2, True)


def test_changes_are_of_the_data_only(infomax: Infomax, here: Path) -> None:
    done = infomax("embed", "--split", "test", "data.words=12", "--out", "o")
    assert done.code == 0, done.err
    assert len(index(here / "o")) != 9
    done = infomax("embed", "--split", "test", "train.lr=1")
    assert (done.code, "only options of its data may change" in done.err) == (2, True)
    sound(here / "a.wav", 3200)
    done = infomax("embed", "a.wav", "data.words=6")
    assert (done.code, "data.words=6 is for --split" in done.err) == (2, True)


def test_a_split_of_other_data_is_embedded_where_it_fits(infomax: Infomax, here: Path) -> None:
    sound(here / "mine" / "a" / "1.wav", 3200)
    sound(here / "mine" / "b" / "2.wav", 4000)
    words = (
        "--data",
        "folder",
        "--split",
        "train",
        "data.path=mine",
        "data.validation_fraction=0",
        "data.test_fraction=0",
    )
    done = infomax("embed", *words, "--out", "o")
    assert done.code == 0, done.err
    assert [line["shape"] for line in index(here / "o")] == [[20, 5], [25, 5]]
    done = infomax("embed", *words, "data.rate=8000")
    assert (done.code, "folder holds sound of 1 channel at 8000 Hz, but the encoder takes" in done.err) == (2, True)
    sound(here / "a.wav", 3200)
    done = infomax("embed", "a.wav", "--data", "folder")
    assert (done.code, "--data folder is for --split" in done.err) == (2, True)


# --- long sound ------------------------------------------------------------------------------------------------------


def test_long_sound_in_pieces_equals_the_whole_and_is_never_read_whole(
    infomax: Infomax, here: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from infomax_cli.core import embed_sources

    samples = sound(here / "long.flac", 16000 * 40 + 77)
    most = 0

    def watched(path: Path, start: int, frames: int, rate: int) -> torch.Tensor:
        nonlocal most
        most = max(most, frames)
        return read(path, start, frames, rate)

    read = embed_sources.read_audio
    monkeypatch.setattr(embed_sources, "read_audio", watched)
    assert infomax("embed", "long.flac", "--depth", "all", "--out", "o").code == 0
    assert most < 16000 * 11
    found = read_npz(here / "o" / "long.npz")
    for depth, whole in enumerate(load(run.path).layers(samples)):
        np.testing.assert_allclose(found[f"depth{depth}"], whole[0].T.detach(), atol=1e-4)


def test_sound_of_another_rate_is_resampled_in_pieces_too(infomax: Infomax, here: Path, run: Run) -> None:
    samples = sound(here / "cd.wav", 44100 * 21, 44100)
    assert infomax("embed", "cd.wav", "--out", "o").code == 0
    whole = load(run.path)(samples, sample_rate=44100)[0].T.detach()
    np.testing.assert_allclose(np.load(here / "o" / "cd.npy"), whole, atol=1e-4)


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_corrupt_and_short_files_are_named_and_left_out(infomax: Infomax, here: Path) -> None:
    sound(here / "in" / "good.wav", 3200)
    sound(here / "in" / "short.wav", 20)
    (here / "in" / "bad.flac").write_bytes(b"fLaC but no more")
    done = infomax("embed", "in", "--out", "o")
    assert done.code == 0
    assert [line["id"] for line in index(here / "o")] == ["good.wav"]
    left = [line for line in done.err.splitlines() if line.startswith("left out: ")]
    assert [str(here / "in" / name) in line for name, line in zip(("bad.flac", "short.wav"), left, strict=True)]
    assert "samples to make one frame, got 20" in left[1]
    assert "wrote features of 1 input to o, 2 left out" in done.err
    done = infomax("embed", "in/bad.flac", "--out", "o")
    assert (done.code, "none of 1 input could be embedded" in done.err) == (1, True)


def test_the_result_as_json(infomax: Infomax, here: Path) -> None:
    sound(here / "in" / "good.wav", 3200)
    (here / "in" / "bad.wav").write_bytes(b"")
    found = json.loads(infomax("embed", "in", "--out", "o", "--json").out)
    assert (found["made"], found["kept"], found["failed"][0]["source"]) == (1, 0, str(here / "in" / "bad.wav"))


def test_what_is_there_is_kept_and_what_was_half_made_is_made_again(infomax: Infomax, here: Path) -> None:
    for number in range(4):
        sound(here / "in" / f"{number}.wav", 3200 + number)
    assert infomax("embed", "in", "--out", "o").code == 0
    whole = {path.name: path.read_bytes() for path in (here / "o").iterdir()}
    lines = (here / "o" / "index.jsonl").read_text().splitlines(keepends=True)
    (here / "o" / "index.jsonl").write_text("".join(lines[:2]) + lines[2][:20])  # killed while it wrote the third
    (here / "o" / "1.npy").unlink()
    (here / "o" / ".3.npy.x.tmp").write_text("half")
    stamp = (here / "o" / "0.npy").stat().st_mtime_ns
    done = infomax("embed", "in", "--out", "o")
    assert "wrote features of 3 inputs to o, those of 1 were there already" in done.err
    assert (here / "o" / "0.npy").stat().st_mtime_ns == stamp
    found = {path.name: path.read_bytes() for path in (here / "o").iterdir()}
    assert sorted(found) == sorted(whole)
    for name in whole.keys() - {"index.jsonl"}:
        assert found[name] == whole[name]
    assert sorted(line["id"] for line in index(here / "o")) == [f"{number}.wav" for number in range(4)]


def test_features_made_in_another_way_are_not_mixed(infomax: Infomax, here: Path) -> None:
    sound(here / "a.wav", 3200)
    assert infomax("embed", "a.wav", "--out", "o").code == 0
    done = infomax("embed", "a.wav", "--out", "o", "--dtype", "fp16")
    assert (done.code, "o holds features of another dtype" in done.err) == (2, True)


def test_ctrl_c_tells_what_is_kept(forked: Forked, here: Path) -> None:
    for number in range(3):
        sound(here / "in" / f"{number}.wav", 3200)
    slow = (
        "import time\nfrom infomax_cli.core import embedding\nreal = embedding.write_arrays\n"
        "def write(path, *rest):\n    time.sleep(60 if path.name[0] == '1' else 0)\n    real(path, *rest)\n"
        "embedding.write_arrays = write\n"
    )
    child = forked("embed", "in", "--out", "o", before=slow)
    child.wait_for("o/0.npy")
    child.signal(signal.SIGINT)
    done = child.wait()
    assert done.code == 130
    assert "features of 1 of 3 inputs are kept in o" in done.err
    assert [line["id"] for line in index(here / "o")] == ["0.wav"]


def test_an_output_that_cannot_be_written_tells_what_is_kept(
    infomax: Infomax, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound(here / "in" / "0.wav", 3200)
    sound(here / "in" / "1.wav", 3200)
    (here / "file").touch()
    done = infomax("embed", "in", "--out", "file")
    assert (done.code, "cannot write to file: File exists" in done.err) == (1, True)
    real = embedding.write_arrays

    def write(path: Path, *rest: Any) -> None:
        if path.name == "1.npy":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, *rest)

    monkeypatch.setattr(embedding, "write_arrays", write)
    done = infomax("embed", "in", "--out", "o")
    assert (done.code, "cannot write to o: No space left on device" in done.err) == (1, True)
    assert "features of 1 of 2 inputs are kept in o" in done.err


def test_inputs_of_one_name_do_not_collide(infomax: Infomax, here: Path) -> None:
    for name in ("x/a.wav", "y/a.wav", "x/a.flac"):
        sound(here / name, 3200)
    assert infomax("embed", "x", "y", "x/a.wav", "--out", "o").code == 0
    lines = index(here / "o")
    assert [line["file"] for line in lines] == ["a.npy", "a-2.npy", "a-3.npy"]
    assert [line["source"] for line in lines] == [str(here / name) for name in ("x/a.flac", "x/a.wav", "y/a.wav")]


def test_names_stay_below_the_folder() -> None:
    names = Names("npy", ["taken.npy"])
    assert names.give("../../etc/x.wav", is_path=True) == "etc/x.npy"
    assert names.give("/etc/x", is_path=False) == "etc/x-2.npy"
    assert names.give("ETC/X.y", is_path=True) == "ETC/X-3.npy"
    assert names.give("Taken", is_path=False) == "Taken-2.npy"
    assert names.give("..", is_path=False) == "item.npy"
    assert names.give("1.5", is_path=False) == "1.5.npy"


def test_what_is_not_there_is_told(infomax: Infomax, here: Path) -> None:
    for words, told in (
        (["nothing.wav"], "there is no run, recipe, file or folder 'nothing.wav'"),
        ([], "there is nothing to embed"),
        (["."], "there is no sound in ."),
    ):
        done = infomax("embed", *words)
        assert done.code in (1, 2)
        assert told in done.err
    sound(here / "a.wav", 3200)
    done = infomax("embed", "a.wav", "--format", "csv")
    assert (done.code, "--format csv: not known" in done.err) == (2, True)


def test_images_are_brought_to_the_size_that_the_encoder_takes(here: Path) -> None:
    from PIL import Image

    from infomax_cli.core.embed_sources import files
    from infomax_cli.core.embedding import Embedding, EmbedOptions
    from infomax_cli.core.watcher import Nobody

    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3)).astype(np.uint8)
    (here / "in").mkdir()
    Image.fromarray(pixels).save(here / "in" / "exact.png")
    Image.fromarray(np.zeros((40, 20), np.uint8)).save(here / "in" / "grey.png")
    (here / "in" / "broken.jpg").write_bytes(b"JFIF")
    torch.manual_seed(0)
    recipe = load().recipe
    model = PretrainedEncoder(toys.ImageEncoder(), recipe, InputSpec.of(toys.IMAGES))
    embedding = Embedding(model, EmbedOptions((0, 2), format="npz"), here / "o")
    result = embedding.run(files([here / "in"], model.inputs, None), Nobody())
    assert (result.made, [place for place, _ in result.failed]) == (2, [str(here / "in" / "broken.jpg")])
    found = read_npz(here / "o" / "exact.npz")
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    for depth, shape in ((0, (7, 7, 8)), (2, (1, 1, 8))):
        assert found[f"depth{depth}"].shape == shape
        expected = model(image, depth=depth)[0].permute(1, 2, 0).detach()
        np.testing.assert_allclose(found[f"depth{depth}"], expected, atol=1e-6)
