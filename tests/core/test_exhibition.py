"""What is written of sounds and images side by side."""

from __future__ import annotations

import re
from pathlib import Path

import soundfile
import torch

from infomax_cli.core.api import DataSpec
from infomax_cli.core.exhibition import Piece, Row, count_clipped, describe_clipped, pieces_of, write_exhibition
from infomax_cli.core.media import medium_of

SOUND = medium_of(DataSpec(1, (3200,), ("time",), 16000, {}, {}))
IMAGES = medium_of(DataSpec(1, (8, 8), ("height", "width"), None, {}, {}))


def test_sounds_that_do_not_fit_their_files_are_counted_and_told(tmp_path: Path) -> None:
    wave = torch.sin(torch.arange(3200) / 10)[None]
    original = Piece("original", "original-0", wave)
    rows = [
        Row("depth 0", [original, Piece("made", "depth0-0", 1.5 * wave)]),
        Row("depth 1", [original, Piece("made", "depth1-0", 0.5 * wave)]),
    ]
    assert [piece.name for piece in pieces_of(rows)] == ["original-0", "depth0-0", "depth1-0"]
    assert count_clipped(rows, SOUND) == 1
    note = describe_clipped(1, rows)
    assert note == "1 of 3 sounds reach beyond [-1, 1], and are clipped in their files"
    _, page = write_exhibition(tmp_path, "all", "loud", rows, SOUND, note)
    assert f"<p>{note}</p>" in page.read_text()
    loud, _ = soundfile.read(tmp_path / "depth0-0.wav")
    assert abs(loud).max() <= 1
    assert len(re.findall("<audio", page.read_text())) == 4


def test_where_nothing_is_clipped_nothing_is_said() -> None:
    rows = [Row("", [Piece("bright", "0", torch.full((1, 8, 8), 1.2))])]
    assert count_clipped(rows, IMAGES) == 0  # pixels are shown, not measured
    assert describe_clipped(0, rows) == ""
