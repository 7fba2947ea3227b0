"""A stranger's encoder, loss and dataset train through the command line, with ours and with each other."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from conftest import Cli
from infomax_cli.main import app

ENCODERS = {
    "ours": "{name: speech_conv, channels: 8, context_channels: 8}",
    "foreign": "{name: echo_conv, widths: [8, 8, 8]}",
}
LOSSES = {"ours": "{name: infonce, steps: 2, negatives: 3}", "foreign": "{name: echo_decorrelate}"}
DATASETS = {
    "ours": "{name: syllables, speakers: 2, words: 9, crop: 2560}",
    "foreign": "{name: echo_tones, tones: 3, items: 8, crop: 2560}",
}


COMBINATIONS = [(*parts, "each") for parts in itertools.product(ENCODERS, LOSSES, DATASETS)]


@pytest.mark.parametrize(("encoder", "loss", "dataset", "cut"), [*COMBINATIONS, ("foreign", "ours", "foreign", "none")])
def test_foreign_plugins_train_in_every_combination_with_ours(
    foreign_site: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    encoder: str,
    loss: str,
    dataset: str,
    cut: str,
) -> None:
    monkeypatch.syspath_prepend(foreign_site)
    monkeypatch.setenv("INFOMAX_CACHE", str(foreign_site / "cache"))
    recipe = tmp_path / "mixed.yaml"
    recipe.write_text(
        f"data: {DATASETS[dataset]}\nencoder: {ENCODERS[encoder]}\ncut: {cut}\nloss: {LOSSES[loss]}\n"
        "train: {steps: 2, batch: 4, workers: 0}\n"
    )
    done = CliRunner().invoke(app, ["train", str(recipe), "--json", "--device", "cpu", "--runs", str(tmp_path)])
    assert done.exit_code == 0, done.exception
    outcome = json.loads(done.stdout)
    assert outcome["step"] == 2
    name = "infonce" if loss == "ours" else "echo_decorrelate"
    stages = {"ours": 6, "foreign": 3}[encoder] if cut == "each" else 1
    trained = {key.split("/")[1] for key in outcome["metrics"] if key.startswith("train/") and f"/{name}" in key}
    assert trained == {f"block{index}" for index in range(stages)}


def test_a_recipe_of_a_plugin_trains_and_is_probed_for_its_own_labels(
    run_cli: Cli, foreign_site: Path, tmp_path: Path
) -> None:
    trained = run_cli("train", "gim-echo", "train.steps=4", "--device", "cpu", sites=[foreign_site])
    assert trained.returncode == 0, trained.stderr
    probed = run_cli("probe", "tone,sounding", "--json", "--device", "cpu", sites=[foreign_site])
    assert probed.returncode == 0, probed.stderr
    assert "tone" in probed.stdout
    assert "sounding" in probed.stdout


def test_without_the_plugin_its_run_names_what_is_missing(run_cli: Cli, foreign_site: Path, tmp_path: Path) -> None:
    trained = run_cli("train", "gim-echo", "train.steps=2", "--device", "cpu", sites=[foreign_site])
    assert trained.returncode == 0, trained.stderr
    probed = run_cli("probe", "tone", "--device", "cpu")
    assert probed.returncode == 2
    assert "echo_tones" in probed.stderr
    assert "Traceback" not in probed.stderr
