from __future__ import annotations

import json
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from infomax_cli.core.api import DataError, Dataset, UsageError
from infomax_plugins.datasets import _intervals, _recordings
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


@pytest.mark.parametrize("ancestors", [".cache/corpus", "test", "__MACOSX/.x"])
def test_what_is_left_out_depends_on_names_below_the_folder_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, ancestors: str
) -> None:
    top = tmp_path / ancestors
    for name in ("a.wav", "test/b.wav", "deep/er/c.WAV"):
        write(top / name)
    assert sum(folder(top).describe(tmp_path).sizes.values()) == 3
    assert "left out" not in caplog.text
    hidden = (".hidden.wav", ".Trash/d.wav", "__MACOSX/e.wav", "test/.git/f/g.wav")
    for name in (*hidden, "._a.wav", "__MACOSX/._b.wav", ".Trash/notes.txt"):
        write(top / name.replace(".txt", ".wav")).rename(top / name)
    again = folder(top)
    assert sum(again.describe(tmp_path).sizes.values()) == 3
    assert f"left out of {top} are 4 that are hidden, or lie in hidden or a system's own" in caplog.text
    assert all(name in caplog.text for name in hidden)
    assert "._" not in caplog.text


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


# --- splits ----------------------------------------------------------------------------------------------------------


def many(root: Path, speakers: int = 6, each: int = 5) -> str:
    """A manifest of several speakers, with columns of every kind."""
    lines = ["id,path,who,mood,part"]
    for speaker in range(speakers):
        for number in range(each):
            write(root / f"s{speaker}" / f"{number}.wav", samples=800 + number)
            part = ("train", "train", "test", "validation", "")[number]
            lines.append(f"{speaker}_{number},s{speaker}/{number}.wav,s{speaker},{'sad' if number else 'gay'},{part}")
    return manifest(root, "\n".join(lines) + "\n")


def test_no_speaker_is_in_two_splits(root: Path) -> None:
    data = folder(many(root), split_by="speaker", speaker="who", validation_fraction=0.2)
    parts = {name: {i.partition("_")[0] for i in ids(data, root, name)} for name in data.describe(root).sizes}
    assert {name: len(part) for name, part in parts.items()} == {"train": 4, "test": 1, "validation": 1}
    assert len(set.union(*parts.values())) == 6
    assert data.describe(root).labels == {}
    assert not data.probe_splits


def test_speakers_that_are_a_label_are_probed_on_recordings_held_out(root: Path) -> None:
    data = folder(many(root), labels=["who", "mood"], split_by="speaker", speaker="who", validation_fraction=0.2)
    assert data.probe_splits == {"who": ("train", "seen")}
    seen = data.split(root, "seen").item_labels("who")
    assert sorted(seen) == sorted(set(data.split(root, "train").item_labels("who")))
    assert not set(ids(data, root, "seen")) & set(ids(data, root, "train"))


def test_folders_can_say_who_speaks(root: Path) -> None:
    many(root)
    data = folder(root, label_from="parent", label_name="speaker", split_by="speaker")
    parts = {name: {i.partition("/")[0] for i in ids(data, root, name)} for name in ("train", "test")}
    assert not parts["train"] & parts["test"]
    write(root / "nobody.wav")
    with pytest.raises(DataError, match=r"nothing says who speaks in .*nobody\.wav"):
        folder(root, label_from="parent", label_name="speaker", split_by="speaker").describe(root)


def test_any_column_can_name_the_splits_or_be_overruled(root: Path) -> None:
    name = many(root)
    assert folder(name, split_column="part").describe(root).sizes == {"train": 12, "test": 6, "validation": 6}
    drawn = folder(name, split_column="part", split_by="fraction").describe(root).sizes
    assert drawn == {"train": 24, "test": 6}
    with pytest.raises(DataError, match="no column split"):
        folder(name, split_by="column").describe(root)
    with pytest.raises(DataError, match="is a folder, and has no column split"):
        folder(root, split_by="column").describe(root)


