"""Manifests of recordings: CSV and TSV with a header, and JSONL, read row by row; a bad row is named with its line."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infomax_cli.core.api import DataError

_TABLES = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (*_TABLES, ".jsonl")


@dataclass(frozen=True)
class Manifest:
    """Names of columns, the line of each row, and each row's values as text ("" where it has none)."""

    path: Path
    columns: Sequence[str]
    lines: Sequence[int]
    rows: Sequence[Sequence[str]]

    def require(self, columns: Sequence[str]) -> None:
        """Raises `DataError` where one of `columns` is missing."""
        if missing := [column for column in columns if column not in self.columns]:
            raise DataError(
                f"{self.path} has no column {', '.join(missing)}",
                f"It has {', '.join(self.columns) or 'no rows at all'}.",
            )

    def column(self, name: str) -> list[str]:
        """A column's values; all "" where there is no such column."""
        if name not in self.columns:
            return [""] * len(self.rows)
        place = self.columns.index(name)
        return [row[place].strip() if place < len(row) else "" for row in self.rows]

    def where(self, line: int) -> str:
        """A row, for a message."""
        return f"{self.path}, line {line}"


def digest_of(path: Path) -> str:
    """What changes with a manifest; "" where it cannot be read, as `read_manifest` then says."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()
    except OSError:
        return ""


def read_manifest(path: Path) -> Manifest:
    """Raises `DataError` naming the line that cannot be read."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path} is neither a folder nor a manifest", f"Manifests are {', '.join(SUFFIXES)}.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _read_objects(file, path) if suffix == ".jsonl" else _read_table(file, path, _TABLES[suffix])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}", "A manifest is UTF-8 text.") from error


def _read_table(file: Iterable[str], path: Path, delimiter: str) -> Manifest:
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    columns = next(reader, [])
    lines, rows = [], []
    for row in reader:
        if len(row) > len(columns):
            raise DataError(f"{path}, line {reader.line_num}: it has more fields than the header")
        if row:
            lines.append(reader.line_num)
            rows.append(row)
    return Manifest(path, columns, lines, rows)


def _read_objects(file: Iterable[str], path: Path) -> Manifest:
    found = [
        (number, _parse_object(line, f"{path}, line {number}")) for number, line in enumerate(file, 1) if line.strip()
    ]
    columns = list(dict.fromkeys(column for _, row in found for column in row))
    rows = [["" if row.get(column) is None else str(row[column]) for column in columns] for _, row in found]
    return Manifest(path, columns, [number for number, _ in found], rows)


def _parse_object(line: str, where: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: it is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f'{where}: expected an object such as {{"path": "a.wav"}}')
    return row
