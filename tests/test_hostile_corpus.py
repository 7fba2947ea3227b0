"""A corpus in which everything is wrong that can be: what can be used is used, the rest is named, nothing crashes."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Sequence
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

import tiny
from conftest import Infomax
from infomax_cli.core.api import DataError
from infomax_cli.runs import all_runs
from infomax_plugins.datasets.folder import Folder

USED = [
    "8bit.wav", "24bit.wav", "float.wav", "8kHz.flac", "44kHz.wav", "stereo.flac", "mp3 inside.mp3",
    "with spaces and ünïcödé 日本.wav", "short.wav",
]  # fmt: skip
HEADERS = ["empty.wav", "text.flac", "zero samples.wav", "folder.wav", "dangling.wav"]
"""What has no header that can be read: found before anything is decoded. A folder is not even taken for a file."""

LATER = ["cut.flac", "cut at the end.flac", "nan.wav"]
"""What only decoding finds out."""


def noise(samples: int = 8000, channels: int = 1) -> np.ndarray:
    return 0.1 * np.random.default_rng(samples).standard_normal((samples, channels))


def hostile(folder: Path) -> None:
    """Two speakers' folders, each with plain files; all that is wrong is in the first."""
    bad = folder / "one"
    for speaker in ("one", "two"):
        (folder / speaker).mkdir(parents=True)
        for number in range(8):
            soundfile.write(folder / speaker / f"plain{number}.wav", noise(8000 + number), 16000)
    soundfile.write(bad / "8bit.wav", noise(), 16000, subtype="PCM_U8")
    soundfile.write(bad / "24bit.wav", noise(), 16000, subtype="PCM_24")
    soundfile.write(bad / "float.wav", noise(), 16000, subtype="FLOAT")
    soundfile.write(bad / "8kHz.flac", noise(4000), 8000)
    soundfile.write(bad / "44kHz.wav", noise(22050), 44100)
    soundfile.write(bad / "stereo.flac", noise(8000, 2), 16000)
    soundfile.write(bad / "mp3 inside.mp3", noise(22050), 44100)
    soundfile.write(bad / "with spaces and ünïcödé 日本.wav", noise(), 16000)
    soundfile.write(bad / "short.wav", noise(90), 16000)
    (bad / "empty.wav").touch()
    (bad / "text.flac").write_text("this is no sound\n" * 50)
    soundfile.write(bad / "zero samples.wav", np.zeros(0), 16000)
    (bad / "folder.wav").mkdir()
    (bad / "dangling.wav").symlink_to(bad / "nowhere.wav")
    soundfile.write(bad / "cut.flac", noise(8000), 16000)
    soundfile.write(bad / "cut at the end.flac", noise(8000), 16000)
    for name, share in (("cut.flac", 0.4), ("cut at the end.flac", 0.95)):
        content = (bad / name).read_bytes()
        (bad / name).write_bytes(content[: int(share * len(content))])
    spoilt = noise(8000)
    spoilt[::50] = np.nan
    soundfile.write(bad / "nan.wav", spoilt, 16000, subtype="FLOAT")


def named(text: str, names: Sequence[str]) -> list[str]:
    return [name for name in names if f"one/{name}" in text]


@pytest.fixture
def corpus(here: Path) -> Path:
    hostile(here / "data" / "sounds")
    return here


OPTIONS = ("data.path=sounds", "data.crop=3200", "data.label_from=parent", "data.label_name=speaker")


def test_it_trains_and_is_probed_to_the_end(infomax: Infomax, corpus: Path) -> None:
    section = (
        "data: {name: folder, path: sounds, crop: 3200, label_from: parent, label_name: speaker, max_corrupt: 0.5}"
    )
    recipe = tiny.write_recipe(corpus, section, "train: {epochs: 4, batch: 4, lr: 1.0e-2, workers: 0}")
    done = infomax("train", str(recipe))
    assert done.code == 0, done.err
    (run,) = all_runs(corpus / "runs")
    losses = [line for line in tiny.lines(run) if any(name.startswith("train/") for name in line)]
    assert losses
    probed = infomax("probe", "speaker", run.name, "--depth", "1", "--json")
    assert probed.code == 0, probed.err
    assert set(json.loads(probed.out)["labels"]) == {"speaker"}


def test_all_that_is_wrong_is_named_and_nothing_else(infomax: Infomax, corpus: Path) -> None:
    done = infomax("data", "folder", *OPTIONS, "data.max_corrupt=0.5", "--check", "--json")
    assert done.code == 1
    found = json.loads(done.out)
    left_out = " ".join(found["left_out"].values())
    corrupt = " ".join(problem for split in found["splits"].values() for problem in split["corrupt"])
    assert sorted(named(left_out, HEADERS)) == sorted(set(HEADERS) - {"folder.wav"})
    assert named(corrupt, LATER) == LATER
    assert named(left_out + corrupt, [*USED, *(f"plain{number}.wav" for number in range(8))]) == []
    rates = sum(sum(split["rates"].values()) for split in found["splits"].values())
    assert rates == 16 + len(USED) + len(LATER)
    assert len(infomax("data", "folder", *OPTIONS, "data.max_corrupt=0.5", "--check").out.split("bad: ")) == 1 + 7