def test_bad_rows_are_named_with_their_lines(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    name = many(root)
    lines = (root / name).read_text().splitlines()
    lines[7] = lines[7].replace(".wav", ".flac")
    (root / "s3" / "1.wav").write_bytes(b"")
    (root / name).write_text("\n".join(lines) + "\n")
    data = folder(name, max_corrupt=0.1)
    data.describe(root)
    for said in (r"line 8: cannot read .*s1/1.flac: there is no such file", r"line 18: cannot read .*it is empty"):
        assert re.search(rf"list\.csv, {said}", caplog.text)
    assert list(data.left_out(root)) == ["1_1", "3_1"]
    (root / name).write_text("\n".join([*lines, lines[3]]) + "\n")
    with pytest.raises(DataError, match=r"list\.csv, line 32: 0_2 is listed a second time, after line 4"):
        folder(name).describe(root)


def test_a_large_manifest_is_indexed_once_and_changes_are_noticed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root / "one.wav", samples=1600)
    for number in range(300):
        os.link(root / "one.wav", root / f"{number}.wav")
    name = manifest(root, "path\n" + "".join(f"{number}.wav\n" for number in range(300)))
    read: list[str] = []
    drawn: list[float] = []
    original, draw = _recordings.audio_info, _recordings.draw

    def counted(path: str) -> object:
        read.append(path)
        return original(path)

    def counted_draw(names: set[str], fraction: float, *seed: int | str) -> set[str]:
        drawn.append(fraction)
        return draw(names, fraction, *seed)

    monkeypatch.setattr(_recordings, "audio_info", counted)
    monkeypatch.setattr(_recordings, "draw", counted_draw)
    assert sum(folder(name).describe(root).sizes.values()) == 300
    assert len(read) == 300
    first = members(folder(name), root)
    assert (len(read), len(drawn)) == (300, 2)
    again = folder(name)
    assert sum(again.describe(root).sizes.values()) == 300
    assert members(again, root) == first
    assert (len(read), len(drawn)) == (300, 2)
    (root / "7.wav").unlink()
    write(root / "7.wav", samples=3200)
    assert folder(name, crop=None).describe(root).grid == (3200,)
    assert len(read) == 301
    (root / "8.wav").unlink()
    (root / "8.wav").touch()
    spoilt = folder(name)
    assert sum(spoilt.describe(root).sizes.values()) == 299
    assert list(spoilt.left_out(root)) == ["8.wav"]


def members(data: Folder, root: Path) -> dict[str, list[tuple[str, dict[str, object]]]]:
    """The ids and labels of each split's items, in order."""
    return {
        name: [(item.id, dict(item.labels)) for index in range(size) for item in [data.split(root, name)[index, None]]]
        for name, size in data.describe(root).sizes.items()
    }


def test_what_is_kept_of_a_manifest_is_all_that_it_says(root: Path) -> None:
    """Labels, splits, what is left out and what belongs nowhere are the same when it is opened again."""
    lines = ["path,id,word,split"]
    for number in range(12):
        write(root / f"ä{number}.wav", samples=1600 + number)
        lines.append(f"ä{number}.wav,ö{number},{'' if number == 3 else number % 2},{('train', 'test', '')[number % 3]}")
    (root / "ä4.wav").write_bytes(b"no sound")
    name = manifest(root, "\n".join(lines) + "\n")
    made, kept = (folder(name, labels=["word"]) for _ in range(2))
    assert members(made, root) == members(kept, root)
    assert dict(made.left_out(root)) == dict(kept.left_out(root))
    assert list(kept.left_out(root)) == ["ö4"]
    assert {name: len(found) for name, found in members(kept, root).items()} == {"train": 4, "test": 3}
    assert dict(members(kept, root)["train"])["ö3"] == {"word": -1}
    write(root / "ä4.wav", samples=1600)
    assert not folder(name, labels=["word"]).left_out(root)
    (root / name).write_text((root / name).read_text().replace(",test", ",train"))
    assert "test" not in folder(name, labels=["word"]).describe(root).sizes


# --- aligned labels --------------------------------------------------------------------------------------------------

