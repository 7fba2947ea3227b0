"""`infomax explain` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tiny
from conftest import Infomax
from infomax_cli.runs import Run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INFOMAX_CACHE", str(shared_cache))
        return tiny.train(tmp_path_factory.mktemp("explained"), "train.steps=2", "encoder.variational=[4]")[1]


def test_a_table_a_picture_a_depth_and_a_page(infomax: Infomax, trained: Run) -> None:
    done = infomax("explain", str(trained.path), "--label", "vowel")
    assert done.code == 0, done.err
    depths = [line.split()[0] for line in done.out.splitlines() if line.split() and line.split()[0].isdigit()]
    assert depths == ["0", "1", "2", "3", "4", "5"]
    folder = trained.path / "explain"
    assert len(list(folder.glob("vowel-depth*.png"))) == 6
    page = (folder / "vowel.html").read_text()
    assert page.count("data:image/png;base64,") == 6
    kept = json.loads((folder / "vowel.json").read_text())
    assert [len(row["information"]) for row in kept["depths"]] == [6, 6, 6, 6, 6, 5]


def test_json_alone_is_on_stdout(infomax: Infomax, trained: Run) -> None:
    done = infomax("explain", str(trained.path), "--depth", "4", "--json")
    assert json.loads(done.out)["label"] == "vowel"


def test_how_few_dimensions_carry_a_sound(infomax: Infomax, trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from infomax_cli.core import decode

    quick = decode.DecodeOptions(steps=2, batch=2, width=4)
    monkeypatch.setattr(decode, "DecodeOptions", lambda **given: quick)
    done = infomax("explain", str(trained.path), "--depth", "4", "--contribution")
    assert done.code == 0, done.err
    assert "depth 4: error left with so many dimensions replaced: 2: " in done.out
    assert (trained.path / "explain" / "contribution.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--label", "vowl"], "the data (syllables) has no label 'vowl'"),
        (["--depth", "top"], "--depth top: not a depth"),
        (["--depth", "7"], "--depth 7: the encoder has depths 0 to 5"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(infomax: Infomax, trained: Run, words: list[str], message: str) -> None:
    done = infomax("explain", str(trained.path), *words)
    assert (done.code, done.out) == (2, "")
    assert f"error: {message}" in done.err
