"""The artificial-language corpus of de Boer, on which V-GIM was published: words of three syllables by one voice."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Literal

from infomax_cli.core.api import DataError
from infomax_plugins.datasets._columns import Recording, in_columns
from infomax_plugins.datasets._recordings import MISSING_HINT, measure, tell_unusable, walk
from infomax_plugins.datasets._speech import Corpus, Mode, SpeechDataset

Unit = Literal["word", "syllable"]

# below the root, as the published code lays them out
_FOLDERS: dict[Unit, str] = {"word": "corpus/reshuffledv2", "syllable": "corpus/split up data padded"}
_NAMES: dict[Unit, str] = {"word": "<word>_<take>.wav", "syllable": "<word>_<take>_<position>_<syllable>.wav"}
_WORD = re.compile(r"(?P<word>[a-z]+)_(?P<take>[^_]+)")
_SYLLABLE = re.compile(r"(?P<word>[a-z]+)_(?P<take>[^_]+)_(?P<position>[123])_(?P<syllable>[a-z]{2})")
_log = logging.getLogger("infomax")


class DeBoer(SpeechDataset):
    """Whole words, `bababi_1.wav`, or their syllables, `bagigi_1_1_ba.wav`, in folders `train` and `test`.

    The corpus is not public: this reads it where you hold it. Words have the label `word`; syllables have `syllable`
    (nine: b, d or g, then a, i or u) and `vowel`, the two last characters and the last one of the file's name. Any rate
    is resampled to 16 kHz (published: words of 44.1 kHz, syllables of 22.05 kHz).

    unit: `word`, for training, or `syllable`, for probing.
    path: the folder that holds `train` and `test`; else, below the root, where the published code has it,
        `corpus/reshuffledv2` for words and `corpus/split up data padded` for syllables.
    crop: samples of a training item; null: whole files, padded to the longest. Published: the first 10240 (0.64 s).
    mode: `first` crops start with the file, as published; `random` and `chunks` as for other recordings.
    validation_fraction: of the training files, drawn by the seed.
    max_corrupt: the share of files that may be corrupt or of another name and are left out.
    """

    name = "deboer"

    def __init__(
        self,
        *,
        unit: Unit = "word",
        path: str | None = None,
        crop: int | None = 10240,
        mode: Mode = "first",
        validation_fraction: float = 0.02,
        split_seed: int = 1984,
        max_corrupt: float = 0.01,
    ) -> None:
        super().__init__(
            crop=crop,
            mode=mode,
            rate=16000,
            test_fraction=0.0,
            validation_fraction=validation_fraction,
            split_seed=split_seed,
            max_corrupt=max_corrupt,
        )
        self.unit: Unit = unit
        self.path = path

    def download(self, root: Path) -> None:
        raise DataError(
            "the corpus of de Boer is not public, so there is nothing to download", self._missing_hint(root)
        )

    def _missing_hint(self, root: Path) -> str:
        where = f"put it at {root / _FOLDERS[self.unit]}, or name the folder of train and test with data.path="
        return f"No command gets it, for it is not public: ask its authors, and {where}. {MISSING_HINT}"

    def read_corpus(self, root: Path) -> Corpus:
        folder = root / Path(self.path or _FOLDERS[self.unit]).expanduser()
        splits = {name: self._recordings(root, folder / name, name) for name in ("train", "test")}
        measured = measure([r for split in splits.values() for r in split], 16000, str(folder))
        tell_unusable(measured, self.max_corrupt, str(folder))
        good = {recording.id: recording for recording in measured.good}
        kept = {name: [good[r.id] for r in split if r.id in good] for name, split in splits.items()}
        why: dict[str, str] = {}
        self.set_aside_validation(kept, why)
        labels = ["word"] if self.unit == "word" else ["syllable", "vowel"]
        return Corpus(folder, in_columns(kept), why, labels=labels, left_out=measured.left_out)

    def _recordings(self, root: Path, folder: Path, split: str) -> list[Recording]:
        if not folder.is_dir():
            raise DataError(f"deboer: there is no folder {folder}", self._missing_hint(root))
        paths = walk(folder, (".wav",))
        tagged = {path: tags for path in paths if (tags := _tags(Path(path).stem, self.unit)) is not None}
        if not tagged:
            raise DataError(
                f"deboer: no file in {folder} is called {_NAMES[self.unit]}",
                "`unit: word` reads whole words, `unit: syllable` split ones.",
            )
        if left := len(paths) - len(tagged):
            _log.warning("%d files in %s are not called %s and are left out", left, folder, _NAMES[self.unit])
        return [Recording(f"{split}/{path}", f"{folder}/{path}", tags) for path, tags in tagged.items()]


def _tags(stem: str, unit: Unit) -> dict[str, str] | None:
    """The labels in a file's name; None where it is the name of something else."""
    if unit == "word":
        found = _WORD.fullmatch(stem)
        return None if found is None else {"word": found["word"]}
    found = _SYLLABLE.fullmatch(stem)
    return None if found is None else {"syllable": found["syllable"], "vowel": found["syllable"][-1]}
