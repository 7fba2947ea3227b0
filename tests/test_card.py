"""The model card of a run."""

from __future__ import annotations

from pathlib import Path

import tiny
from conftest import Infomax
from infomax_cli.card import card_of
from infomax_cli.ledger import read_entry
from infomax_cli.runs import Run
from made_runs import made_run, probed


def test_every_run_has_a_card_and_probes_add_to_it(infomax: Infomax, here: Path) -> None:
    recipe = tiny.write_recipe(here, "train:   {steps: 2, batch: 4, workers: 0}")
    done = infomax("train", str(recipe))
    assert done.code == 0, done.err
    (path,) = (here / "runs").iterdir()
    card = (path / "README.md").read_text()
    assert card.startswith(f"# {path.name}\n")
    assert "2 steps of 4 items" in card
    assert "| train | 27 | 0.0" in card  # items, hours
    assert "16,000 samples a second" in card
    assert "Nothing has been probed yet" in card
    assert f'load("{path.name}")' in card
    assert "name: speech_conv" in card
    assert infomax("probe", "vowel", "--baseline", "mfcc").code == 0
    card = (path / "README.md").read_text()
    assert "**vowel**, linear, on test" in card
    assert card.count("\n| mfcc |") == 1
    assert "Nothing has been probed" not in card


def test_the_card_tells_how_to_make_the_run_again(infomax: Infomax, here: Path) -> None:
    recipe = tiny.write_recipe(here, "train:   {steps: 2, batch: 4, workers: 0}")
    assert infomax("train", str(recipe)).code == 0
    (first,) = (here / "runs").iterdir()
    assert "infomax train runs/" not in (first / "README.md").read_text()  # the folder may have gone elsewhere
    assert f"infomax train {first.name}/recipe.yaml" in (first / "README.md").read_text()
    assert infomax("train", f"runs/{first.name}/recipe.yaml").code == 0
    (second,) = set((here / "runs").iterdir()) - {first}
    assert (first / "metrics.jsonl").read_text() == (second / "metrics.jsonl").read_text()
    assert Run(second).recipe().name == Run(first).recipe().name


def test_the_card_of_images_has_no_hours_and_tells_what_the_encoder_takes(tmp_path: Path) -> None:
    run = made_run(tmp_path, "pictured")
    probed(run, "class", {1: 0.5}, labels_per_class=1, draws=3)
    card = card_of(
        read_entry(run), {"channels": 3, "grid": [32, 32], "rate": None, "splits": {"train": {"items": 1797}}}
    )
    assert "| split | items |\n|---|---:|\n| train | 1,797 |\n" in card
    assert "features = encoder(images)  # (B, 3, 32, 32), in [0, 1]\n" in card
    assert "**class**, linear, 1 label a class, 3 draws an item, on test" in card
