"""`infomax explain` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

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
    done = infomax("explain", str(trained.path), "--label", "vowel", "--depth", "4", "--json")
    assert json.loads(done.out)["label"] == "vowel"


def test_how_few_dimensions_carry_an_item(infomax: Infomax, trained: Run) -> None:
    words = ("--label", "vowel", "--depth", "4", "--contribution", "--steps", "2", "--width", "4")
    done = infomax("explain", str(trained.path), *words)
    assert done.code == 0, done.err
    assert "depth 4: share of the error left by dimensions replaced: 2: " in done.out
    assert "sound" not in done.out + done.err
    assert (trained.path / "explain" / "vowel-contribution-steps2-width4-depth4.png").exists()


def test_how_far_dimensions_depend_on_each_other(infomax: Infomax, trained: Run) -> None:
    words = ("--label", "vowel", "--depth", "4", "--dependency", "--critic-steps", "5", "--batch", "16")
    done = infomax("explain", str(trained.path), *words)
    assert done.code == 0, done.err
    assert "depth 4: its 6 dimensions depend on each other by an estimated " in done.out
    stem = "vowel-dependency-steps5-batch16-depth4"
    kept = json.loads((trained.path / "explain" / f"{stem}.json").read_text())["dependency"]["4"]
    assert kept["units"] == 6
    assert f"the ceiling is {kept['ceiling']:.1f}" in done.out
    assert not kept["saturated"]
    assert "depend on each other" in (trained.path / "explain" / f"{stem}.html").read_text()


def test_no_question_destroys_the_answer_to_another(infomax: Infomax, trained: Run) -> None:
    folder, words = trained.path / "explain", ("--label", "vowel", "--depth", "4")
    assert infomax("explain", str(trained.path), *words).code == 0
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert {folder / f"vowel-depth4.{kind}" for kind in ("json", "html", "png")} <= set(before)
    for more in (("--means",), ("--dependency", "--critic-steps", "1", "--batch", "8")):
        assert infomax("explain", str(trained.path), *words, *more).code == 0
    assert {path: path.read_bytes() for path in before} == before
    one, other = (json.loads((folder / f"vowel-{name}.json").read_text()) for name in ("depth4", "means-depth4"))
    assert one["depths"] != other["depths"]


def test_the_only_label_need_not_be_named(infomax: Infomax, here: Path) -> None:
    for number in range(12):
        path = here / "sounds" / ("high", "low")[number % 2] / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * np.random.default_rng(number).standard_normal(4000), 16000)
    data = f"data: {{name: folder, path: {here / 'sounds'}, label_from: parent, crop: 1600, validation_fraction: 0.0}}"
    assert infomax("train", str(tiny.write_recipe(here, data)), "train.steps=1").code == 0
    done = infomax("explain", "--depth", "4")
    assert done.code == 0, done.err
    assert "what dimensions tell about class" in done.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--depth", "0"], "which label?"),
        (["--label", "vowl"], "the data (syllables) has no label 'vowl'"),
        (["--label", "vowel", "--depth", "top"], "--depth top: not a depth"),
        (["--label", "vowel", "--depth", "7"], "--depth 7: the encoder has depths 0 to 5"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(infomax: Infomax, trained: Run, words: list[str], message: str) -> None:
    done = infomax("explain", str(trained.path), *words)
    assert (done.code, done.out) == (2, "")
    assert f"error: {message}" in done.err
