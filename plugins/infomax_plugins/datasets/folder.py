"""Anyone's recordings: a folder of audio files, or a CSV or JSONL manifest that lists them."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from infomax_cli.core.api import DataError, UsageError
from infomax_plugins.datasets._recordings import MISSING_HINT, Recording, hold_out, measure, walk
from infomax_plugins.datasets._speech import Corpus, Mode, SpeechDataset

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
_TABLES = {".csv": ",", ".tsv": "\t"}
_MANIFESTS = (*_TABLES, ".jsonl")
_log = logging.getLogger("infomax")


class Folder(SpeechDataset):
    """Audio files of any rate and any number of channels, mixed to mono, with labels or without.

    path: a folder, searched with all its subfolders for wav, flac, ogg and mp3; or a manifest: CSV (or TSV) with a
        header, or JSONL, with the column `path` (relative to the manifest's folder). Its column `split`, where it has
        one, says which split a recording is in (train, test, validation, or any other name); a row without a value
        there is left out. Relative paths are looked for under the root first, then in the working folder.
    labels: columns of the manifest that become whole-item labels; their values, sorted, are the classes, and a row
        without a value has -1. None by default: a column of transcripts would make as many classes as rows.
    label_from: `parent` makes a label of the name of the folder that a file lies in (-1 where that is `path` itself);
        `label_name` is the label's name.
    rate: what is resampled to, in samples a second.
    crop: samples of a training item at that rate; null: whole files, padded to the longest.
    mode: `random` crops, one a file, that start at a multiple of 160 samples; the `first` one of each; or `chunks`, all
        consecutive ones that do not overlap.
    test_fraction: drawn by the seed, of each class of the first label, else of all, unless a manifest says the split.
    validation_fraction: of the training files, drawn by the seed, unless the manifest names a split `validation`.
    max_corrupt: the share of files that may be corrupt or missing and are left out (but at least one, unless it is 0).
    """

    name = "folder"

    def __init__(
        self,
        *,
        path: str,
        labels: list[str] | None = None,
        label_from: Literal["none", "parent"] = "none",
        label_name: str = "class",
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
        self.path = path
        self.columns = list(labels or ())
        self.label_names = [*self.columns, *([label_name] if label_from == "parent" else [])]
        self.label_from_parent = label_from == "parent"
        if len(set(self.label_names)) < len(self.label_names):
            raise UsageError(f"folder: a label is named twice: {', '.join(self.label_names)}")

    def download(self, root: Path) -> None:
        raise DataError("folder has nothing to download: it reads your own recordings", "Name them with data.path=.")

    def read_corpus(self, root: Path) -> Corpus:
        where = self._locate(root)
        splits = self._read_folder(where) if where.is_dir() else self._read_manifest(where)
        listed = [recording for split in splits.values() for recording in split]
        measured = measure(listed, self.crops.rate, self.max_corrupt, str(where))
        if not measured.good:
            raise DataError(f"there is no audio in {where} that can be read", f"Known are {', '.join(SUFFIXES)}.")
        good = {recording.id: recording for recording in measured.good}
        splits = {name: [good[r.id] for r in split if r.id in good] for name, split in splits.items()}
        why = dict.fromkeys(("train", *splits), f"nothing in {where} that can be read belongs to it")
        if "" in splits:  # nothing says the split
            why["test"] = "test_fraction is 0" if self.test_fraction == 0 else "there are too few files"
            first = self.label_names[0] if self.label_names else None
            train, test = hold_out(splits[""], self.test_fraction, self.split_seed, "test", by=first)
            splits = {"train": train, "test": test}
        splits = {"train": [], **splits}
        if "validation" not in splits:
            self.set_aside_validation(splits, why)
        return Corpus(splits, why, labels=self.label_names, left_out=measured.left_out)

    def _locate(self, root: Path) -> Path:
        """The folder or manifest: absolute, or below the root, or below the working folder."""
        path = Path(self.path).expanduser()
        tried = [path] if path.is_absolute() else [root / path, path.absolute()]
        for candidate in tried:
            if candidate.is_dir() or candidate.is_file():
                return candidate
        raise DataError(f"there is no {' and no '.join(map(str, tried))}", f"Name it with data.path=. {MISSING_HINT}")

    def _read_folder(self, folder: Path) -> dict[str, list[Recording]]:
        if self.columns:
            raise DataError(
                f"{folder} is a folder, and has no labels {', '.join(self.columns)}",
                "Write a manifest, or make a label of the folders' names: data.label_from=parent.",
            )
        paths = walk(folder, SUFFIXES)
        if not paths:
            raise DataError(f"there is no audio in {folder}", f"Known are {', '.join(SUFFIXES)}.")
        return {"": [Recording(path, f"{folder}/{path}", self._parent(folder / path, folder)) for path in paths]}

    def _parent(self, path: Path, top: Path) -> dict[str, str]:
        """The label that the folder of a file is, if it is to be one."""
        if not self.label_from_parent or path.parent == top:
            return {}
        return {self.label_names[-1]: path.parent.name}

    def _read_manifest(self, manifest: Path) -> dict[str, list[Recording]]:
        """Recordings by split, all under "" where the manifest has no column `split`."""
        rows = list(_read_rows(manifest))
        columns = list(dict.fromkeys(column for _, row in rows for column in row))
        if missing := [column for column in ("path", *self.columns) if column not in columns]:
            raise DataError(
                f"{manifest} has no column {', '.join(missing)}", f"It has {', '.join(columns) or 'no rows at all'}."
            )
        splits: dict[str, list[Recording]] = {}
        seen: set[str] = set()
        for number, row in rows:
            path = _text(row.get("path"))
            if not path:
                raise DataError(f"{manifest}, line {number}: there is no path")
            if path in seen:
                raise DataError(f"{manifest}, line {number}: {path} is listed a second time")
            seen.add(path)
            where = manifest.parent / Path(path).expanduser()
            tags = {column: _text(row.get(column)) for column in self.columns if _text(row.get(column))}
            recording = Recording(path, str(where), {**tags, **self._parent(where, manifest.parent)})
            splits.setdefault(_text(row.get("split")), []).append(recording)
        if "split" in columns and (left := splits.pop("", [])):
            _log.warning("%d recordings are left out: %s does not say their split", len(left), manifest)
        return splits


def _read_rows(manifest: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(line, row) of a manifest. Raises `DataError` naming the line that cannot be read."""
    suffix = manifest.suffix.lower()
    if suffix not in _MANIFESTS:
        raise DataError(f"{manifest} is neither a folder nor a manifest", f"Manifests are {', '.join(_MANIFESTS)}.")
    try:
        with manifest.open(encoding="utf-8-sig", newline="") as file:
            if suffix == ".jsonl":
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield number, _parse_object(line, f"{manifest}, line {number}")
            else:
                reader = csv.DictReader(file, delimiter=_TABLES[suffix], strict=True)
                for row in reader:
                    if None in row:
                        raise DataError(f"{manifest}, line {reader.line_num}: it has more fields than the header")
                    yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {manifest}: {error}", "A manifest is UTF-8 text.") from error


def _parse_object(line: str, where: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: it is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f'{where}: expected an object such as {{"path": "a.wav"}}')
    return row


def _text(value: object) -> str:
    """A manifest's value as text; "" where there is none."""
    return "" if value is None else str(value).strip()
