import hashlib
import itertools
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from infomax_cli.core.api import DataError, UsageError
from infomax_plugins.datasets import syllables as module
from infomax_plugins.datasets.syllables import SYLLABLES, VOWELS, Syllables, SyllablesSplit

SMALL = {"speakers": 2, "words": 9}
ROOT = Path("unused")
SPLITS = ("train", "validation", "test", "seen")


@pytest.fixture(scope="session")
def corpus_cache(tmp_path_factory):
    """A cache that already holds the corpus of `SMALL`, shared by the tests that only read."""
    folder = tmp_path_factory.mktemp("syllables")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INFOMAX_CACHE", str(folder))
        Syllables(**SMALL).download(ROOT)
    return folder


@pytest.fixture(autouse=True)
def small_cache(corpus_cache, monkeypatch):
    monkeypatch.setenv("INFOMAX_CACHE", str(corpus_cache))
    return corpus_cache


def all_audio(folder):
    return {path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("audio.npy")}


def runs(values):
    """[(value, first, end)] of equal neighbours."""
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    return [(int(values[a]), a, b) for a, b in itertools.pairwise(edges)]


# --- determinism and the cache ---


def test_processes_that_build_at_once_all_make_the_same_corpus(corpus_cache, tmp_path):
    code = "from pathlib import Path; from infomax_plugins.datasets.syllables import Syllables; "
    code += "Syllables(speakers=2, words=9).download(Path('.'))"
    environment = {**os.environ, "INFOMAX_CACHE": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    builders = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(2)]
    assert [builder.wait(120) for builder in builders] == [0, 0]
    assert all_audio(tmp_path) == all_audio(corpus_cache)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["audio.npy", "index.json"]