TEXTGRID = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = {end}
tiers? <exists>
size = 3
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = {end}
        intervals: size = 2
        intervals [1]:
            xmin = 0
            xmax = 0.1
            text = ""
        intervals [2]:
            xmin = 0.1
            xmax = {end}
            text = "Zoë {word}"
    item [2]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = {end}
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 0.05
            text = "a"
        intervals [2]:
            xmin = 0.05
            xmax = 0.1
            text = "b"
        intervals [3]:
            xmin = 0.1
            xmax = {end}
            text = "a"
    item [3]:
        class = "TextTier"
        name = "clicks"
        xmin = 0
        xmax = {end}
        points: size = 1
        points [1]:
            number = 0.05
            mark = "tock"
"""


def slow(intervals: list[tuple[float, float, str]], names: tuple[str, ...], samples: int, rate: int) -> list[int]:
    """The class at the centre of each label, by looking at every interval."""
    values = []
    for place in range(1 + (samples - 400) // 160):
        second = (160 * place + 200) / rate
        said = [text for start, end, text in intervals if start <= second < end and text]
        values.append(names.index(said[0]) if said else -1)
    return values


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_textgrids_become_labels_on_the_grid(root: Path, encoding: str) -> None:
    for number in range(3):
        write(root / "sounds" / f"{number}.wav", samples=4000)
        text = TEXTGRID.format(end=0.25, word=number)
        (root / "sounds" / f"{number}.TextGrid").write_text(text, encoding=encoding)
    data = folder(aligned="textgrid", test_fraction=0.0)
    labels = data.describe(root).labels
    assert {name: (spec.names, spec.hop, spec.offset) for name, spec in labels.items()} == {
        "words": (("Zoë 0", "Zoë 1", "Zoë 2"), 160, 200.0),
        "phones": (("a", "b"), 160, 200.0),
    }
    item = data.split(root, "train")[1, None]
    phones = [(0, 0.05, "a"), (0.05, 0.1, "b"), (0.1, 0.25, "a")]
    assert item.labels["phones"].tolist() == slow(phones, ("a", "b"), 4000, 16000)  # type: ignore[union-attr]
    words = slow([(0.1, 0.25, "Zoë 1")], labels["words"].names, 4000, 16000)
    assert item.labels["words"].tolist() == words  # type: ignore[union-attr]
    assert list(folder(aligned="textgrid", tiers=["phones"]).describe(root).labels) == ["phones"]
    with pytest.raises(DataError, match="has an interval tier clicks") as caught:
        folder(aligned="textgrid", tiers=["clicks"]).describe(root)
    assert "words, phones" in str(caught.value.hint)


def test_phones_of_timit_count_samples_of_the_file(root: Path) -> None:
    write(root / "sounds" / "sa1.wav", samples=8000, rate=32000)
    write(root / "sounds" / "sa2.wav", samples=8000, rate=32000)
    (root / "sounds" / "sa1.PHN").write_text("0 2100 h#\n2100 5000 sh\n5000 8000 h#\n")
    data = folder(aligned="phn", test_fraction=0.0)
    assert data.describe(root).labels["phone"].names == ("h#", "sh")
    split = data.split(root, "train")
    spans = [(0, 2100 / 32000, "h#"), (2100 / 32000, 5000 / 32000, "sh"), (5000 / 32000, 0.25, "h#")]
    assert split[0, None].labels["phone"].tolist() == slow(spans, ("h#", "sh"), 4000, 16000)  # type: ignore[union-attr]
    assert set(split[1, None].labels["phone"].tolist()) == {-1}  # type: ignore[union-attr]
    crop, whole = split[0, 5], split[0, None]
    starts = [s for s in range(0, 2401, 160) if torch.allclose(whole.input[:, s : s + CROP], crop.input, atol=1e-6)]
    part = whole.labels["phone"][starts[0] // 160 :][: 1 + (CROP - 400) // 160]  # type: ignore[index]
    assert torch.equal(crop.labels["phone"], part)  # type: ignore[arg-type]


def test_alignments_may_lie_elsewhere_or_where_the_manifest_says(root: Path) -> None:
    write(root / "sounds" / "x" / "a.wav", samples=4000)
    (root / "align" / "x").mkdir(parents=True)
    (root / "align" / "x" / "a.phn").write_text("0 4000 b\n")
    data = folder(aligned="phn", aligned_path="align", aligned_name="sound", test_fraction=0.0)
    assert data.describe(root).labels["sound"].names == ("b",)
    name = manifest(root, "path,aligned\nsounds/x/a.wav,align/x/a.phn\n")
    assert folder(name, aligned="phn", test_fraction=0.0).describe(root).labels["phone"].names == ("b",)
    with pytest.raises(DataError, match=r"there is no \.phn of any recording"):
        folder(aligned="phn").describe(root)


def test_frames_of_van_den_oord_are_found_by_id_or_name(root: Path) -> None:
    write(root / "sounds" / "x" / "a-1.flac", samples=4000)
    write(root / "sounds" / "b.wav", samples=4000)
    values = " ".join(str(place % 3) for place in range(23))
    (root / "frames.txt").write_text(f"a-1 {values}\nb.wav {values}\n")
    data = folder(aligned="frames", aligned_path="frames.txt", test_fraction=0.0)
    split = data.split(root, "train")
    expected = [place % 3 for place in range(23)]
    assert [split[i, None].labels["phone"].tolist() for i in (0, 1)] == [expected, expected]  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="aligned_path"):
        folder(aligned="frames")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.phn", "0 4000\n", r"a\.phn, line 1: expected a first sample"),
        ("a.phn", "0 20 a\n30 10 b\n", r"a\.phn, line 2: from 30 to 10 is empty"),
        ("a.phn", "", r"a\.phn is empty"),
        ("a.phn", "0 90000 a\n", r"a\.phn goes on to 5\.625 s, and the sound ends at 0\.250 s"),
        ("a.TextGrid", "hello\n", r"a\.TextGrid does not parse as a TextGrid"),
        ("a.TextGrid", TEXTGRID[:300], r"a\.TextGrid does not parse as a TextGrid"),
        ("a.TextGrid", TEXTGRID.format(end=3, word="w"), r"a\.TextGrid goes on to 3\.000 s"),
    ],
)
def test_alignment_that_cannot_be_used_is_named(
    root: Path, caplog: pytest.LogCaptureFixture, name: str, text: str, message: str
) -> None:
    for stem in ("a", "b"):
        write(root / f"{stem}.wav", samples=4000)
    kind = Path(name).suffix[1:].lower()
    good = "0 4000 x\n" if kind == "phn" else TEXTGRID.format(end=0.25, word="w")
    (root / f"b{Path(name).suffix}").write_text(good)
    (root / name).write_text(text)
    listed = manifest(root, "path\na.wav\nb.wav\n")
    data = folder(listed, aligned=kind, test_fraction=0.0)
    data.describe(root)
    assert re.search(rf"list\.csv, line 2: .*{message}", caplog.text)
    assert re.search(message, data.left_out(root)["a.wav"])
    label = next(iter(data.describe(root).labels))
    values = [data.split(root, "train")[place, None].labels[label] for place in (0, 1)]
    assert [bool((value >= 0).any()) for value in values] == [False, True]  # type: ignore[operator]
    with pytest.raises(DataError, match="1 of 2 files of intervals cannot be used"):
        folder(listed, aligned=kind, max_corrupt=0.0).describe(root)


def test_intervals_are_parsed_once_and_again_when_a_file_changes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root / "sounds" / "a.wav", samples=4000)
    (root / "sounds" / "a.phn").write_text("0 4000 x\n")
    folder(aligned="phn", test_fraction=0.0).describe(root)
    read = _intervals._read_phn
    monkeypatch.setattr(_intervals, "_read_phn", lambda path: pytest.fail("it was parsed again"))
    assert folder(aligned="phn", test_fraction=0.0).describe(root).labels["phone"].names == ("x",)
    monkeypatch.setattr(_intervals, "_read_phn", read)
    (root / "sounds" / "a.phn").write_text("0 4000 longer\n")
    assert folder(aligned="phn", test_fraction=0.0).describe(root).labels["phone"].names == ("longer",)
