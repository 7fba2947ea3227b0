from __future__ import annotations

import contextlib
import logging
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from infomax_cli.core.api import CorruptItem, DataError, Dataset, Item, UsageError, audio_info
from infomax_plugins.datasets.librispeech import LibriSpeech

CROP = 3200
LABELS = "LibriSpeech100_labels_split"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INFOMAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


def path_of(root: Path, name: str, subset: str = "train-clean-100") -> Path:
    speaker, chapter, _ = name.split("-")
    return root / "LibriSpeech" / subset / speaker / chapter / f"{name}.flac"


def utterance(root: Path, name: str, samples: int = 8000, subset: str = "train-clean-100", rate: int = 16000) -> Path:
    """Sample n of an utterance is n / 2**15, so that audio tells where it comes from."""
    path = path_of(root, name, subset)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.arange(samples, dtype=np.int16), rate)
    return path


def corpus(root: Path, speakers: Sequence[int] = (3, 4, 5), each: int = 5) -> list[str]:
    names = [f"{speaker}-1-{number:04d}" for speaker in speakers for number in range(each)]
    for name in names:
        utterance(root, name)
    return names


def label_file(root: Path, content: Mapping[str, Sequence[object]], name: str = "converted_aligned_phones.txt") -> Path:
    path = root / LABELS / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{key} {' '.join(map(str, values))}\n" for key, values in content.items()))
    return path


def split_files(root: Path, train: Sequence[str], test: Sequence[str]) -> None:
    (root / LABELS).mkdir(parents=True, exist_ok=True)
    (root / LABELS / "train_split.txt").write_text("\n".join(train) + "\n")
    (root / LABELS / "test_split.txt").write_text("\n".join(test))


def dataset(**options: object) -> LibriSpeech:
    return LibriSpeech(**{"crop": CROP, "validation_fraction": 0.0, **options})  # type: ignore[arg-type]


def ids(data: LibriSpeech, root: Path, split: str) -> list[str]:
    found = data.split(root, split)
    return [found[index, None].id for index in range(len(found))]


def only(root: Path, samples: int, **options: object) -> Item:
    """A training item of a corpus of one utterance."""
    utterance(root, "8-1-0000", samples)
    return dataset(**options).split(root, "train")[0, 0]