def test_words_sound_the_same_whatever_is_synthesized_beside_them(monkeypatch, tmp_path, corpus_cache):
    monkeypatch.setenv("INFOMAX_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "SIDE_BY_SIDE", 7)
    Syllables(**SMALL).download(ROOT)
    assert all_audio(tmp_path) == all_audio(corpus_cache)


def test_more_speakers_leave_the_others_as_they_are(monkeypatch, tmp_path):
    few = Syllables(**SMALL).split(ROOT, "train")
    expected = [few[i, None].input for i in range(len(few))]
    monkeypatch.setenv("INFOMAX_CACHE", str(tmp_path))
    more = Syllables(speakers=3, words=9).split(ROOT, "train")
    assert len(more) == 27
    assert all(torch.equal(more[i, None].input, audio) for i, audio in enumerate(expected))


@pytest.mark.parametrize("option", [{"speakers": 3}, {"words": 10}, {"seed": 1}])
def test_what_changes_the_audio_changes_the_cache(option):
    assert Syllables(**{**SMALL, **option})._folder != Syllables(**SMALL)._folder


@pytest.mark.parametrize("option", [{"crop": 8000}, {"crop": None}, {"unit": "syllable"}])
def test_what_only_cuts_the_audio_shares_the_cache(option):
    assert Syllables(**SMALL, **option)._folder == Syllables(**SMALL)._folder


def test_the_version_of_the_synthesizer_changes_the_cache(monkeypatch):
    before = Syllables(**SMALL)._folder
    monkeypatch.setattr(module, "SYNTH_VERSION", module.SYNTH_VERSION + 1)
    assert Syllables(**SMALL)._folder != before


def test_another_seed_is_other_voices_and_other_words(monkeypatch, tmp_path):
    first, other = Syllables(**SMALL)._plan()["train"], Syllables(**SMALL, seed=1)._plan()["train"]
    assert first[0][1].voice.pitch != other[0][1].voice.pitch
    assert [[s.name for s in w.syllables] for _, w in first] != [[s.name for s in w.syllables] for _, w in other]


def test_a_whole_cache_is_not_made_again(monkeypatch):
    monkeypatch.setattr(module, "synthesize", lambda words: pytest.fail("synthesized again"))
    assert len(Syllables(**SMALL).split(ROOT, "train")) == 18


def test_describing_synthesizes_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("INFOMAX_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "synthesize", lambda words: pytest.fail("synthesized"))
    spec = Syllables(**SMALL).describe(ROOT)
    assert spec.sizes == {"train": 18, "validation": 9, "test": 9, "seen": 18}
    assert spec.grid == (10240,)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def own_cache(monkeypatch, tmp_path, corpus_cache):
    """A cache of the test's own, and the hash of the audio that belongs there."""
    monkeypatch.setenv("INFOMAX_CACHE", str(tmp_path))
    return tmp_path, all_audio(corpus_cache)


def test_an_interrupted_build_is_never_taken_for_whole(own_cache, monkeypatch):
    folder, expected = own_cache

    def interrupted(words):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "synthesize", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Syllables(**SMALL).download(ROOT)
    assert not [path for path in folder.rglob("*") if path.is_file()]
    Syllables(**SMALL).download(ROOT)
    assert all_audio(folder) == expected


def test_a_build_killed_before_its_index_is_made_again(own_cache):
    folder, expected = own_cache
    cache = Syllables(**SMALL)._folder
    cache.mkdir(parents=True)
    np.save(cache / "audio.npy", np.zeros(1000, np.int16))
    assert len(Syllables(**SMALL).split(ROOT, "train")) == 18
    assert all_audio(folder) == expected


@pytest.mark.parametrize("name", ["audio.npy", "index.json"])
@pytest.mark.parametrize("left", [0, 50, 1000])
def test_a_truncated_cache_is_made_again(own_cache, corpus_cache, name, left):
    folder, expected = own_cache
    cache = Syllables(**SMALL)._folder
    cache.mkdir(parents=True)
    for path in corpus_cache.rglob("*.*"):
        content = path.read_bytes()
        (cache / path.name).write_bytes(content[:left] if path.name == name else content)
    Syllables(**SMALL).download(ROOT)
    assert all_audio(folder) == expected
    assert sorted(json.loads((cache / "index.json").read_text())["splits"]) == sorted(SPLITS)


def test_a_cache_that_cannot_be_written_is_named_with_what_to_do(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("INFOMAX_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError) as caught:
        Syllables(**SMALL).split(ROOT, "train")
    assert str(tmp_path / "file") in caught.value.message
    assert "INFOMAX_CACHE" in (caught.value.hint or "")


# --- what is in it ---


def test_test_and_validation_speakers_are_disjoint_from_trains_and_seens_are_trains():
    speakers = {name: set(Syllables(**SMALL).split(ROOT, name).item_labels("speaker")) for name in SPLITS}
    assert speakers == {"train": {0, 1}, "validation": {2}, "test": {3}, "seen": {0, 1}}
    assert Syllables(**SMALL).describe(ROOT).labels["speaker"].classes == 4


def test_the_words_of_seen_are_not_those_of_train():
    data = Syllables(**SMALL)
    train, seen = (data.split(ROOT, name) for name in ("train", "seen"))
    heard = {train[i, None].input.numpy().tobytes() for i in range(len(train))}
    assert not heard & {seen[i, None].input.numpy().tobytes() for i in range(len(seen))}


@pytest.mark.parametrize("split", SPLITS)
def test_every_split_has_every_syllable_equally_often(split):
    labels = Syllables(**SMALL, unit="syllable").split(ROOT, split).item_labels("syllable")
    counts = np.bincount(labels, minlength=9)
    assert (counts == len(labels) // 9).all()


def test_a_label_is_what_is_said_in_the_middle_of_its_window():
    data = Syllables(**SMALL)
    split = data.split(ROOT, "train")
    for i, (speaker, word) in enumerate(data._plan()["train"]):
        item = split[i, None]
        assert item.input.shape == (1, word.length)
        assert item.labels["speaker"] == speaker
        expected = {"phone": [], "syllable": [], "vowel": []}
        for centre in range(200, word.length - 199, 160):
            said = [s for s in word.syllables if s.onset <= centre < s.end]
            in_vowel = bool(said) and centre >= said[0].vowel
            name = said[0].name if said else ""
            expected["syllable"].append(SYLLABLES.index(name) if said else -1)
            expected["vowel"].append(VOWELS.index(name[1]) if in_vowel else -1)
            expected["phone"].append(module.PHONES.index(name[in_vowel]) if said else 0)
        assert {name: item.labels[name].tolist() for name in expected} == expected


def test_vowels_are_louder_than_closures_and_silence():
    split = Syllables(**SMALL).split(ROOT, "train")
    loudness = {"silence": [], "closure": [], "vowel": []}
    for i in range(len(split)):
        item = split[i, None]
        power = item.input[0].unfold(0, 400, 160).square().mean(dim=-1)
        for phone, first, end in runs(item.labels["phone"].numpy()):
            kind = "silence" if phone == 0 else "closure" if phone < 4 else "vowel"
            inner = power[first + 1 : first + 3] if kind == "closure" else power[first + 1 : end - 1]
            loudness[kind].append(float(inner.mean().log10() * 10))
    silence, closure, vowel = (np.nanmean(loudness[kind]) for kind in ("silence", "closure", "vowel"))
    assert vowel > closure + 6
    assert vowel > silence + 8


def test_audio_is_at_the_level_of_speech_and_never_clipped():
    split = Syllables(**SMALL).split(ROOT, "train")
    items = [split[i, None].input for i in range(len(split))]
    assert all(0.01 < item.square().mean().sqrt() < 0.2 and item.abs().max() < 0.99 for item in items)
    assert all(item.dtype == torch.float32 for item in items)


def test_class_counts_and_names_agree():
    for label in Syllables(**SMALL).describe(ROOT).labels.values():
        assert len(label.names) == label.classes


def test_the_speaker_probe_is_tested_on_speakers_it_knows():
    sizes = Syllables(**SMALL).describe(ROOT).sizes
    assert Syllables.probe_splits == {"speaker": ("train", "seen")}
    assert set(Syllables.probe_splits["speaker"]) <= set(sizes)


# --- crops ---


def test_a_crop_starts_on_the_label_grid_and_its_labels_go_with_it():
    split = Syllables(**SMALL, crop=6400).split(ROOT, "train")
    whole = split[3, None]
    for seed in range(20):
        item = split[3, seed]
        starts = [s for s in range(0, whole.input.shape[1] - 6399, 160)
                  if torch.equal(whole.input[:, s : s + 6400], item.input)]  # fmt: skip
        assert len(starts) == 1
        first = starts[0] // 160
        for name in ("phone", "syllable", "vowel"):
            assert len(item.labels[name]) == 1 + (6400 - 400) // 160
            assert torch.equal(item.labels[name], whole.labels[name][first : first + 38])


def test_a_seed_gives_one_crop_and_seeds_give_all_of_them():
    split = Syllables(**SMALL, crop=6400).split(ROOT, "train")
    assert torch.equal(split[0, 5].input, split[0, 5].input)
    drawn = {split[0, seed].input.numpy().tobytes() for seed in range(500)}
    assert len(drawn) == (split[0, None].input.shape[1] - 6400) // 160 + 1


def test_an_item_shorter_than_the_crop_is_padded_with_zeros_and_unknown_labels():
    split = Syllables(**SMALL, crop=32000).split(ROOT, "train")
    whole, item = split[0, None], split[0, 1]
    length, count = whole.input.shape[1], len(whole.labels["phone"])
    assert item.input.shape == (1, 32000)
    assert torch.equal(item.input[:, :length], whole.input)
    assert not item.input[:, length:].any()
    for name in ("phone", "syllable", "vowel"):
        assert len(item.labels[name]) == 198
        assert torch.equal(item.labels[name][:count], whole.labels[name])
        assert (item.labels[name][count:] == -1).all()


@pytest.mark.parametrize("unit", ["word", "syllable"])
def test_without_a_crop_items_are_filled_up_to_the_longest(unit, monkeypatch, tmp_path):
    data = Syllables(**SMALL, crop=None, unit=unit)
    splits = [data.split(ROOT, name) for name in SPLITS]
    longest = max(split[i, None].input.shape[1] for split in splits for i in range(len(split)))
    assert data.describe(ROOT).grid == (longest,)
    assert {split[i, 0].input.shape for split in splits for i in range(len(split))} == {(1, longest)}
    monkeypatch.setenv("INFOMAX_CACHE", str(tmp_path))  # and this is known before anything is synthesized
    assert data.describe(ROOT).grid == (longest,)


# --- syllables as items ---


def test_syllables_are_cut_from_the_words():
    words = Syllables(**SMALL).split(ROOT, "test")
    cut = Syllables(**SMALL, unit="syllable").split(ROOT, "test")
    assert len(cut) == 3 * len(words)
    for i in range(len(words)):
        word = words[i, None]
        parts = [cut[3 * i + j, None] for j in range(3)]
        joined = torch.cat([part.input for part in parts], dim=1)
        start = next(
            s for s in range(word.input.shape[1]) if torch.equal(word.input[:, s : s + joined.shape[1]], joined)
        )
        assert (word.labels["syllable"][: max(0, (start - 200) // 160)] == -1).all()
        said = [value for value, _, _ in runs(word.labels["syllable"].numpy()) if value >= 0]
        assert list(dict.fromkeys(part.labels["syllable"] for part in parts)) == list(dict.fromkeys(said))
        assert [part.id.rsplit("-", 1)[1] for part in parts] == [SYLLABLES[part.labels["syllable"]] for part in parts]


def test_a_syllables_labels_agree_with_each_other():
    split = Syllables(**SMALL, unit="syllable").split(ROOT, "validation")
    for i in range(len(split)):
        item = split[i, None]
        name = SYLLABLES[item.labels["syllable"]]
        assert VOWELS[item.labels["vowel"]] == name[1]
        assert len(item.labels["phone"]) == 1 + (item.input.shape[1] - 400) // 160
        assert [module.PHONES[value] for value, _, _ in runs(item.labels["phone"].numpy())] == list(name)
    for label in ("speaker", "syllable", "vowel"):
        assert list(split.item_labels(label)) == [split[i, None].labels[label] for i in range(len(split))]


@pytest.mark.parametrize("unit", ["word", "syllable"])
def test_the_description_agrees_with_the_items(unit):
    data = Syllables(**SMALL, unit=unit)
    spec = data.describe(ROOT)
    ids = []
    for name, size in spec.sizes.items():
        split = data.split(ROOT, name)
        assert len(split) == size
        for i in range(size):
            item = split[i, i]
            ids.append(item.id)
            assert item.input.shape == (spec.channels, *spec.grid)
            assert set(item.labels) == set(spec.labels)
            for label, value in item.labels.items():
                assert isinstance(value, torch.Tensor) == spec.labels[label].aligned
                assert int(torch.as_tensor(value).max()) < spec.labels[label].classes
    assert len(set(ids)) == len(ids)


# --- use by loaders, and misuse ---


class Seeded(Dataset):
    def __init__(self, split: SyllablesSplit) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.split[index, index].input


def test_two_loader_workers_read_what_one_process_reads():
    split = Syllables(**SMALL).split(ROOT, "train")
    expected = [split[i, i].input for i in range(len(split))]  # opens the audio before the workers start
    loader = DataLoader(Seeded(split), batch_size=6, num_workers=2, multiprocessing_context="spawn")
    assert torch.equal(torch.cat(list(loader)), torch.stack(expected))


def test_a_pickled_split_carries_no_audio():
    split = Syllables(**SMALL).split(ROOT, "train")
    item = split[0, None]
    pickled = pickle.dumps(split)
    assert len(pickled) < 50_000
    assert torch.equal(pickle.loads(pickled)[0, None].input, item.input)


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ({"speakers": 0}, "speakers"),
        ({"words": 8}, "words"),
        ({"crop": 399}, "crop"),
        ({"crop": 0}, "crop"),
        ({"unit": "phrase"}, "unit"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_by_name(option, named):
    with pytest.raises(UsageError, match=named) as caught:
        Syllables(**option)
    assert caught.value.hint


def test_unknown_splits_and_labels_are_refused_with_what_there_is():
    with pytest.raises(DataError, match="dev") as caught:
        Syllables(**SMALL).split(ROOT, "dev")
    assert "validation" in (caught.value.hint or "")
    with pytest.raises(DataError, match="vowel"):  # aligned, where items are words
        Syllables(**SMALL).split(ROOT, "test").item_labels("vowel")


@pytest.mark.parametrize("position", [-1, 18])
def test_items_beyond_the_split_are_not_anothers(position):
    with pytest.raises(IndexError):
        Syllables(**SMALL).split(ROOT, "train")[position, None]
