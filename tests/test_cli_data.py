"""`infomax data` as a user meets it: what there is, what it holds, and what is wrong with it."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import tiny
from conftest import Cli, Infomax
from infomax_cli.core.api import DataSpec, Item, LabelSpec
from infomax_cli.core.holdings import take_stock
from infomax_cli.core.sheet import class_colour, draw_sheet, pieces


def speech(root: Path, speakers: int = 3, each: int = 5, samples: int = 8000) -> list[Path]:
    """Noise in LibriSpeech's layout, and a class every 10 ms."""
    lines, paths = [], []
    for speaker in range(10, 10 + speakers):
        for number in range(each):
            name = f"{speaker}-1-{number:04d}"
            path = root / "LibriSpeech" / "train-clean-100" / str(speaker) / "1" / f"{name}.flac"
            path.parent.mkdir(parents=True, exist_ok=True)
            length = samples + 160 * number
            soundfile.write(path, 0.1 * np.random.default_rng(number).standard_normal(length), 16000)
            labels = np.arange(1 + (length - 400) // 160) // 8 % 4
            lines.append(" ".join([name, *map(str, labels)]))
            paths.append(path)
    labels_folder = root / "LibriSpeech100_labels_split"
    labels_folder.mkdir()
    (labels_folder / "converted_aligned_phones.txt").write_text("\n".join(lines) + "\n")
    (labels_folder / "phones.txt").write_text("0 sil\n1 a\n2 b\n3 c\n")
    return paths


def asked(infomax: Infomax, *arguments: str) -> dict[str, Any]:
    done = infomax("data", *arguments, "--json")
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


# --- which there are -------------------------------------------------------------------------------------------------


def test_the_listing_tells_of_every_dataset_whether_its_files_are_there(infomax: Infomax, here: Path) -> None:
    rows = {row["dataset"]: row for row in asked(infomax)["datasets"]}
    assert rows["syllables"]["state"] == "embedded"
    assert rows["librispeech"]["state"] == "not here"
    assert rows["librispeech"]["get"] == "infomax download librispeech"
    assert rows["folder"]["state"] == rows["deboer"]["state"] == "own"
    speech(here / "data")
    rows = {row["dataset"]: row for row in asked(infomax)["datasets"]}
    assert rows["librispeech"]["subsets"] == {"train-clean-100": "incomplete"}
    assert "here: train-clean-100 (incomplete)" in infomax("data").out


def test_the_listing_says_how_large_what_is_missing_is(infomax: Infomax, here: Path) -> None:
    shown = infomax("data", "--root", str(here / "elsewhere"))
    assert f"infomax download librispeech --root {here / 'elsewhere'} (5.9 GiB)" in shown.out
    assert f"data lies in {here / 'elsewhere'}" in shown.err


def test_the_listing_imports_neither_torch_nor_plugins(run_cli: Cli, foreign_site: Path, tmp_path: Path) -> None:
    (tmp_path / "no" / "torch").mkdir(parents=True)
    (tmp_path / "no" / "torch" / "__init__.py").write_text("raise ImportError('torch was imported')\n")
    done = run_cli("data", "--json", sites=[tmp_path / "no", foreign_site])
    assert done.returncode == 0, done.stderr
    rows = {row["dataset"]: row for row in json.loads(done.stdout)["datasets"]}
    assert rows["echo_tones"]["from"] == "infomax-echo"
    assert rows["echo_tones"]["state"] == "unknown"


def test_what_is_no_dataset_is_one_line(infomax: Infomax) -> None:
    done = infomax("data", "librispech")
    assert done.code == 2
    assert "no dataset and no run 'librispech'" in done.err
    assert "did you mean librispeech?" in done.err


# --- what one holds --------------------------------------------------------------------------------------------------


def test_counts_are_those_of_the_files(infomax: Infomax, here: Path) -> None:
    paths = speech(here / "data")
    found = asked(infomax, "librispeech", "data.validation_fraction=0")
    frames = sum(soundfile.info(path).frames for path in paths)
    splits = found["splits"]
    assert {name: split["items"] for name, split in splits.items()} == {"train": 12, "test": 3}
    assert sum(split["seconds"] for split in splits.values()) == pytest.approx(frames / 16000)
    assert {name: split["rates"] for name, split in splits.items()} == {"train": {"16000": 12}, "test": {"16000": 3}}
    assert splits["train"]["counts"]["speaker"] == [4, 4, 4]
    assert splits["test"]["unknown"] == {"speaker": 0}
    every = sum(np.bincount(np.arange(1 + (8000 + 160 * n - 400) // 160) // 8 % 4, minlength=4) * 3 for n in range(5))
    phones = np.array(splits["train"]["counts"]["phone"]) + np.array(splits["test"]["counts"]["phone"])
    assert phones.tolist() == np.asarray(every).tolist()
    assert found["labels"]["phone"]["names"] == ["sil", "a", "b", "c"]
    shown = infomax("data", "librispeech", "validation_fraction=0").out
    assert next(line.split() for line in shown.splitlines() if line.startswith("train "))[1] == "12"
    assert "phone: values every 160 samples of each class" in shown


def test_counting_decodes_nothing(infomax: Infomax, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speech(here / "data")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a file was decoded")

    monkeypatch.setattr("infomax_plugins.datasets._speech.read_audio", refuse)
    assert asked(infomax, "librispeech", "validation_fraction=0")["splits"]["train"]["items"] == 12


@pytest.mark.parametrize("unit", ["word", "syllable"])
def test_what_the_embedded_corpus_says_of_itself_is_what_reading_it_tells(here: Path, unit: str) -> None:
    from infomax_plugins.datasets.syllables import Syllables

    told = take_stock(Syllables(speakers=2, words=9, unit=unit), "syllables", here)  # type: ignore[arg-type]
    silent = Syllables(speakers=2, words=9, unit=unit)  # type: ignore[arg-type]
    split = silent.split

    class Mute:
        def __init__(self, name: str) -> None:
            self.inner = split(here, name)
            self.item_labels = self.inner.item_labels

        def __len__(self) -> int:
            return len(self.inner)

        def __getitem__(self, key: tuple[int, int | None]) -> Item:
            return self.inner[key]

    silent.split = lambda root, name: Mute(name)  # type: ignore[method-assign, assignment, return-value]
    read = take_stock(silent, "syllables", here, check=True)
    for name, held in told.splits.items():
        assert held.seconds == pytest.approx(read.splits[name].seconds)
        assert {label: list(counts) for label, counts in held.counts.items()} == {
            label: list(counts) for label, counts in read.splits[name].counts.items()
        }


def test_a_check_names_every_corrupt_file(infomax: Infomax, here: Path) -> None:
    paths = speech(here / "data")
    for path in (paths[2], paths[7]):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    paths[11].write_bytes(b"")
    words = ["librispeech", "data.max_corrupt=0.1"]
    unread = asked(infomax, *words)
    assert unread["splits"]["train"]["corrupt"] is None
    assert list(unread["left_out"]) == [paths[11].stem]
    done = infomax("data", *words, "--check", "--json")
    assert done.code == 1
    found = json.loads(done.out)
    corrupt = [problem for split in found["splits"].values() for problem in split["corrupt"]]
    assert sorted(path.name for path in paths for problem in corrupt if path.name in problem) == sorted(
        [paths[2].name, paths[7].name]
    )
    shown = infomax("data", *words, "--check")
    bad = [line for line in shown.out.splitlines() if line.startswith("bad: ")]
    assert len(bad) == 3
    assert all(any(paths[place].name in line for line in bad) for place in (2, 7, 11))
    assert infomax("data", "syllables", "speakers=1", "words=9", "--check").code == 0


def test_a_dataset_that_says_little_is_still_counted(
    infomax: Infomax, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.plant(monkeypatch, syllables=tiny.Tones)
    plain = asked(infomax, "syllables")["splits"]["train"]
    assert (plain["items"], plain["seconds"], plain["counts"]) == (12, None, {"speaker": [4, 4, 4]})
    done = infomax("data", "syllables", "fails=bug", "--check", "--json")
    assert done.code == 1
    checked = json.loads(done.out)["splits"]["train"]
    assert checked["corrupt"] == ["item 5: ZeroDivisionError: division by zero"]
    assert checked["counts"]["unsaid"] == [11 * 19, 0]
    assert checked["seconds"] == pytest.approx(11 * 0.2)


def test_the_data_of_a_run_is_told_with_changes(infomax: Infomax, here: Path) -> None:
    _, run = tiny.train(here / "runs", "train.steps=1")
    assert asked(infomax, str(run.path))["splits"]["train"]["items"] == 27
    assert asked(infomax, run.name, "data.speakers=2")["splits"]["train"]["items"] == 18


def test_the_folder_is_named_that_was_read(infomax: Infomax, here: Path) -> None:
    """It is under the root, or anywhere else; what is embedded lies in none."""
    for number in range(5):
        for place in (here / "data", here / "elsewhere"):
            (place / "sounds").mkdir(parents=True, exist_ok=True)
            soundfile.write(place / "sounds" / f"{number}.wav", np.zeros(1600), 16000)
    for path, folder in {"sounds": here / "data" / "sounds", "elsewhere/sounds": here / "elsewhere" / "sounds"}.items():
        assert infomax("data", "folder", f"path={path}").out.startswith(f"folder in {folder}: sounds at")
        assert asked(infomax, "folder", f"path={path}")["found_in"] == str(folder)
    assert infomax("data", "digits").out.startswith("digits: a training item is")
    assert asked(infomax, "digits")["found_in"] is None


@pytest.mark.parametrize("words", [["data", "folder"], ["train", "gim", "--data", "folder"], ["data", "imagefolder"]])
def test_without_a_path_it_says_how_to_name_one(infomax: Infomax, words: list[str]) -> None:
    done = infomax(*words)
    assert done.code == 2
    assert done.err.splitlines()[-2].endswith("data.path is missing (a word)")
    assert done.err.splitlines()[-1] == "hint: add data.path=FOLDER"


def test_missing_data_says_what_gets_it_how_large_it_is_and_what_runs_now(infomax: Infomax) -> None:
    done = infomax("data", "librispeech")
    assert done.code == 1
    for words in ("there is no LibriSpeech at", "infomax download librispeech", "5.9 GiB", "syllables"):
        assert words in done.err
    for name, words in {"deboer": "ask its authors", "folder": "data.path="}.items():
        told = infomax("data", name, *(["path=none"] if name == "folder" else []))
        assert told.code == 1
        assert words in told.err
        assert "--data syllables" in told.err


@pytest.mark.parametrize(
    ("name", "path", "words"),
    [
        ("folder", "LJSpeech-1.1/wavs", "`infomax download ljspeech` gets it (2.6 GiB)"),
        ("folder", "SpeechCommands/speech_commands_v0.02", "`infomax download speechcommands` gets it (2.3 GiB)"),
        ("imagefolder", "imagenet", "https://image-net.org gives it to those who register (144 GB)"),
        ("imagefolder", "tiny-imagenet-200", "tiny-imagenet-200.zip (237 MiB)"),
    ],
)
def test_missing_files_of_others_that_are_known_are_told_of(infomax: Infomax, name: str, path: str, words: str) -> None:
    told = infomax("data", name, f"path={path}")
    assert told.code == 1
    assert words in told.err
    assert "data.path=" in told.err
    assert "runs right now" in told.err


# --- sheets ----------------------------------------------------------------------------------------------------------


def test_a_sheet_of_sounds_is_drawn(infomax: Infomax, here: Path) -> None:
    from matplotlib.image import imread

    speech(here / "data")
    done = infomax("data", "librispeech", "--plot", "sheet.png")
    assert done.code == 0, done.err
    assert "wrote sheet.png" in done.err
    assert len(np.unique(imread(here / "sheet.png").reshape(-1, 4), axis=0)) > 100


def test_a_strip_has_a_piece_for_every_stretch_of_one_class() -> None:
    spec = LabelSpec(3, hop=160, offset=200.0)
    made = pieces(torch.tensor([0, 0, 2, -1, -1]), spec, rate=16000, seconds=0.05)
    assert [(piece.value, round(piece.start, 4), round(piece.end, 4)) for piece in made] == [
        (0, 0.0075, 0.0275),
        (2, 0.0275, 0.0375),
        (-1, 0.0375, 0.05),
    ]
    assert len({class_colour(value) for value in range(-1, 61)}) == 62


class _Pictures:
    def __init__(self, channels: int, names: tuple[str, str] = ("dark", "5 $ light")) -> None:
        self.channels, self.names = channels, names

    def download(self, root: Path) -> None: ...

    def describe(self, root: Path) -> DataSpec:
        labels = {"class": LabelSpec(2, names=self.names)}
        return DataSpec(self.channels, (8, 8), ("y", "x"), None, labels, {"train": 12})

    def split(self, root: Path, name: str) -> _Pictures:
        return self

    def __len__(self) -> int:
        return 12

    def item_labels(self, name: str) -> list[int]:
        return [index % 2 for index in range(12)]

    def __getitem__(self, key: tuple[int, int | None]) -> Item:
        return Item(torch.full((self.channels, 8, 8), 0.1 + 0.8 * (key[0] % 2)), {"class": key[0] % 2}, str(key[0]))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sheet_of_images_is_drawn(tmp_path: Path, channels: int) -> None:
    from matplotlib.image import imread

    data = _Pictures(channels)
    draw_sheet(data, data.describe(tmp_path), tmp_path, tmp_path / "sheet.png", "pictures")  # type: ignore[arg-type]
    image = imread(tmp_path / "sheet.png")[..., 0]
    shades = {round(0.1 * 255), round(0.9 * 255)}
    assert shades <= set(np.round(image * 255).astype(int).ravel().tolist())


def test_names_of_classes_do_not_run_into_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is there a warning of letters that the font lacks."""
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *rest, **more: (drawn.append(self), save(self, *rest, **more)))
    data = _Pictures(3, ("日本" * 20, "a bottle of wine, red and white " * 3))
    draw_sheet(data, data.describe(tmp_path), tmp_path, tmp_path / "sheet.png", "pictures")  # type: ignore[arg-type]
    row = [axes.title.get_window_extent() for axes in drawn[0].axes[:10]]
    assert all(left.x1 <= right.x0 for left, right in pairwise(row[5:]))
    assert all(len(axes.get_title()) < 20 for axes in drawn[0].axes)


def test_a_strip_without_labels_says_so(infomax: Infomax, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    said: list[str] = []
    text = Axes.text
    monkeypatch.setattr(Axes, "text", lambda self, x, y, s, **more: (said.append(s), text(self, x, y, s, **more))[1])
    speech(here / "data")
    phones = here / "data" / "LibriSpeech100_labels_split" / "converted_aligned_phones.txt"
    assert infomax("data", "librispeech", "--plot", "sheet.png").code == 0
    assert "not labelled" not in said
    phones.write_text(phones.read_text().splitlines()[0] + "\n")
    said.clear()
    everything = ("data.test_fraction=0", "data.validation_fraction=0")
    assert infomax("data", "librispeech", *everything, "--plot", "sheet.png").code == 0
    assert said.count("not labelled") == 2


def test_doctor_tells_of_data_that_is_there_and_of_what_lacks_in_it(here: Path) -> None:
    from infomax_cli.diagnosis import Diagnosis, _examine_data

    found = Diagnosis(versions={})
    _examine_data(found)
    assert (found.data, found.problems) == ([], [])
    speech(here / "data")
    _examine_data(found)
    assert found.data == ["librispeech"]
    assert "train-clean-100 is incomplete" in found.problems[0].what
    assert found.problems[0].remedy == "infomax download librispeech --subset train-clean-100 --verify"
    assert not found.problems[0].essential
