"""`infomax tsne` as a user meets it: numbers, a picture, a page in a real browser, TensorBoard's projector."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tiny
from conftest import Infomax
from infomax_cli.core.checkpoint import load_checkpoint
from infomax_cli.core.comparison_plot import PALETTE
from infomax_cli.core.scatter import MARKERS, OTHERS, style_of
from infomax_cli.errors import RecipeError
from infomax_cli.runs import Run

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@pytest.fixture
def run(here: Path) -> Run:
    return tiny.train(here / "runs", "train.steps=2")[1]


def test_every_depth_is_shown_and_measured(infomax: Infomax, run: Run) -> None:
    arguments = ("tsne", str(run.path), "--color", "vowel", "--method", "pca", "--baseline", "random", "--json")
    done = infomax(*arguments)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["unit"] == "segment"
    assert [depth["depth"] for depth in found["depths"]] == [0, 1, 2, 3, 4, 5]
    assert all(-1 <= depth["silhouette"] <= 1 and 0 <= depth["purity"] <= 1 for depth in found["depths"])
    assert found["depths"][5]["untrained_silhouette"] != found["depths"][5]["silhouette"]
    folder = run.path / "tsne"
    assert json.loads((folder / "pca-vowel.json").read_text()) == {**found, "run": run.name}
    assert (folder / "pca-vowel.png").read_bytes()[:4] == b"\x89PNG"
    first = (folder / "pca-vowel.html").read_text()
    assert infomax(*arguments).out == done.out
    assert (folder / "pca-vowel.html").read_text() == first
    header, *rows = (run.path / "projector" / "vowel-depth5" / "metadata.tsv").read_text().splitlines()
    assert header.split("\t")[0] == "id"
    assert "vowel" in header
    assert len(rows) == found["points"]
    assert infomax("tsne", "--color", "speaker", "--depth", "5", "--method", "pca").code == 0
    tabs = [line for line in (run.path / "projector_config.pbtxt").read_text().splitlines() if "tensor_name" in line]
    assert len(tabs) == 6 + 1  # those of vowels, each once, and that of speakers


def test_one_depth_in_frames_and_speakers_as_items(infomax: Infomax, run: Run) -> None:
    done = infomax("tsne", "--color", "speaker", "--depth", "last", "--limit", "9", "--perplexity", "3")
    assert done.code == 0, done.err
    assert "speaker: 9 items of seen" in done.out
    assert "note: perplexity 2.67 in place of 3: there are 9 points" in done.err
    found = json.loads((run.path / "tsne" / "tsne-speaker-depth5.json").read_text())
    assert (found["perplexity"], found["perplexity_asked"]) == (8 / 3, 3.0)
    assert (run.path / "tsne" / "tsne-speaker-depth5.png").exists()
    done = infomax("tsne", "--color", "vowel", "--depth", "4", "--frames", "--limit", "40", "--method", "pca")
    assert done.code == 0, done.err
    assert "40 frames of test" in done.out
    assert "perplexity" not in done.err
    assert (run.path / "tsne" / "pca-vowel-frames-depth4.html").exists()


def test_wrong_words_are_one_line(infomax: Infomax, run: Run) -> None:
    for arguments, words in {
        ("--color", "vowl"): "vowel",
        (): "which label",
        ("--color", "vowel", "--method", "som"): "tsne",
        ("--color", "vowel", "--depth", "6"): "depths 0 to 5",
        ("--color", "vowel", "--limit", "1"): "--limit",
        ("--color", "vowel", "--fraction", "0"): "--fraction",
        ("--color", "vowel", "--split", "tests"): "test",
        ("--color", "vowel", "--baseline", "mfcc"): "random",
    }.items():
        done = infomax("tsne", *arguments)
        assert done.code == 2, done.err
        assert words in done.err
        assert len(done.err.strip().splitlines()) <= 3


def test_training_takes_pictures_when_it_is_asked_to_and_is_not_changed_by_them(here: Path) -> None:
    _, plain = tiny.train(here / "plain", "train.steps=4")
    _, pictured = tiny.train(
        here / "pictured", "train.steps=4", "train.tsne={every: 2, color: vowel, depth: 5, method: pca, limit: 60}"
    )
    assert [path.name for path in sorted((pictured.path / "tsne").iterdir())] == [
        "step-00000002.png",
        "step-00000004.png",
    ]
    before, after = (load_checkpoint(run.last)["encoder"] for run in (plain, pictured))
    assert all((before[name] == after[name]).all() for name in before)
    assert plain.metrics.read_text() == pictured.metrics.read_text()
    for wrong in ("color: vowl", "color: vowel, depth: 6"):
        with pytest.raises(RecipeError, match=r"^train\.tsne\.(color vowl|depth 6): "):
            tiny.trainer(f"train.tsne={{every: 2, {wrong}}}")


# --- the page --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def browser(page: Path, profile: Path) -> Iterator[Any]:
    """Chromium without a screen, on a page of a file."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for word in (
        "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", "window-size=1000,700", "autoplay-policy=no-user-gesture-required",
        f"user-data-dir={profile}",
    ):  # fmt: skip
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(DRIVER)))
    try:
        driver.get(page.as_uri())
        yield driver
    finally:
        driver.quit()


@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromium-driver")
def test_the_page_filters_zooms_and_plays_in_a_browser(infomax: Infomax, run: Run, tmp_path: Path) -> None:
    done = infomax("tsne", "--color", "vowel", "--method", "pca", "--limit", "60")
    assert done.code == 0, done.err
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    count = json.loads((run.path / "tsne" / "pca-vowel.json").read_text())["points"]
    with browser(run.path / "tsne" / "pca-vowel.html", tmp_path / "profile") as driver:

        def ask(code: str) -> Any:
            return driver.execute_script(f"return {code}")

        wait = WebDriverWait(driver, 20)
        assert ask("infomax.visible().length") == count
        styles = ask(f"[...Array({len(PALETTE) * len(MARKERS)}).keys()].map(infomax.styleAt)")
        assert [style["color"] for style in styles] == [style_of(place)[0] for place in range(len(styles))]
        assert len({(style["color"], style["shape"]) for style in styles}) == len(styles)
        assert ask(f"infomax.styleAt({len(styles)}).color") == OTHERS[0]
        classes = driver.find_elements(By.CSS_SELECTOR, "#legend button")
        assert len(classes) == 3
        classes[0].click()
        shown = ask("infomax.visible().length")
        assert 0 < shown < count
        assert f"{shown} of {count} points" in driver.find_element(By.ID, "count").text
        driver.find_element(By.ID, "everything").click()
        assert ask("infomax.visible().length") == count

        driver.find_elements(By.CSS_SELECTOR, "#depths button")[0].click()
        assert ask("infomax.state.depth") == 0
        scale = ask("infomax.state.view.scale")
        plot = driver.find_element(By.ID, "plot")
        x, y = ask("infomax.place(0)")
        at = int(x - plot.size["width"] / 2), int(y - plot.size["height"] / 2)
        ActionChains(driver).move_to_element_with_offset(plot, *at).perform()
        assert driver.find_element(By.ID, "tip").is_displayed()
        assert "vowel: " in driver.find_element(By.ID, "tip").text
        ActionChains(driver).click().perform()
        wait.until(lambda _: ask("infomax.player.currentTime") > 0)  # it is really being played
        assert ask("infomax.player.error") is None
        driver.execute_script("document.getElementById('plot').dispatchEvent(new WheelEvent('wheel', {deltaY: -500}))")
        assert ask("infomax.state.view.scale") > 2 * scale
        assert [entry for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
