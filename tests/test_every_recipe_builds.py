"""Every recipe that comes with infomax builds, and what is published of its size is true of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from image_files import write_cifar10, write_cifar100, write_folders, write_mnist, write_stl10
from infomax_cli.core.build import build, resolve
from infomax_cli.core.trained_blocks import describe_blocks_trained
from infomax_cli.core.trainer import Trainer
from infomax_cli.overrides import apply_overrides
from infomax_cli.recipe import loss_entries, parse, read_recipe
from infomax_cli.recipe_files import builtin_folder, list_recipes
from infomax_plugins.encoders.dim_convnet import CONFIGS

PUBLISHED = {"gim": 23_143_424, "cpc": 7_414_784}
# how an encoder is made narrow, whatever the recipe says of it
NARROW: Mapping[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "speech_conv": lambda given: ["encoder.channels=8", "encoder.context_channels=8"],
    "amdim_resnet": lambda given: ["encoder.ndf=2", "encoder.n_rkhs=16", "encoder.depth=1"],
    "dim_convnet": lambda given: [f"encoder.widths={[8] * len(CONFIGS[given['config']].stages)}"],
    "resnet_patches": lambda given: [
        f"encoder.{key}={[value] * len(given.get('widths', '123'))}"
        for key, value in {"widths": 8, "blocks": 1}.items()
    ],
}
RECIPES = [recipe.name for recipe in list_recipes() if recipe.source == "infomax"]


@pytest.fixture(scope="module")
def librispeech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four speakers with three utterances each, with Oord's files of splits and aligned phones."""
    root = tmp_path_factory.mktemp("librispeech")
    random = np.random.default_rng(0)
    phones, ids = [], []
    for speaker in (19, 26, 103, 1034):
        for number in range(3):
            name = f"{speaker}-7-{number:04d}"
            path = root / "LibriSpeech" / "train-clean-100" / str(speaker) / "7" / f"{name}.flac"
            path.parent.mkdir(parents=True, exist_ok=True)
            samples = 24000 + 160 * number
            soundfile.write(path, random.normal(0, 0.05, samples).astype(np.float32), 16000)
            ids.append(name)
            phones.append(" ".join([name, *map(str, random.integers(0, 41, 1 + (samples - 400) // 160))]))
    labels = root / "LibriSpeech100_labels_split"
    labels.mkdir()
    (labels / "converted_aligned_phones.txt").write_text("\n".join(phones) + "\n")
    (labels / "train_split.txt").write_text("\n".join(name for name in ids if not name.endswith("2")) + "\n")
    (labels / "test_split.txt").write_text("\n".join(name for name in ids if name.endswith("2")) + "\n")
    return root


@pytest.fixture(scope="module")
def deboer(librispeech: Path) -> Path:
    """Three words in either split, beside LibriSpeech."""
    random = np.random.default_rng(1)
    for split in ("train", "test"):
        for word in ("bababi", "dugiba", "gagigu"):
            path = librispeech / "corpus" / "reshuffledv2" / split / f"{word}_1.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, random.normal(0, 0.05, 10300).astype(np.float32), 16000)
    return librispeech


@pytest.fixture(scope="module")
def images(deboer: Path) -> Path:
    """Every set of images, tiny, beside the recordings."""
    write_cifar10(deboer / "cifar-10-batches-py")
    write_cifar100(deboer / "cifar-100-python")
    write_stl10(deboer / "stl10_binary")
    write_mnist(deboer / "FashionMNIST" / "raw", zipped=True)
    write_folders(deboer / "imagenet", "ILSVRC2012_img_train", "ILSVRC2012_img_val")
    write_folders(deboer / "places205", "places205_256_train", "places205_256_val")
    write_folders(deboer / "tiny-imagenet-200", "train", "val")
    return deboer


@pytest.fixture
def small(here: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFOMAX_DATA", str(images))


def test_the_recipes_are_those_in_configs() -> None:
    folder = builtin_folder()
    assert folder is not None
    assert sorted(RECIPES) == sorted(path.stem for path in folder.glob("*.yaml"))
    assert set(PUBLISHED) < set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds_and_makes_a_step(name: str, small: Path, tmp_path: Path) -> None:
    """As it is, but for the width of the encoder and the number of items in a batch."""
    (listed,) = (recipe for recipe in list_recipes() if recipe.name == name)
    raw = read_recipe(listed.path)
    changes = [*NARROW[raw["encoder"]["name"]](raw["encoder"]), "train.batch=2", "train.steps=1", "train.workers=0"]
    if "epochs" in raw["train"]:
        changes += ["train.epochs=null"]
    changes += [
        f"loss.{place}.units=8"
        for place, loss in enumerate(loss_entries(raw["loss"]))
        if loss["name"] in ("local_dim", "global_dim")
    ]
    if raw["data"]["name"] == "syllables":
        changes += ["data.speakers=3", "data.words=9"]
    trainer = Trainer(
        build(resolve(parse(apply_overrides(raw, changes), str(listed.path))), torch.device("cpu")), torch.device("cpu")
    )
    trainer.train_on(next(trainer._train_batches()), 0)
    trained = [parameter for stepper in trainer.steppers.values() for parameter in stepper.parameters]
    assert {id(p) for p in trained} >= {id(p) for block in trainer.blocks for p in block.stages.parameters()}
    assert all(parameter.isfinite().all() for parameter in trained)
    assert listed.header, "a recipe says what it is, what it costs and what was published"
    assert "Cost:" in listed.header or "hours" in listed.header


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_experiments_have_the_published_number_of_parameters(name: str, small: Path) -> None:
    (listed,) = (recipe for recipe in list_recipes() if recipe.name == name)
    experiment = build(resolve(parse(read_recipe(listed.path), str(listed.path))), torch.device("cpu"))
    rows = describe_blocks_trained(experiment)
    assert sum(row["parameters"] for row in rows) == PUBLISHED[name]
    assert [row["hop"] for row in rows][-1] == "160"
