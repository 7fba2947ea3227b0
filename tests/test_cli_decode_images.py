"""`infomax decode` on an encoder of images: trained, decoded and looked at from the command line."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from matplotlib.image import imread
from torch import Tensor

import tiny
from conftest import Infomax
from infomax_cli.core.api import DataSpec, Item, LabelSpec
from infomax_cli.core.build import build, resolve
from infomax_cli.core.trainer import Trainer
from infomax_cli.recipe import parse
from infomax_cli.runs import Run, new_run
from infomax_plugins.encoders.dim_convnet import DIMConvNet

SIZE, STAGES = 16, 5
QUICK = ("--steps", "20", "--batch", "4", "--width", "8", "--judged-on", "6", "--items", "2")
RECIPE = """\
data:    {name: pictures}
encoder: {name: dim_convnet, size: 16, widths: [8, 8, 8, 16], units: 6}
cut:     none
loss:
  - {name: local_dim, local_map: 4x4, units: 8}
  - {name: prior_matching, scale: 0.1, layers: [8]}
train:   {steps: 3, batch: 8, workers: 0}
"""


class Pictures:
    """Smooth patterns ``(3, 16, 16)``, of a class each."""

    def download(self, root: Path) -> None: ...

    def describe(self, root: Path) -> DataSpec:
        sizes = {"train": 32, "test": 12}
        return DataSpec(3, (SIZE, SIZE), ("height", "width"), None, {"class": LabelSpec(4)}, sizes)

    def split(self, root: Path, name: str) -> PicturesSplit:
        return PicturesSplit(name)


class PicturesSplit:
    def __init__(self, name: str) -> None:
        self.name = name

    def __len__(self) -> int:
        return {"train": 32, "test": 12}[self.name]

    def item_labels(self, name: str) -> list[int]:
        return [index % 4 for index in range(len(self))]

    def __getitem__(self, key: tuple[int, int | None]) -> Item:
        index, _ = key
        draw = torch.Generator().manual_seed(index + 100 * (self.name == "test"))
        return Item(_picture(index % 4, draw), {"class": index % 4}, f"picture-{index}")


def _picture(place: int, draw: torch.Generator) -> Tensor:
    """A light in one of four corners, and noise as large as 4 pixels."""
    coarse = 0.3 * torch.rand(1, 3, 4, 4, generator=draw)
    coarse[:, :, 2 * (place // 2), 2 * (place % 2)] += 0.7
    return F.interpolate(coarse, size=(SIZE, SIZE), mode="bilinear")[0]


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.plant(monkeypatch, pictures=Pictures, dim_convnet=DIMConvNet)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        tiny.plant(patch, pictures=Pictures, dim_convnet=DIMConvNet)
        recipe = resolve(parse({"name": "pictures", **yaml.safe_load(RECIPE)}, "pictures.yaml"))
        run = new_run(tmp_path_factory.mktemp("pictures"), "pictures")
        run.recipe_file.write_text(recipe.to_yaml())
        Trainer(build(recipe, tiny.CPU), tiny.CPU).train(run, tiny.Silent())
        return run


def test_every_depth_of_an_image_encoder_is_reconstructed_and_judged(infomax: Infomax, trained: Run) -> None:
    done = infomax("decode", str(trained.path), *QUICK)
    assert done.code == 0, done.err
    rows = [line.split() for line in done.out.splitlines() if line.split() and line.split()[0].isdigit()]
    assert [row[:3] for row in rows[:STAGES]] == [
        [str(depth), str(hop), "px"] for depth, hop in enumerate((2, 4, 8, 8, 8))
    ]
    assert "PSNR (dB)" in done.out
    assert "MS-SSIM" in done.out
    folder = trained.path / "decode" / "reconstructions"
    pieces = sorted(path.name for path in folder.glob("*-[01].png"))
    depths = [f"depth{depth}" for depth in range(STAGES)]
    assert pieces == sorted(f"{of}-{number}.png" for number in (0, 1) for of in ("original", *depths))
    assert all(imread(folder / piece).shape[:2] == (SIZE, SIZE) for piece in pieces)
    assert imread(folder / "reconstructions.png").shape[0] > 100  # the grid of all
    kept = json.loads((folder / "errors.json").read_text())["depths"]
    assert [row["depth"] for row in kept] == list(range(STAGES))
    assert kept[0]["loss"] < kept[0]["untrained_loss"]
    for row in kept:
        # the mean of logarithms, of pixels brought into [0, 1]: no less than the logarithm of the mean
        assert -10 * math.log10(row["loss"]) - 1e-6 <= row["psnr"] < 60
        assert 0 < row["ms_ssim"] <= 1


def test_a_written_original_is_the_image(infomax: Infomax, trained: Run) -> None:
    assert infomax("decode", str(trained.path), *QUICK, "--depth", "0").code == 0
    folder = trained.path / "decode" / "reconstructions-depth0"
    pixels = torch.from_numpy(imread(folder / "original-1.png")[..., :3].copy()).permute(2, 0, 1)
    torch.testing.assert_close(pixels, PicturesSplit("test")[1, None].input, atol=1 / 255, rtol=0)


def test_more_training_tells_more_of_the_picture(infomax: Infomax, trained: Run) -> None:
    found = []
    for steps in ("5", "150"):
        words = ("--depth", "0", *QUICK[2:], "--steps", steps, "--lr", "0.005", "--json")
        done = infomax("decode", str(trained.path), *words)
        assert done.code == 0, done.err
        found.append(json.loads(done.out)["depths"][0])
    assert found[1]["psnr"] > found[0]["psnr"] + 3
    assert found[1]["ms_ssim"] > found[0]["ms_ssim"]


def test_a_sum_of_losses_of_images_trains(infomax: Infomax, trained: Run) -> None:
    words = ("--depth", "0", *QUICK, "--lr", "0.005", "--loss", "l1+ms-ssim", "--json")
    done = infomax("decode", str(trained.path), *words)
    assert done.code == 0, done.err
    (judged,) = json.loads(done.out)["depths"]
    assert judged["loss"] < judged["untrained_loss"]


@pytest.mark.parametrize(
    ("words", "folder", "pictures"),
    [
        (("--sample", "3"), "samples-prior-depth4", 3),
        (("--interpolate", "0", "2", "--points", "4"), "interpolation-*", 4 + 2),  # with the originals
        (("--traverse", "1", "--points", "3"), "traversal-1-*", 3),
    ],
)
def test_codes_are_drawn_walked_between_and_swept(
    infomax: Infomax, trained: Run, words: tuple[str, ...], folder: str, pictures: int
) -> None:
    done = infomax("decode", str(trained.path), "--depth", "4", *QUICK, *words)
    assert done.code == 0, done.err
    (found,) = (trained.path / "decode").glob(folder)
    assert len(list(found.glob("*-[0-9].png"))) == pictures
    (page,) = found.glob("*.html")
    text = page.read_text()
    assert text.count("<img class=piece") == pictures
    assert "<audio" not in text
    assert all(url.startswith("data:") for url in re.findall(r"src=['\"]([^'\"]{5})", text))


def test_a_loss_of_sound_is_refused_with_the_nearest_of_images(infomax: Infomax, trained: Run) -> None:
    done = infomax("decode", str(trained.path), *QUICK, "--loss", "mel")
    assert done.code == 2
    assert "error: --loss mel: there is no loss 'mel'" in done.err


def test_an_encoder_of_spectrograms_is_not_decoded_to_samples(infomax: Infomax, here: Path) -> None:
    recipe = here / "heard.yaml"
    recipe.write_text(
        "data: {name: syllables, crop: 3200, speakers: 3, words: 9}\n"
        "encoder: {name: dim_convnet, size: 16, widths: [4, 4, 4, 8], units: 4, spectrogram: {}}\n"
        "loss: {name: local_dim, units: 8}\n"
        "train: {steps: 1, batch: 4, workers: 0}\n"
    )
    assert infomax("train", str(recipe)).code == 0
    done = infomax("decode", *QUICK)
    assert done.code == 2
    assert "error: decode: the maps of depth 0 have 2 axes, and the data has 1" in done.err
    assert "not of spectrograms" in done.err
