"""LibriSpeech (Panayotov et al. 2015), and any corpus laid out like it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from infomax_cli.core.api import CATALOGUE, DataError, obtain
from infomax_plugins.datasets._alignment import Alignment, fit_alignment, read_alignment
from infomax_plugins.datasets._columns import Recording, in_columns
from infomax_plugins.datasets._recordings import (
    MISSING_HINT,
    draw,
    hold_out,
    listed,
    measure,
    natural_order,
    tell_unusable,
    walk,
)
from infomax_plugins.datasets._speech import SEEN, Corpus, Mode, SpeechDataset

SplitBy = Literal["auto", "files", "utterance", "speaker"]

_PUBLISHED = CATALOGUE["librispeech"]
_LABELS = "LibriSpeech100_labels_split"
_LAYOUT = "Utterances lie in <root>/LibriSpeech/<subset>/<speaker>/<chapter>/<speaker>-<chapter>-<number>.flac."
_RATE = 16000
_SLACK = 2  # labels that an utterance may have more or fewer than its length says
_log = logging.getLogger("infomax")


@dataclass(frozen=True)
class _SplitFiles:
    """Ids of utterances by split, as two files list them."""

    paths: Mapping[str, Path]
    ids: Mapping[str, tuple[str, ...]]


class LibriSpeech(SpeechDataset):
    """Utterances in LibriSpeech's layout, with the label `speaker`, and `phone` where there are aligned labels.

    subset: one or several folders under ``<root>/LibriSpeech``.
    crop: samples of a training item, 1.28 s by default; null: whole utterances, padded to the longest.
    mode: `random` crops, one an utterance, that start at a multiple of 160 samples (Löwe et al. 2019); or `chunks`, all
        consecutive ones that do not overlap.
    split_by: `files`: by ``train_split.txt`` and ``test_split.txt`` in ``<root>/LibriSpeech100_labels_split`` (van den
        Oord et al. 2018); utterances that neither lists are left out. `utterance`: a seeded share of each speaker's
        utterances is for testing, so that every speaker of two or more is in both. `speaker`: a seeded share of the
        speakers is; a tenth of the other speakers' utterances is then held out as the split `seen`, to probe speakers
        on. `auto`: by files where they are and list utterances of the subset, else by utterance.
    test_fraction: of each speaker's utterances, or of the speakers.
    validation_fraction: of the training utterances, drawn by the seed and set aside.
    speakers: keep only these; which of their utterances are for testing does not change by it, unless split by speaker.
    phones: the file of aligned phones, relative to the root or to the working folder; by default
        ``LibriSpeech100_labels_split/converted_aligned_phones.txt`` under the root, where it is.
    max_corrupt: the share of files that may be corrupt and are left out (but at least one, unless it is 0).
    """

    name = "librispeech"

    def __init__(
        self,
        *,
        subset: str | list[str] = "train-clean-100",
        crop: int | None = 20480,
        mode: Mode = "random",
        split_by: SplitBy = "auto",
        test_fraction: float = 0.2,
        validation_fraction: float = 0.02,
        speakers: list[int | str] | None = None,
        phones: str | None = None,
        split_seed: int = 1984,
        max_corrupt: float = 0.01,
    ) -> None:
        super().__init__(
            crop=crop,
            mode=mode,
            rate=_RATE,
            test_fraction=test_fraction,
            validation_fraction=validation_fraction,
            split_seed=split_seed,
            max_corrupt=max_corrupt,
        )
        self.subsets = [subset] if isinstance(subset, str) else list(subset)
        self.split_by = split_by
        self.speakers = None if speakers is None else [str(speaker) for speaker in speakers]
        self.phones = phones

    @property
    def probe_splits(self) -> Mapping[str, tuple[str, str]]:
        """Labels that are not probed from `train` to `test`, since no speaker is in both."""
        return {"speaker": ("train", "seen")} if self.split_by == "speaker" else {}

    def download(self, root: Path) -> None:
        """The published ones of its subsets. Raises `DataError` for another."""
        if unknown := [subset for subset in self.subsets if subset not in _PUBLISHED.subsets]:
            raise DataError(
                f"there is no subset {unknown[0]} of LibriSpeech to download",
                f"There are {', '.join(_PUBLISHED.subsets)}.",
            )
        obtain(self.name, _PUBLISHED.choose(self.subsets), root)

    def read_corpus(self, root: Path) -> Corpus:
        where = f"{root / 'LibriSpeech'} ({', '.join(self.subsets)})"
        utterances = [utterance for subset in self.subsets for utterance in _find(root, subset)]
        present = {utterance.id for utterance in utterances}
        if len(present) < len(utterances):
            raise DataError(f"an utterance is in {where} more than once", "Each id may be there only once.")
        measured = measure(self._keep(utterances, where), _RATE, where)
        tell_unusable(measured, self.max_corrupt, where)
        utterances = measured.good
        if not utterances:
            raise DataError(f"there is no utterance in {where} that can be read", MISSING_HINT)
        why: dict[str, str] = {}
        splits = self._split(utterances, present, root, why)
        self.set_aside_validation(splits, why)
        aligned = self._read_phones(root, splits)
        return Corpus(root, in_columns(splits), why, labels=["speaker"], aligned=aligned, left_out=measured.left_out)

    def _keep(self, utterances: list[Recording], where: str) -> list[Recording]:
        """The utterances of the chosen speakers."""
        if self.speakers is None:
            return utterances
        there = {utterance.tags["speaker"] for utterance in utterances}
        if unknown := [speaker for speaker in self.speakers if speaker not in there]:
            some = ", ".join(sorted(there, key=natural_order)[:10])
            raise DataError(
                f"there is no speaker {', '.join(unknown)} in {where}", f"There are {len(there)}, such as {some}."
            )
        return [utterance for utterance in utterances if utterance.tags["speaker"] in self.speakers]

    # --- splits

    def _split(
        self, utterances: list[Recording], present: set[str], root: Path, why: dict[str, str]
    ) -> dict[str, list[Recording]]:
        if self.split_by in ("auto", "files"):
            files = _read_split_files(root / _LABELS, required=self.split_by == "files")
            if files is not None and (self.split_by == "files" or _lists_any(files, present)):
                return self._by_files(files, utterances, present, why)
        if self.split_by == "speaker":
            return self._by_speaker(utterances, why)
        why["test"] = "test_fraction is 0" if self.test_fraction == 0 else "no speaker has two utterances"
        train, test = hold_out(utterances, self.test_fraction, self.split_seed, "test", by="speaker")
        return {"train": train, "test": test}

    def _by_files(
        self, files: _SplitFiles, utterances: list[Recording], present: set[str], why: dict[str, str]
    ) -> dict[str, list[Recording]]:
        by_id = {utterance.id: utterance for utterance in utterances}
        splits: dict[str, list[Recording]] = {}
        for name, ids in files.ids.items():
            splits[name] = [by_id[utterance] for utterance in ids if utterance in by_id]
            why[name] = f"none of the {len(ids)} utterances that {files.paths[name]} lists is there"
            if absent := [utterance for utterance in ids if utterance not in present]:
                _log.warning(
                    "%d of the %d utterances that %s lists are not there: %s",
                    len(absent), len(ids), files.paths[name], listed(absent),
                )  # fmt: skip
        if left := len(by_id) - sum(map(len, splits.values())):
            _log.warning("%d utterances are left out: neither of the split files lists them", left)
        return splits

    def _by_speaker(self, utterances: list[Recording], why: dict[str, str]) -> dict[str, list[Recording]]:
        speakers = {utterance.tags["speaker"] for utterance in utterances}
        chosen = draw(speakers, self.test_fraction, self.split_seed, "speaker")
        why["test"] = "test_fraction is 0" if self.test_fraction == 0 else "there is only one speaker"
        why["seen"] = "no training speaker has two utterances"
        rest = [utterance for utterance in utterances if utterance.tags["speaker"] not in chosen]
        train, seen = hold_out(rest, SEEN, self.split_seed, "seen", by="speaker")
        return {"train": train, "test": [u for u in utterances if u.tags["speaker"] in chosen], "seen": seen}

    # --- phones

    def _read_phones(self, root: Path, splits: Mapping[str, list[Recording]]) -> dict[str, Alignment]:
        path = root / _LABELS / "converted_aligned_phones.txt"
        if self.phones is not None:
            path = root / Path(self.phones).expanduser()
            if not path.exists():
                path = Path(self.phones).expanduser().absolute()
        elif not path.exists():
            return {}
        utterances = [utterance for split in splits.values() for utterance in split]
        alignment = fit_alignment(read_alignment(path), utterances, slack=_SLACK, where=path)
        if alignment.values:
            return {"phone": alignment}
        if self.phones is not None:
            raise DataError(f"{path} labels none of the utterances", "Its lines start with the utterances' ids.")
        return {}


def _find(root: Path, subset: str) -> list[Recording]:
    """The utterances of a subset, by the listing of its folders."""
    folder = root / "LibriSpeech" / subset
    if not folder.is_dir():
        raise DataError(f"there is no LibriSpeech at {folder}", _missing_hint(root, subset))
    found = []
    stray = []
    for path in walk(folder, {".flac"}):
        parts = path.split("/")
        if len(parts) == 3:
            found.append(Recording(parts[2].rsplit(".", 1)[0], f"{folder}/{path}", {"speaker": parts[0]}))
        else:
            stray.append(path)
    if not found:
        what = f"{len(stray)} FLAC files, none laid out like LibriSpeech" if stray else "no FLAC files"
        raise DataError(f"there are {what} in {folder}", f"{_LAYOUT} For other layouts there is `--data folder`.")
    if stray:
        _log.warning(
            "%d files are left out, since they do not lie in <speaker>/<chapter>: %s", len(stray), listed(stray)
        )
    return found


def _missing_hint(root: Path, subset: str) -> str:
    for better in (root.parent, root / "LibriSpeech"):
        if (better / "LibriSpeech" / subset).is_dir():
            return f"It is there with --root {better}."
    there = root / "LibriSpeech"
    if there.is_dir() and (subsets := _subsets_in(there)):
        choice = f"{there} holds {', '.join(subsets)}: choose with data.subset=."
        return f"{choice} {_how_to_get(root, subset)}{MISSING_HINT}"
    return f"{_how_to_get(root, subset)}{MISSING_HINT}"


def _subsets_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _how_to_get(root: Path, subset: str) -> str:
    """Nothing for a subset of the user's own."""
    if subset not in _PUBLISHED.subsets:
        return ""
    return f"{_PUBLISHED.how_to_get(root, subset)} from {_PUBLISHED.page}. "


def _read_split_files(folder: Path, *, required: bool) -> _SplitFiles | None:
    paths = {"train": folder / "train_split.txt", "test": folder / "test_split.txt"}
    missing = [path for path in paths.values() if not path.is_file()]
    if len(missing) == 2 and not required:
        return None
    if missing:
        raise DataError(
            f"there is no {missing[0]}, which split_by files needs",
            f"{CATALOGUE['librispeech-labels'].how_to_get(folder.parent)}; or split otherwise: "
            "data.split_by=utterance or data.split_by=speaker.",
        )
    ids = {name: _read_ids(path) for name, path in paths.items()}
    if both := sorted(set(ids["train"]) & set(ids["test"])):
        raise DataError(f"{paths['train']} and {paths['test']} both list {both[0]}", "Nothing may be in both.")
    return _SplitFiles(paths, ids)


def _read_ids(path: Path) -> tuple[str, ...]:
    """One id a line; each counts once."""
    try:
        return tuple(dict.fromkeys(path.read_text(encoding="utf-8").split()))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _lists_any(files: _SplitFiles, present: set[str]) -> bool:
    return any(utterance in present for ids in files.ids.values() for utterance in ids)
