"""Nearest neighbours: found as a loop would find them, and drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import pictured
import planted
import tiny
from infomax_cli.core.api import UsageError
from infomax_cli.core.neighbours import Neighbour, Query, Sheet, draw_sheet, find_neighbours
from infomax_cli.core.probe import probe
from infomax_cli.core.probe_options import ProbeOptions
from infomax_cli.core.rows import Rows

CPU = torch.device("cpu")


def rows(count: int, seed: int) -> Rows:
    random = torch.Generator().manual_seed(seed)
    x = 5 + torch.randn(count, 6, generator=random) * torch.logspace(-2, 2, 6)
    return Rows(x, torch.arange(count) % 3, torch.arange(count) + 100)


def test_neighbours_are_those_of_highest_cosine_of_standardised_features() -> None:
    train, test = rows(30, 0), rows(10, 1)
    sheet = find_neighbours("2", train, test, 4, 0, CPU)
    known, asked = train.features.double(), test.features.double()
    mean, deviation = known.mean(0), known.std(0, correction=0)
    known, asked = (known - mean) / deviation, (asked - mean) / deviation
    assert len({query.item for query in sheet.queries}) == 4
    for query in sheet.queries:
        own = asked[query.item - 100]
        cosines = [(float(own @ known[i] / own.norm() / known[i].norm()), i) for i in range(30)]
        expected = sorted(cosines, reverse=True)[:8]
        assert [found.item - 100 for found in query.neighbours] == [index for _, index in expected]
        assert [found.cosine for found in query.neighbours] == pytest.approx(
            [cosine for cosine, _ in expected], abs=1e-3
        )
        assert query.label == (query.item - 100) % 3
        assert query.right == sum((found.item - 100) % 3 == query.label for found in query.neighbours)


def test_more_neighbours_than_there_are_rows_are_all_of_them_and_more_queries_an_error() -> None:
    sheet = find_neighbours("0", rows(3, 0), rows(5, 1), 5, 0, CPU)
    assert [len(query.neighbours) for query in sheet.queries] == [3] * 5
    with pytest.raises(UsageError, match="--neighbours 6: only 5 test items have the label"):
        find_neighbours("0", rows(3, 0), rows(5, 1), 6, 0, CPU)


def test_what_is_asked_wrongly_is_told() -> None:
    with pytest.raises(UsageError, match="--neighbours is for labels of whole items, and sounding is aligned"):
        probe(planted.subject(), ["sounding"], ProbeOptions(neighbours=3))
    with pytest.raises(UsageError, match="--neighbours compares whole items"):
        probe(planted.subject(), ["pitch"], ProbeOptions(neighbours=3, pool="none"))


def test_the_share_of_right_ones_is_told() -> None:
    near = (Neighbour(0, 1, 0.9), Neighbour(1, 2, 0.5))
    assert Sheet("0", (Query(0, 1, near), Query(1, 2, near), Query(2, 3, near))).right == pytest.approx(1 / 3)


@pytest.mark.parametrize("kind", ["images", "sound"])
def test_a_sheet_is_drawn(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.image import imread

    tiny.plant(monkeypatch, pictured=pictured.Pictured, small_convnet=pictured.SmallConvnet)
    given, label = (pictured.subject(), "class") if kind == "images" else (planted.subject(), "pitch")
    result = probe(given, [label], ProbeOptions(neighbours=3, depth=2, classifier="knn"))[label]
    (sheet,) = result.sheets
    assert sheet.layer == "2"
    assert len(sheet.queries) == 3
    draw_sheet(tmp_path / "sheet.png", "a run, depth 2", sheet, given, result)
    height, width = imread(tmp_path / "sheet.png").shape[:2]
    assert width > 2 * height
