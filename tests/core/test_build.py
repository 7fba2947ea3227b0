"""From a recipe to what it names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tiny
from infomax_cli.core.build import build_encoder, resolve
from infomax_cli.dialect import parse_yaml
from infomax_cli.errors import DoesNotFit, PluginError, RecipeError
from infomax_cli.overrides import apply_overrides
from infomax_cli.recipe import parse
from infomax_plugins.encoders._spectrogram import Spectrogram
from infomax_plugins.encoders.amdim_resnet import AMDIMResNet

pytestmark = pytest.mark.usefixtures("here")


def names(loss: str) -> list[str]:
    return list(tiny.experiment(f"loss={loss}").blocks[0].losses)


def test_each_loss_has_a_name_of_its_own_in_logs_and_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = {"infonce_2": tiny.Fragile, "values": tiny.Fragile, "a.b": tiny.Fragile, "echo:kl": tiny.Fragile}
    tiny.plant(monkeypatch, **plugins)
    nce = "{name: infonce, steps: 3}"
    assert names(f"[{nce}, {nce}, {nce}]") == ["infonce", "infonce_2", "infonce_3"]
    assert names(f"[infonce_2, {nce}, {nce}]") == ["infonce_2", "infonce", "infonce_3"]
    assert names("[values, 'a.b', 'echo:kl']") == ["values_2", "a-b", "echo-kl"]  # a ModuleDict has values of its own


def test_two_losses_of_one_name_are_weighed_and_logged_apart(tmp_path: Path) -> None:
    losses = "loss=[{name: infonce, steps: 3}, {name: infonce, steps: 1, weight: 2}]"
    one, run = tiny.train(tmp_path, losses, "train.steps=2")
    assert {"train/block0/infonce", "train/block0/infonce_2"} < set(tiny.lines(run)[0])
    assert one.blocks[0].weights == {"infonce": 1.0, "infonce_2": 2.0}
    other, _ = tiny.train(tmp_path, losses, "loss.1.weight=3", "train.steps=2")
    assert other.blocks[0].weights == {"infonce": 1.0, "infonce_2": 3.0}
    assert not tiny.same(tiny.encoder_weights(one), tiny.encoder_weights(other))


def test_a_loss_applies_to_the_blocks_that_it_fits_or_is_meant_for() -> None:
    made = tiny.experiment("loss=[{name: infonce, steps: 30}, {name: supervised, label: speaker, blocks: [4, 5]}]")
    assert [list(block.losses) for block in made.blocks] == [
        ["infonce"], ["infonce"], ["infonce"], ["infonce"], ["supervised"], ["supervised"],
    ]  # fmt: skip
    with pytest.raises(DoesNotFit, match="loss infonce does not fit block 4"):
        tiny.experiment("loss={name: infonce, steps: 30, blocks: [0, 4]}")


def test_fresh_weights_depend_on_the_seed_alone() -> None:
    weights = [tiny.encoder_weights(tiny.trainer(*overrides)) for overrides in (
        (), ("cut=none",), ("loss={name: supervised, label: phone}",), ("train.seed=1",),
    )]  # fmt: skip
    assert tiny.same(weights[0], weights[1])
    assert tiny.same(weights[0], weights[2])
    assert not tiny.same(weights[0], weights[3])
    one, two = (tiny.experiment(cut).blocks[0].losses.state_dict() for cut in ("cut=each", "cut=[0]"))
    assert tiny.same(one, two)


class Empty(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList()

    def prepare(self, x: Any) -> Any: ...
    def readout(self, y: Any, stage: int) -> Any: ...
    def geometry(self, stage: int) -> Any: ...


class Wrong:
    def __init__(self, *, size: int = 1) -> None:
        if size < 0:
            raise ValueError("size is negative")
        if size == 0:
            raise LookupError("no table of size 0")


def test_a_stranger_s_encoder_that_breaks_its_contract_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.plant(monkeypatch, empty=Empty, wrong=Wrong)
    with pytest.raises(PluginError, match="encoder empty has no stages"):
        tiny.experiment("encoder=empty")
    with pytest.raises(PluginError, match=r"encoder wrong must be an nn\.Module with stages"):
        tiny.experiment("encoder=wrong")
    with pytest.raises(RecipeError, match="encoder wrong refuses its options: ValueError: size is negative"):
        tiny.experiment("encoder={name: wrong, size: -1}")
    with pytest.raises(PluginError, match="encoder wrong cannot be built: LookupError"):
        tiny.experiment("encoder={name: wrong, size: 0}")
    with pytest.raises(PluginError, match="dataset wrong lacks download, describe or split"):
        tiny.experiment("data=wrong")


def test_the_encoder_is_built_without_its_data() -> None:
    encoder = build_encoder(tiny.experiment().recipe, torch.device("cpu"))
    assert len(encoder.stages) == 6


def test_options_of_a_kind_of_their_own_survive_a_run_s_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spectrogram's options are an object once they are checked, and plain data again in the recipe of a run."""
    options = {"name": "amdim_resnet", "ndf": 2, "n_rkhs": 8, "depth": 1, "spectrogram": {"hop": 80}}
    tiny.plant(monkeypatch, amdim_resnet=AMDIMResNet)
    raw = apply_overrides(parse_yaml(tiny.RECIPE, "tiny"), [f"encoder={json.dumps(options)}"])
    written = resolve(parse(raw, "tiny")).to_dict()
    assert written["encoder"]["spectrogram"] == {"window": 400, "hop": 80, "rate": 16000, "floor": 1e-8}
    encoder: Any = build_encoder(parse(written, "run"), torch.device("cpu"))
    assert encoder.input.options == Spectrogram(hop=80)
