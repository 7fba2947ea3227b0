"""Anyone's recordings: a folder of audio files, or a CSV, TSV or JSONL manifest that lists them."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from infomax_cli.core.api import CATALOGUE, DataError, UsageError
from infomax_plugins.datasets._alignment import Alignment, fit_alignment, read_alignment
from infomax_plugins.datasets._columns import Recording, Recordings, in_columns
from infomax_plugins.datasets._dealt import Dealt, recall
from infomax_plugins.datasets._intervals import find_beside, read_intervals
from infomax_plugins.datasets._manifest import Manifest, digest_of, read_manifest
from infomax_plugins.datasets._recordings import (
    MISSING_HINT,
    draw,
    hash_of,
    hold_out,
    measure,
    refuse_left_out,
    tell_left_out,
    unusable,
    walk,
)
from infomax_plugins.datasets._speech import SEEN, Corpus, Mode, SpeechDataset

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")

Aligned = Literal["none", "frames", "textgrid", "phn"]
SplitBy = Literal["auto", "column", "fraction", "speaker"]
_log = logging.getLogger("infomax")


class Folder(SpeechDataset):
    """Audio files of any rate and any number of channels, mixed to mono, with labels or without.

    path: a folder, searched with all its subfolders for wav, flac, ogg and mp3; or a manifest: CSV (or TSV) with a
        header, or JSONL, with the column `path` (relative to the manifest's folder) and, if it likes, `id` (else the
        path is the id). Relative paths are looked for under the root first, then in the working folder.
    labels: columns of the manifest that become whole-item labels; their values, sorted, are the classes, and a row
        without a value has -1. None by default: a column of transcripts would make as many classes as rows.
    label_from: `parent` makes a label of the name of the folder that a file lies in (-1 where that is `path` itself);
        `label_name` is the label's name.
    split_by: `column`: the column `split_column` of the manifest names the split (train, test, validation, or any other
        name), and a row without a value there is left out. `fraction`: drawn by the seed, of each class of the first
        label, else of all. `speaker`: drawn among the speakers, none of whom is then in two of train, validation and
        test; where they are a label too, a tenth of the training speakers' recordings is held out as the split `seen`,
        to probe them on. `auto`: by the column where it is there, else by fraction.
    speaker: the column, or the label made of folders' names, that says who speaks.
    aligned: labels aligned to the sound, one every 160 samples. `frames`: one file for all, `aligned_path`, in the
        format of van den Oord et al. (`<id> <class> <class> ...`, every 10 ms, by the id or the file's name without its
        ending). `textgrid`, or TIMIT's `phn`: a file for each recording, of its name, beside it; or at its place in the
        folder `aligned_path`; or where the manifest's column `aligned` says. `aligned_name` is the label's name.
    tiers: the interval tiers of the TextGrids that become labels, under their own names; null: all.
    rate: what is resampled to, in samples a second.
    crop: samples of a training item at that rate; null: whole files, padded to the longest.
    mode: `random` crops, one a file, that start at a multiple of 160 samples; the `first` one of each; or `chunks`, all
        consecutive ones that do not overlap.
    test_fraction: of the files, or of the speakers.
    validation_fraction: likewise, unless the manifest names a split `validation`.
    max_corrupt: the share of files that may be corrupt or missing and are left out (but at least one, unless it is 0).
    """

    name = "folder"

    def __init__(
        self,
        *,
        path: Annotated[str, "FOLDER"],
        labels: list[str] | None = None,
        label_from: Literal["none", "parent"] = "none",
        label_name: str = "class",
        split_by: SplitBy = "auto",
        split_column: str = "split",
        speaker: str = "speaker",
        aligned: Aligned = "none",
        aligned_path: str | None = None,
        aligned_name: str = "phone",
        tiers: list[str] | None = None,
        rate: int = 16000,
        crop: int | None = 20480,
        mode: Mode = "random",
        test_fraction: float = 0.2,
        validation_fraction: float = 0.02,
        split_seed: int = 1984,
        max_corrupt: float = 0.01,
    ) -> None:
        super().__init__(
            crop=crop,
            mode=mode,
            rate=rate,
            test_fraction=test_fraction,
            validation_fraction=validation_fraction,
            split_seed=split_seed,
            max_corrupt=max_corrupt,
        )
        if aligned == "frames" and (aligned_path is None or rate != 16000):
            raise UsageError("folder: aligned frames are one file, aligned_path, of labels every 10 ms at rate 16000")
        if tiers is not None and aligned != "textgrid":
            raise UsageError("folder: tiers are those of TextGrids", "use aligned=textgrid, or leave out tiers")
        self.path = path
        self.columns = list(labels or ())
        self.label_names = [*self.columns, *([label_name] if label_from == "parent" else [])]
        self.label_from_parent = label_from == "parent"
        self.split_by, self.split_column, self.speaker = split_by, split_column, speaker
        self.aligned, self.aligned_path, self.aligned_name, self.tiers = aligned, aligned_path, aligned_name, tiers
        named = [*self.label_names, *(tiers or ([aligned_name] if aligned in ("frames", "phn") else []))]
        if len(set(named)) < len(named):
            raise UsageError(f"folder: a label is named twice: {', '.join(named)}")

    @property
    def probe_splits(self) -> Mapping[str, tuple[str, str]]:
        """Labels that are not probed from `train` to `test`, since no speaker is in both."""
        return {self.speaker: ("train", "seen")} if self._holds_out_seen else {}

    @property
    def _holds_out_seen(self) -> bool:
        return self.split_by == "speaker" and self.speaker in self.label_names

    def download(self, root: Path) -> None:
        raise DataError("folder has nothing to download: it reads your own recordings", "Name them with data.path=.")

    def read_corpus(self, root: Path) -> Corpus:
        where = self._locate(root, self.path, "data.path=")
        dealt = self._recall(where)
        tell_left_out(dealt.left_out, dealt.count, self.max_corrupt, unusable(str(where)))
        splits = dict(dealt.splits)
        if left := splits.pop("", ()):
            _log.warning("%d recordings are left out: %s does not say their split", len(left), where)
        aligned, unaligned = self._read_aligned(splits, root, where)
        left_out = {**dealt.left_out, **unaligned}
        return Corpus(where, splits, dealt.why, labels=self.label_names, aligned=aligned, left_out=left_out)

    def _recall(self, where: Path) -> Dealt:
        """What is there, from the cache where nothing has changed."""
        key = [
            str(where), self.columns, self.label_names, self.split_by, self.split_column, self.speaker,
            self.crops.rate, self.test_fraction, self.validation_fraction, self.split_seed,
        ]  # fmt: skip
        if where.is_dir():
            paths = self._walk(where)
            return recall([*key, hash_of(paths)], lambda: self._deal(self._list_folder(where, paths), where))
        return recall([*key, digest_of(where)], lambda: self._deal(self._read_manifest(read_manifest(where)), where))

    def _deal(self, listing: _Listing, where: Path) -> Dealt:
        """Each recording that has a header to its split; those that have none said go to the split ""."""
        measured = measure(listing.recordings, self.crops.rate, str(where))
        refuse_left_out(measured.left_out, len(listing.recordings), self.max_corrupt, unusable(str(where)))
        if not measured.good:
            raise DataError(f"there is no audio in {where} that can be read", f"Known are {', '.join(SUFFIXES)}.")
        why: dict[str, str] = {}
        splits = self._split(measured.good, listing, where, why)
        return Dealt(in_columns(splits), why, measured.left_out, measured.unread)

    def _locate(self, root: Path, given: str, option: str) -> Path:
        """A folder or file: absolute, or below the root, or below the working folder."""
        path = Path(given).expanduser()
        tried = [path] if path.is_absolute() else [root / path, path.absolute()]
        for candidate in tried:
            if candidate.is_dir() or candidate.is_file():
                return candidate
        raise DataError(
            f"there is no {' and no '.join(map(str, tried))}",
            f"{_how_to_get(root, Path(given))}Name it with {option}. {MISSING_HINT}",
        )

    # --- what is listed

    def _walk(self, folder: Path) -> list[str]:
        if self.columns or self.split_by == "column":
            wanted = f"labels {', '.join(self.columns)}" if self.columns else f"column {self.split_column}"
            raise DataError(
                f"{folder} is a folder, and has no {wanted}",
                "Write a manifest, or make a label of the folders' names: data.label_from=parent.",
            )
        paths = walk(folder, SUFFIXES)
        if not paths:
            raise DataError(f"there is no audio in {folder}", f"Known are {', '.join(SUFFIXES)}.")
        return paths

    def _list_folder(self, folder: Path, paths: Sequence[str]) -> _Listing:
        tagged = ((path, f"{folder}/{path}") for path in paths)
        return _Listing([Recording(path, where, self._parent(where, folder)) for path, where in tagged])

    def _parent(self, path: str, top: Path) -> dict[str, str]:
        """The label that the folder of a file is, if it is to be one."""
        if not self.label_from_parent or (parent := Path(path).parent) == top:
            return {}
        return {self.label_names[-1]: parent.name}

    def _read_manifest(self, manifest: Manifest) -> _Listing:
        by_column = self.split_by == "column" or (self.split_by == "auto" and self.split_column in manifest.columns)
        speaker = [self.speaker] if self.split_by == "speaker" and self.speaker not in self.label_names else []
        manifest.require(["path", *self.columns, *speaker, *([self.split_column] if by_column else [])])
        top, seen = str(manifest.path.parent), dict[str, int]()
        listing = _Listing([], {} if by_column else None)
        ids, splits, alignments = (manifest.column(name) for name in ("id", self.split_column, "aligned"))
        labels = {name: manifest.column(name) for name in [*self.columns, *speaker]}
        for row, (line, path) in enumerate(zip(manifest.lines, manifest.column("path"), strict=True)):
            name = ids[row] or path
            if not path:
                raise DataError(f"{manifest.where(line)}: there is no path")
            if "\0" in f"{name}{path}{alignments[row]}":
                raise DataError(f"{manifest.where(line)}: it holds the character 0, as no file's name may")
            if (first := seen.setdefault(name, line)) != line:
                raise DataError(f"{manifest.where(line)}: {name} is listed a second time, after line {first}")
            where = _below(top, path)
            tags = {label: value for label, values in labels.items() if (value := values[row])}
            if self.label_from_parent:
                tags |= self._parent(where, manifest.path.parent)
            aligned = _below(top, alignments[row]) if alignments[row] else ""
            listing.recordings.append(Recording(name, where, tags, line, aligned=aligned))
            if listing.splits is not None:
                listing.splits[name] = splits[row]
        return listing

    # --- splits

    def _split(
        self, recordings: list[Recording], listing: _Listing, where: Path, why: dict[str, str]
    ) -> dict[str, list[Recording]]:
        if listing.splits is not None:
            splits = _by_column(recordings, listing.splits)
            why |= dict.fromkeys(("train", *splits), f"nothing in {where} that can be read belongs to it")
        elif self.split_by == "speaker":
            return self._by_speaker(recordings, where, why)
        else:
            why["test"] = "test_fraction is 0" if self.test_fraction == 0 else "there are too few files"
            first = self.label_names[0] if self.label_names else None
            train, test = hold_out(recordings, self.test_fraction, self.split_seed, "test", by=first)
            splits = {"train": train, "test": test}
        if "validation" not in splits:
            self.set_aside_validation(splits, why)
        return splits

    def _by_speaker(self, recordings: list[Recording], where: Path, why: dict[str, str]) -> dict[str, list[Recording]]:
        """Speakers of their own for train, validation and test."""
        for recording in recordings:
            if self.speaker not in recording.tags:
                raise DataError(
                    recording.blame(
                        str(where), f"nothing says who speaks in {recording.path}, and split_by is speaker"
                    ),
                    f"data.speaker= names the column or label that does; it is {self.speaker}.",
                )
        speakers = {recording.tags[self.speaker] for recording in recordings}
        test = draw(speakers, self.test_fraction, self.split_seed, "speaker")
        validation = draw(speakers - test, self.validation_fraction, self.split_seed, "validation")
        owners = {**dict.fromkeys(test, "test"), **dict.fromkeys(validation, "validation")}
        splits: dict[str, list[Recording]] = {"train": [], "test": [], "validation": []}
        for recording in recordings:
            splits[owners.get(recording.tags[self.speaker], "train")].append(recording)
        why |= dict.fromkeys(("test", "validation"), "its fraction is 0, or there are too few speakers")
        if self._holds_out_seen:
            why["seen"] = "no training speaker has two recordings"
            splits["train"], splits["seen"] = hold_out(splits["train"], SEEN, self.split_seed, "seen", by=self.speaker)
        return splits

    # --- aligned labels

    def _read_aligned(
        self, splits: Mapping[str, Recordings], root: Path, where: Path
    ) -> tuple[dict[str, Alignment], dict[str, str]]:
        """Aligned labels by name, and what of them cannot be used."""
        if self.aligned == "none":
            return {}, {}
        recordings = [recording for split in splits.values() for recording in split]
        path = None if self.aligned_path is None else self._locate(root, self.aligned_path, "data.aligned_path=")
        if self.aligned == "frames":
            assert path is not None
            return {self.aligned_name: _read_frames(path, recordings)}, {}
        folder, top = None if path is None else str(path), where if where.is_dir() else where.parent
        files = {
            recording.id: found
            for recording in recordings
            if (found := recording.aligned or find_beside(recording, self.aligned, folder, str(top)))
        }
        if not files:
            kind = "TextGrid" if self.aligned == "textgrid" else ".phn"
            raise DataError(
                f"there is no {kind} of any recording in {path or top}",
                "It is called as the sound is, and lies beside it; or data.aligned_path= names another folder.",
            )
        names = {"phn": self.aligned_name} if self.aligned == "phn" else None
        if self.tiers is not None:
            names = {tier: tier for tier in self.tiers}
        return read_intervals(
            recordings, files, self.aligned, names, rate=self.crops.rate, max_corrupt=self.max_corrupt, where=str(where)
        )


def _how_to_get(root: Path, path: Path) -> str:
    """Nothing where it lies in no folder that a command gets."""
    for entry in CATALOGUE.values():
        for name, subset in entry.subsets.items():
            if path.is_relative_to(subset.folder):
                return f"{entry.how_to_get(root, name)}. "
    return ""


def _below(top: str, path: str) -> str:
    """A path of a manifest in the folder `top`; called once a row, so no `Path`."""
    if path.startswith("~"):
        path = os.path.expanduser(path)  # noqa: PTH111
    return path if os.path.isabs(path) else f"{top}/{path}"  # noqa: PTH117


@dataclass(frozen=True)
class _Listing:
    """Recordings as a manifest or a folder lists them; by id, the splits that it names (None: it names none)."""

    recordings: list[Recording]
    splits: dict[str, str] | None = None


def _by_column(recordings: list[Recording], named: Mapping[str, str]) -> dict[str, list[Recording]]:
    splits: dict[str, list[Recording]] = {"train": []}
    for recording in recordings:
        splits.setdefault(named[recording.id], []).append(recording)
    return splits


def _read_frames(path: Path, recordings: list[Recording]) -> Alignment:
    """Labels every 10 ms; a recording is found by its id, else by its file's name without the ending."""
    read = read_alignment(path)
    values = {
        r.id: found for r in recordings if (found := read.values.get(r.id, read.values.get(_stem(r)))) is not None
    }
    fitted = fit_alignment(replace(read, values=values), recordings, slack=2, where=path)
    if not fitted.values:
        raise DataError(f"{path} labels none of the recordings", "Its lines start with the recordings' ids.")
    return fitted


def _stem(recording: Recording) -> str:
    return os.path.splitext(os.path.basename(recording.path))[0]  # noqa: PTH119, PTH122 - once a recording