def test_too_much_of_it_stops_before_anything_is_decoded(infomax: Infomax, corpus: Path) -> None:
    done = infomax("data", "folder", *OPTIONS)
    assert done.code == 1
    assert "4 of 32 recordings in" in done.err
    assert "data.max_corrupt=" in done.err


def test_what_is_used_is_mono_at_the_rate_asked_for(corpus: Path) -> None:
    data = Folder(path="sounds", crop=3200, max_corrupt=0.5, test_fraction=0.0, validation_fraction=0.0)
    split = data.split(corpus / "data", "train")
    items = {}
    for index in range(len(split)):
        try:
            item = split[index, None]
        except DataError:
            continue
        items[item.id] = item.input
    used = {f"one/{name}": items[f"one/{name}"] for name in USED}
    assert all(audio.shape[0] == 1 and bool(torch.isfinite(audio).all()) for audio in used.values())
    lengths = {name: audio.shape[1] for name, audio in used.items()}
    assert lengths.pop("one/short.wav") == 90
    assert set(lengths.values()) == {8000}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(infomax: Infomax, corpus: Path) -> None:
    (corpus / "data" / "sounds" / "two" / "plain3.wav").chmod(0)
    found = json.loads(infomax("data", "folder", *OPTIONS, "data.max_corrupt=0.5", "--json").out)
    assert "Permission denied" in found["left_out"]["two/plain3.wav"]


def test_a_file_whose_reading_is_refused_is_named(
    infomax: Infomax, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for one without the right to read it, which a test that runs as root has of every file."""
    import soundfile

    victim = corpus / "data" / "sounds" / "two" / "plain3.wav"
    info, open_path, open_file = soundfile.info, Path.open, os.open

    def refuse_info(file: object, *rest: object) -> object:
        if victim.name in os.fsdecode(file) and "two" in os.fsdecode(file):  # type: ignore[arg-type]
            raise soundfile.LibsndfileError(2)
        return info(file, *rest)

    def refuse_open(path: Path, *rest: object, **more: object) -> object:
        if path == victim:
            raise PermissionError(13, "Permission denied", str(path))
        return open_path(path, *rest, **more)  # type: ignore[call-overload]

    def refuse_file(path: object, *rest: int) -> int:
        if str(path) == str(victim):
            raise PermissionError(13, "Permission denied", str(path))
        return open_file(path, *rest)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(soundfile, "info", refuse_info)
    monkeypatch.setattr(os, "open", refuse_file)
    monkeypatch.setattr(Path, "open", refuse_open)
    found = json.loads(infomax("data", "folder", *OPTIONS, "data.max_corrupt=0.5", "--json").out)
    assert "Permission denied" in found["left_out"]["two/plain3.wav"]


# --- counted over all processes ---------------------------------------------------------------------------------------


class _Telling(torch.utils.data.Dataset[str]):
    """What became of an item: its id, or the error."""

    def __init__(self, split: object) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> str:
        try:
            return self.split[index, 1].id  # type: ignore[index, no-any-return]
        except DataError as error:
            return f"stopped: {error.message}"


def test_corrupt_items_count_over_all_loader_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20 files 4 are corrupt, and 3 may be: of the two workers each is given 2 of them."""
    monkeypatch.setenv("INFOMAX_CACHE", str(tmp_path / "cache"))
    for number in range(20):
        path = tmp_path / f"{number:02d}.flac"
        soundfile.write(path, noise(8000), 16000)
        if number in (0, 1, 10, 11):
            content = path.read_bytes()
            path.write_bytes(content[: len(content) // 3])
    data = Folder(path=str(tmp_path), crop=8000, max_corrupt=0.15, test_fraction=0.0, validation_fraction=0.0)
    # batches go to the workers by turns: 0 to 9 to one, 10 to 19 to the other; what is corrupt stands first
    loader = DataLoader(_Telling(data.split(tmp_path, "train")), batch_size=10, num_workers=2, collate_fn=list)
    told = [item for batch in loader for item in batch]
    assert any("4 of 20 recordings turned out to be corrupt" in item for item in told)


def test_what_is_handed_to_another_process_still_shares_the_count(tmp_path: Path, here: Path) -> None:
    """As it is where processes are spawned rather than forked."""
    soundfile.write(tmp_path / "a.flac", noise(8000), 16000)
    (tmp_path / "b.flac").write_bytes((tmp_path / "a.flac").read_bytes()[:9000])
    split = Folder(path=str(tmp_path), crop=8000, test_fraction=0.0, validation_fraction=0.0).split(here, "train")
    handed = pickle.loads(ForkingPickler.dumps(split))
    handed[1, 0]
    assert split._stand_ins.corrupt.tolist() == [False, True]