def damage(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


# --- description -----------------------------------------------------------------------------------------------------


def test_it_is_a_dataset() -> None:
    assert isinstance(LibriSpeech(), Dataset)


def test_description_counts_and_names_without_decoding(root: Path) -> None:
    for name in corpus(root, (8, 9, 10)):  # headers survive, audio does not
        damage(path_of(root, name), 0.6)
    spec = LibriSpeech(validation_fraction=0.0).describe(root)
    assert (spec.channels, spec.grid, spec.axes, spec.rate) == (1, (20480,), ("time",), 16000)
    assert spec.sizes == {"train": 12, "test": 3}
    assert spec.labels["speaker"].names == ("8", "9", "10")  # by value, not as text
    assert not spec.labels["speaker"].aligned


def test_aligned_label_is_described_by_its_grid_and_names(root: Path) -> None:
    names = corpus(root)
    label_file(root, {names[0]: [0, 3, *[1] * 46]})
    label_file(root, {"0": ["sil"], "3": ["b"], "4": ["c"]}, "phones.txt")
    phone = dataset().describe(root).labels["phone"]
    assert (phone.classes, phone.hop, phone.offset) == (5, 160, 200.0)
    assert phone.names == ("sil", "1", "2", "b", "c")


def test_speakers_have_the_same_number_in_all_splits(root: Path) -> None:
    corpus(root)
    data = dataset(split_by="speaker", test_fraction=0.4)
    names = data.describe(root).labels["speaker"].names
    for split in ("train", "test", "seen"):
        found = data.split(root, split)
        for index, label in enumerate(found.item_labels("speaker")):
            item = found[index, None]
            assert item.labels["speaker"] == label
            assert names[label] == item.id.split("-")[0]


# --- items -----------------------------------------------------------------------------------------------------------


def test_crop_starts_on_the_grid_and_is_that_part_of_the_utterance(root: Path) -> None:
    utterance(root, "8-1-0000", 8000)
    split = dataset().split(root, "train")
    starts = set()
    for seed in range(200):
        audio = split[0, seed].input
        assert audio.shape == (1, CROP)
        start = round(audio[0, 0].item() * 2**15)
        torch.testing.assert_close(audio[0] * 2**15, torch.arange(start, start + CROP, dtype=torch.float32))
        starts.add(start)
    assert starts == set(range(0, 8000 - CROP + 1, 160))  # all that fit, the first and the last too


def test_labels_of_a_crop_are_those_of_the_utterance_at_the_same_times(root: Path) -> None:
    utterance(root, "8-1-0000", 8000)
    known = list(range(1 + (8000 - 400) // 160))
    label_file(root, {"8-1-0000": known})
    split = dataset().split(root, "train")
    assert split[0, None].labels["phone"].tolist() == known  # type: ignore[union-attr]
    for seed in range(30):
        item = split[0, seed]
        first = round(item.input[0, 0].item() * 2**15) // 160
        assert item.labels["phone"].tolist() == known[first : first + 1 + (CROP - 400) // 160]  # type: ignore[union-attr]


def test_utterance_shorter_than_the_crop_is_padded_at_its_end(root: Path) -> None:
    label_file(root, {"8-1-0000": [7, 7, 7, 7]})
    item = only(root, 1000)
    assert item.input.shape == (1, CROP)
    assert round(item.input[0, 999].item() * 2**15) == 999
    assert not item.input[0, 1000:].any()
    assert item.labels["phone"].tolist() == [7] * 4 + [-1] * 14  # type: ignore[union-attr]
    assert dataset().split(root, "train")[0, None].input.shape == (1, 1000)


@pytest.mark.parametrize("surplus", [-2, -1, 0, 1, 2])
def test_labels_that_are_a_few_more_or_fewer_are_cut_or_filled(root: Path, surplus: int) -> None:
    utterance(root, "8-1-0000", 8000)
    count = 1 + (8000 - 400) // 160
    label_file(root, {"8-1-0000": [5] * (count + surplus)})
    labels = dataset().split(root, "train")[0, None].labels["phone"]
    assert labels.tolist() == [5] * (count + min(surplus, 0)) + [-1] * max(-surplus, 0)  # type: ignore[union-attr]


def test_labels_that_do_not_fit_the_audio_are_named_and_left_out(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    utterance(root, "8-1-0000", 8000)
    utterance(root, "8-1-0001", 8000)
    label_file(root, {"8-1-0000": [5] * 48, "8-1-0001": [5] * 60})
    split = dataset(test_fraction=0.0).split(root, "train")
    assert "8-1-0001 has 60" in caplog.text
    assert set(split[1, None].labels["phone"].tolist()) == {-1}  # type: ignore[union-attr]
    assert set(split[0, None].labels["phone"].tolist()) == {5}  # type: ignore[union-attr]


def test_utterance_without_labels_has_unknown_ones(root: Path) -> None:
    utterance(root, "8-1-0000")
    utterance(root, "8-1-0001")
    label_file(root, {"8-1-0000": [5] * 48, "99-9-9999": [40] * 100})
    data = dataset(test_fraction=0.0)
    labels = data.split(root, "train")[1, None].labels["phone"]
    assert labels.tolist() == [-1] * 48  # type: ignore[union-attr]
    assert data.describe(root).labels["phone"].classes == 41  # as in the file, whichever utterances are there


def test_chunks_are_consecutive_and_do_not_overlap(root: Path) -> None:
    utterance(root, "8-1-0000", 3 * CROP + 100)
    utterance(root, "8-1-0001", 100)
    utterance(root, "8-1-0002", CROP)
    label_file(root, {"8-1-0000": list(range(1 + (3 * CROP + 100 - 400) // 160))})
    split = dataset(mode="chunks", test_fraction=0.0).split(root, "train")
    items = [split[index, None] for index in range(len(split))]
    assert [i.id for i in items] == ["8-1-0000#0", "8-1-0000#1", "8-1-0000#2", "8-1-0001#0", "8-1-0002#0"]
    for number, item in enumerate(items[:3]):
        start = number * CROP
        torch.testing.assert_close(item.input[0] * 2**15, torch.arange(start, start + CROP, dtype=torch.float32))
        assert item.labels["phone"].tolist() == list(range(20 * number, 20 * number + 18))  # type: ignore[union-attr]
        torch.testing.assert_close(split[number, 123].input, item.input)  # nothing to draw
    assert {item.input.shape for item in items} == {(1, CROP)}
    assert split.item_labels("speaker") == [0] * 5


def test_chunks_start_on_the_grid_of_the_labels_whatever_the_crop(root: Path) -> None:
    utterance(root, "8-1-0000", 3000)
    split = dataset(mode="chunks", crop=1000).split(root, "train")
    starts = [round(split[index, None].input[0, 0].item() * 2**15) for index in range(len(split))]
    assert starts == [0, 1120]


def test_without_a_crop_training_items_are_padded_to_the_longest(root: Path) -> None:
    utterance(root, "8-1-0000", 900)
    utterance(root, "8-1-0001", 1500)
    data = dataset(crop=None, test_fraction=0.0)
    assert data.describe(root).grid == (1500,)
    split = data.split(root, "train")
    assert split[0, 5].input.shape == split[1, 5].input.shape == (1, 1500)
    assert split[0, None].input.shape == (1, 900)


def test_other_rates_are_resampled(root: Path) -> None:
    utterance(root, "8-1-0000", 8000, rate=8000)
    split = dataset().split(root, "train")
    assert split[0, None].input.shape == (1, 16000)
    assert split[0, 3].input.shape == (1, CROP)


def test_items_depend_on_index_and_seed_alone(root: Path) -> None:
    names = corpus(root)
    label_file(root, {name: list(range(48)) for name in names})
    data = dataset()
    split = data.split(root, "train")
    copy = pickle.loads(pickle.dumps(dataset().split(root, "train")))  # as a loader's worker gets it
    forward = {(index, seed): split[index, seed] for index in range(len(split)) for seed in (1, 2**62)}
    for (index, seed), item in reversed(forward.items()):
        again = copy[index, seed]
        assert again.id == item.id
        assert torch.equal(again.input, item.input)
        assert torch.equal(again.labels["phone"], item.labels["phone"])  # type: ignore[arg-type]
    assert any(not torch.equal(forward[i, 1].input, forward[i, 2**62].input) for i in range(len(split)))


def test_split_ends_where_its_length_says(root: Path) -> None:
    corpus(root)
    split = dataset().split(root, "test")
    assert split[-1, None].id == split[len(split) - 1, None].id
    with pytest.raises(IndexError):
        split[len(split), None]


# --- splits ----------------------------------------------------------------------------------------------------------


def test_split_files_are_used_where_they_are(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = corpus(root)
    split_files(root, train=[names[3], names[1], "8-1-7777"], test=names[5:7])
    data = dataset()
    assert ids(data, root, "train") == [names[3], names[1]]
    assert ids(data, root, "test") == names[5:7]
    assert "1 of the 3 utterances" in caplog.text
    assert "8-1-7777" in caplog.text
    assert "11 utterances are left out" in caplog.text


def test_split_files_of_another_subset_are_not_used_unasked(root: Path) -> None:
    utterance(root, "1-1-0001", subset="dev-clean")
    utterance(root, "1-1-0002", subset="dev-clean")
    split_files(root, train=["8-1-0000"], test=["8-1-0001"])
    assert len(dataset(subset="dev-clean").split(root, "test")) == 1
    with pytest.raises(DataError, match=r"train of librispeech is empty.*train_split\.txt"):
        dataset(subset="dev-clean", split_by="files").describe(root)


def test_missing_or_overlapping_split_files_are_errors(root: Path) -> None:
    names = corpus(root)
    with pytest.raises(DataError, match=r"train_split\.txt"):
        dataset(split_by="files").describe(root)
    split_files(root, train=names[:8], test=names[7:])
    with pytest.raises(DataError, match=f"both list {names[7]}"):
        dataset().describe(root)
    (root / LABELS / "test_split.txt").unlink()
    with pytest.raises(DataError, match=r"test_split\.txt"):
        dataset().describe(root)


def test_split_by_utterance_has_every_speaker_in_both_and_no_utterance(root: Path) -> None:
    names = corpus(root, (3, 4, 5, 6), each=10)
    data = dataset(split_by="utterance", validation_fraction=0.1)
    parts = {name: ids(data, root, name) for name in ("train", "validation", "test")}
    assert sorted(name for part in parts.values() for name in part) == sorted(names)
    assert [len(part) for part in parts.values()] == [29, 3, 8]
    for part in ("train", "test"):
        assert {name.split("-")[0] for name in parts[part]} == {"3", "4", "5", "6"}


def test_split_by_speaker_shares_none_and_keeps_utterances_of_training_speakers_to_probe_on(root: Path) -> None:
    names = corpus(root, (3, 4, 5, 6, 7), each=10)
    data = dataset(split_by="speaker", validation_fraction=0.1)
    parts = {name: ids(data, root, name) for name in ("train", "validation", "test", "seen")}
    assert sorted(name for part in parts.values() for name in part) == sorted(names)
    speakers = {part: {name.split("-")[0] for name in found} for part, found in parts.items()}
    assert len(speakers["test"]) == 1
    assert not speakers["test"] & (speakers["train"] | speakers["seen"] | speakers["validation"])
    assert speakers["seen"] == speakers["train"]
    assert data.probe_splits == {"speaker": ("train", "seen")}
    assert dataset().probe_splits == {}


def test_split_seed_decides_the_split(root: Path) -> None:
    corpus(root, (3, 4, 5, 6), each=10)
    first, again, other = (ids(dataset(split_seed=seed), root, "test") for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_choosing_speakers_does_not_change_what_is_tested(root: Path) -> None:
    corpus(root, (3, 4, 5, 6), each=10)
    everyone = ids(dataset(), root, "test")
    one = dataset(speakers=[4])
    assert ids(one, root, "test") == [name for name in everyone if name.startswith("4-")]
    assert one.describe(root).labels["speaker"].names == ("4",)
    with pytest.raises(DataError, match="no speaker 77") as caught:
        dataset(speakers=["77"]).describe(root)
    assert "3, 4, 5, 6" in str(caught.value.hint)


def test_several_subsets_make_one_corpus(root: Path) -> None:
    utterance(root, "1-1-0001", subset="dev-clean")
    utterance(root, "2-1-0001", subset="dev-other")
    assert ids(dataset(subset=["dev-other", "dev-clean"]), root, "train") == ["2-1-0001", "1-1-0001"]


def test_empty_split_says_which_and_why(root: Path) -> None:
    utterance(root, "8-1-0000")
    reasons = {
        "test": ({}, "split test of librispeech is empty: no speaker has two utterances"),
        "validation": ({}, "split validation of librispeech is empty: validation_fraction is 0"),
        "seen": ({"split_by": "speaker"}, "split seen of librispeech is empty: no training speaker"),
    }
    for name, (options, message) in reasons.items():
        data = dataset(**options)
        assert name not in data.describe(root).sizes
        with pytest.raises(DataError, match=message):
            data.split(root, name)
    with pytest.raises(DataError, match="test_fraction is 0"):
        dataset(test_fraction=0.0).split(root, "test")
    with pytest.raises(DataError, match="no split 'dev'") as caught:
        dataset().split(root, "dev")
    assert "train" in str(caught.value.hint)


# --- what is missing or wrong ----------------------------------------------------------------------------------------


def test_missing_data_says_where_it_was_looked_for_and_what_runs_without(root: Path) -> None:
    with pytest.raises(DataError, match=str(root / "LibriSpeech" / "train-clean-100")) as caught:
        LibriSpeech().describe(root)
    command = f"`infomax download librispeech --subset train-clean-100 --root {root}` gets it (5.9 GiB)"
    for help_ in (command, "--root", "data.root=", "INFOMAX_DATA", "--data syllables", "openslr.org/12"):
        assert help_ in str(caught.value.hint)


def test_wrong_subset_lists_those_that_are_there(root: Path) -> None:
    utterance(root, "1-1-0001", subset="dev-clean")
    with pytest.raises(DataError) as caught:
        dataset().describe(root)
    assert "holds dev-clean" in str(caught.value.hint)


def test_root_one_folder_off_is_told(root: Path) -> None:
    corpus(root)
    for wrong in (root / "LibriSpeech", root.parent):
        if wrong == root.parent:  # LibriSpeech unpacked into a folder LibriSpeech
            (wrong / "LibriSpeech").symlink_to(root)
        with pytest.raises(DataError) as caught:
            dataset().describe(wrong)
        assert "It is there with --root" in str(caught.value.hint)


def test_folder_without_flac_or_without_layout_is_an_error(root: Path) -> None:
    folder = root / "LibriSpeech" / "train-clean-100"
    folder.mkdir(parents=True)
    with pytest.raises(DataError, match="no FLAC files"):
        dataset().describe(root)
    soundfile.write(folder / "a.flac", np.zeros(100), 16000)
    with pytest.raises(DataError, match="1 FLAC files, none laid out like LibriSpeech") as caught:
        dataset().describe(root)
    assert "<speaker>/<chapter>" in str(caught.value.hint)


def test_stray_and_hidden_files_are_left_out(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = utterance(root, "8-1-0000")
    path.with_name("._8-1-0000.flac").write_bytes(b"left by macOS")
    soundfile.write(path.parent.parent / "stray.flac", np.zeros(100), 16000)
    assert ids(dataset(), root, "train") == ["8-1-0000"]
    assert "8/stray.flac" in caplog.text


def test_utterance_that_is_there_twice_is_an_error(root: Path) -> None:
    utterance(root, "1-1-0001", subset="a")
    utterance(root, "1-1-0001", subset="b")
    with pytest.raises(DataError, match="more than once"):
        dataset(subset=["a", "b"]).describe(root)


@pytest.mark.parametrize("line", ["8-1-0000 1 2 x 3", "8-1-0000", "8-1-0000 1 -2", "8-1-0000 1.5 2"])
def test_malformed_label_line_is_named(root: Path, line: str) -> None:
    utterance(root, "8-1-0000")
    path = label_file(root, {"9-9-9999": [1, 2]})
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataError, match=r"converted_aligned_phones\.txt, line 2"):
        dataset().describe(root)


def test_label_file_may_have_another_name(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    utterance(root, "8-1-0000")
    label_file(root, {"8-1-0000": [4] * 48}).rename(root / "mine.txt")
    assert "phone" not in dataset().describe(root).labels
    assert dataset(phones="mine.txt").describe(root).labels["phone"].classes == 5
    assert "phone" in dataset(phones=str(root / "mine.txt")).describe(root).labels
    monkeypatch.chdir(root)
    (root / "mine.txt").rename(tmp_path / "other.txt")
    assert "phone" in dataset(phones="../other.txt").describe(root).labels
    with pytest.raises(DataError, match=r"nowhere\.txt"):
        dataset(phones="nowhere.txt").describe(root)
    label_file(root, {"9-9-9999": [1]}).rename(root / "mine.txt")
    with pytest.raises(DataError, match="labels none of the utterances"):
        dataset(phones="mine.txt").describe(root)


@pytest.mark.parametrize(
    "options",
    [{"crop": 0}, {"crop": None, "mode": "chunks"}, {"test_fraction": 1.0}, {"validation_fraction": -0.1}],
)
def test_options_that_make_no_sense_are_refused_at_once(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="librispeech"):
        dataset(**options)


def test_download_knows_the_published_subsets_alone(root: Path) -> None:
    with pytest.raises(DataError, match="no subset mine of LibriSpeech") as caught:
        dataset(subset=["dev-clean", "mine"]).download(root)
    assert "train-other-500" in str(caught.value.hint)
    assert not root.exists()


# --- corrupt files and the cache -------------------------------------------------------------------------------------


def test_file_without_a_header_is_named_and_left_out(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = corpus(root)
    path_of(root, names[4]).write_bytes(b"")
    assert names[4] not in ids(dataset(test_fraction=0.0), root, "train")
    assert f"{names[4]}.flac: it is empty" in caplog.text
    assert "1 of 15" in caplog.text


@pytest.mark.parametrize(
    ("share", "broken", "stops"), [(0.01, 1, False), (0.01, 2, True), (0.2, 3, False), (0, 1, True)]
)
def test_too_many_files_without_a_header_stop_the_run(root: Path, share: float, broken: int, stops: bool) -> None:
    names = corpus(root)
    for name in names[:broken]:
        path_of(root, name).write_bytes(b"")
    data = dataset(max_corrupt=share)
    if stops:
        with pytest.raises(DataError, match=f"{broken} of 15 .*{names[0]}") as caught:
            data.describe(root)
        assert "data.max_corrupt=" in str(caught.value.hint)
    else:
        assert sum(data.describe(root).sizes.values()) == 15 - broken


def test_file_found_corrupt_while_decoding_is_named_once_and_replaced(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = corpus(root)
    damage(path_of(root, names[4]), 0.1)
    split = dataset(test_fraction=0.0).split(root, "train")
    replaced = [split[4, seed].id for seed in range(20)]
    assert names[4] not in replaced
    assert len(set(replaced)) > 3  # the seed draws what takes its place
    with pytest.raises(CorruptItem, match=names[4]):
        split[4, None]
    assert caplog.text.count(f"{names[4]}.flac") == 1


def test_replacement_does_not_depend_on_what_was_read_before(root: Path) -> None:
    names = corpus(root)
    assert ids(dataset(test_fraction=0.0), root, "train")[4] == names[4]
    for name in names[3:6]:
        damage(path_of(root, name), 0.1)
    fresh = [dataset(test_fraction=0.0, max_corrupt=0.3).split(root, "train")[4, seed].id for seed in range(10)]
    used = dataset(test_fraction=0.0, max_corrupt=0.3).split(root, "train")
    for index in range(len(used)):
        with contextlib.suppress(CorruptItem):
            used[index, None]
    assert [used[4, seed].id for seed in range(10)] == fresh


def test_too_many_corrupt_files_stop_the_run_while_decoding(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = corpus(root)
    for name in names[:2]:
        damage(path_of(root, name), 0.1)
    split = dataset(test_fraction=0.0).split(root, "train")
    with pytest.raises(DataError, match=rf"2 of 15 .*{names[1]}\.flac.*(truncated|damaged)"):
        [split[index, 0] for index in range(len(split))]


def test_corpus_of_nothing_but_corrupt_files_ends_with_an_error(root: Path) -> None:
    damage(utterance(root, "8-1-0000"), 0.1)
    with pytest.raises(DataError, match="none of"):
        dataset().split(root, "train")[0, 0]


def test_headers_are_read_once_and_again_when_a_file_changes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = corpus(root)
    dataset().describe(root)
    read: list[str] = []

    def counting(path: str) -> object:
        read.append(Path(path).stem)
        return audio_info(path)

    monkeypatch.setattr("infomax_plugins.datasets._recordings.audio_info", counting)
    dataset().describe(root)
    assert read == []
    utterance(root, names[2], 9999)
    split = dataset(test_fraction=0.0).split(root, "train")
    assert names[2] in read
    assert split[2, None].input.shape == (1, 9999)


def test_file_that_was_repaired_is_used_again(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = corpus(root)
    path = path_of(root, names[0])
    good = path.read_bytes()
    path.unlink()
    path.symlink_to(root / "elsewhere.flac")  # a link into nowhere, as of a disk that is not mounted
    assert sum(dataset().describe(root).sizes.values()) == 14
    (root / "elsewhere.flac").write_bytes(good)
    assert sum(dataset().describe(root).sizes.values()) == 15
    caplog.clear()
    dataset().describe(root)
    assert not caplog.records or all(record.levelno < logging.WARNING for record in caplog.records)
