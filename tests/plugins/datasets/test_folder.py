from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from infomax_cli.core.api import DataError, Dataset, UsageError
from infomax_plugins.datasets.folder import Folder

CROP = 1600


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFOMAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.mkdir()
    return path


def write(path: Path, samples: int = 3000, rate: int = 16000, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = 0.1 * np.random.default_rng(samples).standard_normal((samples, channels))
    soundfile.write(path, noise, rate)
    return path


def folder(path: str | Path = "sounds", **options: object) -> Folder:
    return Folder(**{"path": str(path), "crop": CROP, "validation_fraction": 0.0, **options})  # type: ignore[arg-type]


def ids(data: Folder, root: Path, split: str) -> list[str]:
    found = data.split(root, split)
    return [found[index, None].id for index in range(len(found))]


def manifest(root: Path, text: str, name: str = "list.csv") -> str:
    (root / name).write_text(text, encoding="utf-8")
    return name


# --- folders ---------------------------------------------------------------------------------------------------------


def test_it_is_a_dataset() -> None:
    assert isinstance(folder(), Dataset)


def test_all_kinds_of_audio_in_all_subfolders_are_found(root: Path) -> None:
    write(root / "sounds" / "a.wav")
    write(root / "sounds" / "Frau Müller" / "b c.flac")
    write(root / "sounds" / "x" / "y" / "z" / "c.ogg")
    write(root / "sounds" / "x" / "D.MP3", rate=44100)
    write(root / "sounds" / ".trash" / "e.wav")
    (root / "sounds" / "notes.txt").write_text("no audio")
    data = folder(test_fraction=0.0)
    assert ids(data, root, "train") == ["Frau Müller/b c.flac", "a.wav", "x/D.MP3", "x/y/z/c.ogg"]
    spec = data.describe(root)
    assert spec.labels == {}
    assert (spec.channels, spec.grid, spec.axes, spec.rate, spec.sizes) == (1, (CROP,), ("time",), 16000, {"train": 4})
    with pytest.raises(DataError, match="no whole-item label 'speaker'"):
        data.split(root, "train").item_labels("speaker")


@pytest.mark.parametrize(("own", "asked", "length"), [(8000, 16000, 6000), (44100, 16000, 1089), (16000, 8000, 1500)])
def test_any_rate_and_any_channels_become_one_channel_at_the_rate_asked_for(
    root: Path, own: int, asked: int, length: int
) -> None:
    write(root / "sounds" / "a.wav", samples=3000, rate=own, channels=2)
    data = folder(rate=asked, crop=800)
    assert data.describe(root).rate == asked
    split = data.split(root, "train")
    whole = split[0, None].input
    assert whole.shape == (1, length)
    crop = split[0, 3].input
    starts = [s for s in range(0, length - 799, 160) if torch.allclose(whole[:, s : s + 800], crop, atol=1e-6)]
    assert len(starts) == 1


def test_file_shorter_than_the_crop_is_padded_and_told(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(root / "sounds" / "a.wav", samples=100)
    audio = folder().split(root, "train")[0, 0].input
    assert audio.shape == (1, CROP)
    assert audio[0, :100].any()
    assert not audio[0, 100:].any()
    assert "1 of 1 training recordings are shorter than the crop (1600 samples, 0.10 s)" in caplog.text


def test_chunks_of_a_file(root: Path) -> None:
    write(root / "sounds" / "a.wav", samples=3 * CROP + 10)
    split = folder(mode="chunks").split(root, "train")
    assert [split[index, 7].id for index in range(len(split))] == ["a.wav#0", "a.wav#1", "a.wav#2"]
    whole = folder().split(root, "train")[0, None].input
    torch.testing.assert_close(torch.cat([split[i, None].input for i in range(3)], -1), whole[:, : 3 * CROP])


def test_links_that_lead_in_a_circle_are_followed_once(root: Path) -> None:
    write(root / "sounds" / "a.wav")
    (root / "sounds" / "again").symlink_to(root / "sounds")
    write(root / "elsewhere" / "b.wav")
    (root / "sounds" / "linked").symlink_to(root / "elsewhere")
    assert ids(folder(test_fraction=0.0), root, "train") == ["a.wav", "linked/b.wav"]


def test_parent_folder_can_be_the_label(root: Path) -> None:
    for name in ("cat/1.wav", "cat/2.wav", "dog/deep/3.wav", "4.wav"):
        write(root / "sounds" / name)
    data = folder(label_from="parent", label_name="animal", test_fraction=0.0)
    spec = data.describe(root).labels["animal"]
    assert (spec.classes, spec.names, spec.hop) == (2, ("cat", "deep"), None)
    split = data.split(root, "train")
    assert split.item_labels("animal") == [-1, 0, 0, 1]  # 4.wav lies in no subfolder
    assert [split[index, None].labels["animal"] for index in range(4)] == [-1, 0, 0, 1]


def test_splits_share_nothing_and_have_all_classes(root: Path) -> None:
    names = [f"{label}/{number}.wav" for label in ("cat", "dog") for number in range(10)]
    for name in names:
        write(root / "sounds" / name, samples=500)
    data = folder(label_from="parent", validation_fraction=0.1)
    parts = {name: ids(data, root, name) for name in data.describe(root).sizes}
    assert sorted(name for part in parts.values() for name in part) == names
    assert {name: len(part) for name, part in parts.items()} == {"train": 14, "test": 4, "validation": 2}
    assert sorted(name[:3] for name in parts["test"]) == ["cat", "cat", "dog", "dog"]
    assert ids(folder(label_from="parent", split_seed=7), root, "test") != parts["test"]


def test_items_depend_on_index_and_seed_alone(root: Path) -> None:
    for number in range(5):
        write(root / "sounds" / f"{number}.wav", samples=20000, rate=44100)
    split = folder(test_fraction=0.0).split(root, "train")
    copy = pickle.loads(pickle.dumps(folder(test_fraction=0.0).split(root, "train")))
    items = {index: split[index, 11] for index in range(5)}
    for index, item in reversed(items.items()):
        assert torch.equal(copy[index, 11].input, item.input)


# --- where it is -----------------------------------------------------------------------------------------------------


def test_path_is_absolute_or_under_the_root_or_under_the_working_folder(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(root / "sounds" / "in-root.wav")
    write(tmp_path / "here" / "sounds" / "in-here.wav")
    write(tmp_path / "here" / "more" / "in-more.wav")
    monkeypatch.chdir(tmp_path / "here")
    assert ids(folder("sounds"), root, "train") == ["in-root.wav"]
    assert ids(folder("more"), root, "train") == ["in-more.wav"]
    assert ids(folder(tmp_path / "here" / "sounds"), root, "train") == ["in-here.wav"]
    with pytest.raises(DataError) as caught:
        folder("nowhere").describe(root)
    assert str(root / "nowhere") in caught.value.message
    assert str(tmp_path / "here" / "nowhere") in caught.value.message
    assert "--data syllables" in str(caught.value.hint)


def test_folder_without_audio_is_an_error_that_says_what_is_known(root: Path) -> None:
    (root / "sounds").mkdir()
    with pytest.raises(DataError, match="no audio") as caught:
        folder().describe(root)
    assert ".flac" in str(caught.value.hint)


def test_file_that_is_no_manifest_is_an_error(root: Path) -> None:
    write(root / "a.wav")
    with pytest.raises(DataError, match="neither a folder nor a manifest"):
        folder("a.wav").describe(root)


# --- manifests -------------------------------------------------------------------------------------------------------


def test_manifest_names_files_labels_and_splits(root: Path, tmp_path: Path) -> None:
    write(root / "lists" / "one, two.wav")
    write(root / "lists" / "sub" / "b.flac")
    write(tmp_path / "far" / "c.wav")
    write(root / "lists" / "d.wav")
    write(root / "lists" / "e.wav")
    text = (
        "path,split,speaker,age,text\n"
        '"one, two.wav",train,Zoë,9,hello\n'
        "sub/b.flac,train,Ann,10,there\n"
        f"{tmp_path / 'far' / 'c.wav'},test,Ann,,you\n"
        "d.wav,extra,,10,all\n"
        "e.wav,,Bob,11,left out\n"
    )
    manifest(root / "lists", text)
    data = folder("lists/list.csv", labels=["speaker", "age"])
    spec = data.describe(root)
    assert spec.sizes == {"train": 2, "test": 1, "extra": 1}
    assert spec.labels["speaker"].names == ("Ann", "Zoë")
    assert spec.labels["age"].names == ("9", "10")  # by value, not as text
    assert data.split(root, "train").item_labels("speaker") == [1, 0]
    assert data.split(root, "test").item_labels("age") == [-1]
    assert data.split(root, "extra")[0, None].labels == {"speaker": -1, "age": 1}


def test_labels_are_none_unless_asked_for(root: Path) -> None:
    write(root / "a.wav")
    assert folder(manifest(root, "path,speaker\na.wav,Ann\n")).describe(root).labels == {}


def test_jsonl_tsv_and_a_byte_order_mark_are_read(root: Path) -> None:
    for name in ("a.wav", "b.wav", "c.wav"):
        write(root / name)
    rows = [{"path": "a.wav", "speaker": 7}, {"path": "b.wav"}, {"path": "c.wav", "speaker": None}]
    manifest(root, "\n".join(map(json.dumps, rows)) + "\n\n", "list.jsonl")
    (root / "list.tsv").write_text("path\tspeaker\na.wav\t7\nb.wav\t\nc.wav\n", encoding="utf-8-sig")
    for name in ("list.jsonl", "list.tsv"):
        split = folder(name, labels=["speaker"], test_fraction=0.0).split(root, "train")
        assert split.item_labels("speaker") == [0, -1, -1]


def test_manifest_and_parent_folder_can_both_give_labels(root: Path) -> None:
    write(root / "cat" / "a.wav")
    data = folder(manifest(root, "path,speaker\ncat/a.wav,Ann\n"), labels=["speaker"], label_from="parent")
    assert {name: spec.names for name, spec in data.describe(root).labels.items()} == {
        "speaker": ("Ann",),
        "class": ("cat",),
    }
    with pytest.raises(UsageError, match="twice"):
        folder(labels=["class"], label_from="parent")


def test_validation_named_by_the_manifest_is_not_drawn_from_training(root: Path) -> None:
    for number in range(6):
        write(root / f"{number}.wav")
    text = "path,split\n" + "".join(f"{number}.wav,{'validation' if number > 3 else 'train'}\n" for number in range(6))
    named = folder(manifest(root, text), validation_fraction=0.5)
    assert named.describe(root).sizes == {"train": 4, "validation": 2}
    drawn = folder(manifest(root, text.replace("validation", "train")), validation_fraction=0.5)
    assert drawn.describe(root).sizes == {"train": 3, "validation": 3}


def test_manifest_without_training_recordings_says_so(root: Path) -> None:
    write(root / "a.wav")
    with pytest.raises(DataError, match=r"split train of folder is empty.*list\.csv"):
        folder(manifest(root, "path,split\na.wav,test\n")).describe(root)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("list.csv", "file,speaker\na.wav,Ann\n", "no column path"),
        ("list.csv", "path\na.wav\n", "no column speaker"),
        ("list.csv", "", "no column path"),
        ("list.csv", "path,speaker\na.wav,Ann,Bob\n", "line 2: it has more fields"),
        ("list.csv", "path,speaker\na.wav,Ann\n,Bob\n", "line 3: there is no path"),
        ("list.csv", "path,speaker\na.wav,Ann\na.wav,Bob\n", "line 3: a.wav is listed a second time"),
        ("list.csv", 'path,speaker\n"a.wav,Ann\n', "cannot read"),
        ("list.jsonl", '{"path": "a.wav", "speaker": 1}\n{"path"\n', "line 2: it is not JSON"),
        ("list.jsonl", '["a.wav"]\n', "line 1: expected an object"),
    ],
)
def test_malformed_manifest_is_named_with_its_line(root: Path, name: str, text: str, message: str) -> None:
    write(root / "a.wav")
    with pytest.raises(DataError, match=message) as caught:
        folder(manifest(root, text, name), labels=["speaker"]).describe(root)
    assert name in caught.value.message


def test_manifest_that_is_not_utf8_is_named(root: Path) -> None:
    (root / "list.csv").write_bytes("path\nMüller.wav\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"list\.csv") as caught:
        folder("list.csv").describe(root)
    assert "UTF-8" in str(caught.value.hint)


def test_labels_of_a_plain_folder_are_refused(root: Path) -> None:
    write(root / "sounds" / "a.wav")
    with pytest.raises(DataError, match="is a folder, and has no labels speaker") as caught:
        folder(labels=["speaker"]).describe(root)
    assert "data.label_from=parent" in str(caught.value.hint)


def test_missing_files_are_named_and_too_many_stop_the_run(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(root / "a.wav")
    write(root / "b.wav")
    name = manifest(root, "path\na.wav\nb.wav\nlost.wav\n")
    assert ids(folder(name, test_fraction=0.0), root, "train") == ["a.wav", "b.wav"]
    assert "lost.wav: there is no such file" in caplog.text
    manifest(root, "path\na.wav\nlost.wav\ngone.wav\n")
    with pytest.raises(DataError, match=r"2 of 3 recordings in .*list\.csv cannot be used: .*lost\.wav.*gone\.wav"):
        folder(name).describe(root)


def test_folder_of_nothing_but_corrupt_files_is_an_error(root: Path) -> None:
    (root / "sounds").mkdir()
    (root / "sounds" / "a.wav").touch()
    with pytest.raises(DataError, match=r"no audio in .* that can be read"):
        folder().describe(root)


def test_nothing_can_be_downloaded(root: Path) -> None:
    with pytest.raises(DataError, match="nothing to download"):
        folder().download(root)
