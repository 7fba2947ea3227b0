"""The corpus of de Boer, in the published naming of files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from infomax_cli.core.api import DataError
from infomax_plugins.datasets.deboer import DeBoer


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFOMAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two takes of two words, of 44.1 kHz, and their six syllables, of 22.05 kHz."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for word in ("bagigi", "dabudu"):
            for take in (1, 2):
                whole = tmp_path / "corpus" / "reshuffledv2" / split / f"{word}_{take}.wav"
                whole.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(whole, random.normal(0, 0.1, 30000), 44100)
                for place in range(3):
                    part = tmp_path / "corpus" / "split up data padded" / split
                    part.mkdir(parents=True, exist_ok=True)
                    name = f"{word}_{take}_{place + 1}_{word[2 * place : 2 * place + 2]}.wav"
                    soundfile.write(part / name, random.normal(0, 0.1, 12100), 22050)
    return tmp_path


def test_words_are_read_from_their_start_at_16_khz(root: Path) -> None:
    data = DeBoer()
    spec = data.describe(root)
    assert spec.sizes == {"train": 3, "validation": 1, "test": 4}
    assert spec.labels["word"].names == ("bagigi", "dabudu")
    split = data.split(root, "train")
    assert split[0, 1].input.shape == (1, 10240)
    assert np.array_equal(split[0, 1].input, split[0, 2].input)
    assert np.array_equal(split[0, 1].input, split[0, None].input[:, :10240])


def test_syllables_and_vowels_are_in_the_names(root: Path) -> None:
    data = DeBoer(unit="syllable", validation_fraction=0.0)
    spec = data.describe(root)
    assert spec.sizes == {"train": 12, "test": 12}
    assert spec.labels["syllable"].names == ("ba", "bu", "da", "du", "gi")
    assert spec.labels["vowel"].names == ("a", "i", "u")
    split = data.split(root, "test")
    said = [split[i, None] for i in range(len(split))]
    assert {spec.labels["syllable"].names[item.labels["syllable"]] for item in said} == set(
        spec.labels["syllable"].names
    )
    assert all(item.id.endswith(f"_{spec.labels['syllable'].names[item.labels['syllable']]}.wav") for item in said)


def test_files_of_another_name_are_left_out_and_counted(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    soundfile.write(root / "corpus" / "reshuffledv2" / "train" / "noise.wav", np.zeros(1000), 16000)
    assert sum(DeBoer().describe(root).sizes.values()) == 8
    assert "1 files in" in caplog.text


def test_what_is_missing_is_named_with_where_it_belongs(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no folder .*nowhere/corpus/reshuffledv2/train"):
        DeBoer().describe(tmp_path / "nowhere")
    with pytest.raises(DataError, match="comes by git") as caught:
        DeBoer().download(root)
    assert f"fdenoodt/Artificial-Speech-Dataset {root / 'corpus'}` gets it" in (caught.value.hint or "")
    with pytest.raises(DataError, match="is called <word>_<take>_<position>_<syllable>"):
        DeBoer(unit="syllable", path="corpus/reshuffledv2").describe(root)
