"""Augmentations of images: against torchvision, and what each promises."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from infomax_cli.core import image_augment as augment
from infomax_cli.core.api import DataSpec

GRID = (12, 16)
DATA = DataSpec(3, GRID, ("height", "width"), None, {}, {"train": 1})
SEEDS = range(200)


def image(channels: int = 3, height: int = 20, width: int = 24, seed: int = 0) -> Tensor:
    return torch.rand(channels, height, width, generator=torch.Generator().manual_seed(seed))


def draws(made: augment.Augmentation, x: Tensor, seeds: range = SEEDS) -> list[Tensor]:
    return [made(x, np.random.default_rng(seed)) for seed in seeds]


# --- colours ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("ours", "theirs", "factors"),
    [
        (augment.adjust_brightness, "adjust_brightness", (0, 0.3, 1, 1.7)),
        (augment.adjust_contrast, "adjust_contrast", (0, 0.3, 1, 1.7)),
        (augment.adjust_saturation, "adjust_saturation", (0, 0.3, 1, 1.7)),
        (augment.adjust_hue, "adjust_hue", (-0.5, -0.21, 0, 0.1, 0.5)),
    ],
)
def test_colours_are_torchvisions(
    channels: int, ours: Callable[..., np.ndarray], theirs: str, factors: tuple[float, ...]
) -> None:
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    x = image(channels)
    x[:, 0], x[:, 1], x[1:, 2] = 0, 1, 0.5  # black, white, and colours of which two channels are equal
    before = x.clone()
    for factor in factors:
        made = torch.from_numpy(ours(x.numpy(), factor))
        torch.testing.assert_close(made, getattr(functional, theirs)(x, factor), rtol=0, atol=2e-6)
        assert made.dtype == torch.float32
    assert torch.equal(x, before)


def test_grayscale_is_torchvisions_as_often_as_asked() -> None:
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    x = image()
    torch.testing.assert_close(
        augment.Grayscale(DATA, p=1)(x, np.random.default_rng(0)), functional.rgb_to_grayscale(x, 3), rtol=0, atol=1e-6
    )
    changed = sum(not torch.equal(y, x) for y in draws(augment.Grayscale(DATA), x))
    assert 30 < changed < 72  # of 200, at a quarter


def test_colour_jitter_draws_factors_within_their_strength() -> None:
    """On grey that no step clips, brightness is the ratio, and contrast alone leaves the mean as it was."""
    flat = torch.full((3, 4, 4), 0.5)
    ratios = [float(y.mean()) / 0.5 for y in draws(augment.ColorJitter(DATA, p=1), flat)]
    assert 0.6 <= min(ratios) < 0.65
    assert 1.35 < max(ratios) <= 1.4
    assert np.mean(ratios) == pytest.approx(1, abs=0.06)
    x = 0.4 + 0.2 * image()
    only = augment.ColorJitter(DATA, brightness=0, saturation=0, hue=0, p=1)
    spreads = [float(y.std() / x.std()) for y in draws(only, x)]
    assert 0.6 <= min(spreads) < 0.65
    assert 1.35 < max(spreads) <= 1.4


def test_colour_jitter_turns_hue_within_its_range() -> None:
    red = torch.tensor([0.8, 0.2, 0.2]).view(3, 1, 1).expand(3, 4, 4).contiguous()
    made = augment.ColorJitter(DATA, brightness=0, contrast=0, saturation=0, hue=0.1, p=1)
    turns = []
    for y in draws(made, red):  # within a sixth of red the middle channel tells the hue
        r, g, b = (float(value) for value in y[:, 0, 0])
        assert (r, min(g, b)) == (pytest.approx(0.8, abs=1e-6), pytest.approx(0.2, abs=1e-6))
        turns.append((g - b) / 0.6 / 6)
    assert -0.1 <= min(turns) < -0.09
    assert 0.09 < max(turns) <= 0.1


def test_colour_jitter_draws_the_order_too() -> None:
    """Brightness before contrast is another image than after it, where one of them clips."""
    x = image()
    made = augment.ColorJitter(DATA, brightness=0.9, contrast=0.9, saturation=0, hue=0, p=1)
    adjust = (augment.adjust_brightness, augment.adjust_contrast)
    met = Counter()
    for seed in range(60):
        random = np.random.default_rng(seed)
        one, other = random.permutation(2)
        wanted = adjust[one](x.numpy(), random.uniform(0.1, 1.9))
        wanted = adjust[other](wanted, random.uniform(0.1, 1.9))
        assert np.array_equal(made(x, np.random.default_rng(seed)).numpy(), wanted)
        met[int(one)] += 1
    assert min(met[0], met[1]) > 15


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_without_colour_only_brightness_and_contrast_act(channels: int) -> None:
    x = image(channels)
    colour = augment.ColorJitter(DATA, brightness=0, contrast=0, hue=0.5, p=1)
    assert all(torch.equal(y, x) for y in draws(colour, x, range(5)))
    assert all(torch.equal(y, x) for y in draws(augment.Grayscale(DATA, p=1), x, range(5)))
    light = augment.ColorJitter(DATA, saturation=0, hue=0, p=1)
    assert not any(torch.equal(y, x) for y in draws(light, x, range(5)))


@pytest.mark.parametrize(("p", "least", "most"), [(0.0, 0, 0), (0.8, 140, 178), (1.0, 200, 200)])
def test_an_augmentation_is_made_as_often_as_its_p_says(p: float, least: int, most: int) -> None:
    x = image()
    assert least <= sum(not torch.equal(y, x) for y in draws(augment.ColorJitter(DATA, p=p), x)) <= most


# --- geometry --------------------------------------------------------------------------------------------------------


def test_flip_mirrors_half_of_the_time() -> None:
    x = image()
    made = draws(augment.Flip(DATA), x)
    assert all(torch.equal(y, x) or torch.equal(y, x.flip(-1)) for y in made)
    assert 75 < sum(torch.equal(y, x) for y in made) < 125


def test_translate_is_a_crop_of_the_image_padded_by_reflection_at_every_whole_offset() -> None:
    x = image(3, 6, 7)
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2), mode="reflect")
    crops = {(top, left): padded[:, top : top + 6, left : left + 7] for top in range(5) for left in range(5)}
    met = Counter()
    for y in draws(augment.Translate(DATA, pixels=2, p=1), x, range(1000)):
        (place,) = [place for place, crop in crops.items() if torch.equal(crop, y)]
        met[place] += 1
    assert met.keys() == crops.keys()
    assert max(met.values()) < 3 * min(met.values())  # 40 each, were they even


def test_translate_of_an_image_smaller_than_its_shift_reflects_what_there_is() -> None:
    assert all(y.shape == (3, 2, 1) for y in draws(augment.Translate(DATA, pixels=9, p=1), image(3, 2, 1)))


def test_random_crop_is_every_part_of_the_size() -> None:
    x = image(3, GRID[0] + 2, GRID[1] + 1)
    crops = {(i, j): x[:, i : i + GRID[0], j : j + GRID[1]] for i in range(3) for j in range(2)}
    met = Counter()
    for y in draws(augment.RandomCrop(DATA), x):
        (place,) = [place for place, crop in crops.items() if torch.equal(crop, y)]
        met[place] += 1
    assert met.keys() == crops.keys()
    small = image(1, 4, 30)  # enlarged to 12 rows first, which makes 90 columns
    assert all(y.shape == (1, *GRID) for y in draws(augment.RandomCrop(DATA), small, range(5)))


def test_random_resized_crop_keeps_within_scale_and_ratio() -> None:
    """On a ramp of coordinates a crop tells where it lies: its ends are a half pixel of the crop from its edges."""
    height, width = 60, 80
    rows = torch.linspace(0, 1, height)[:, None].expand(height, width)
    columns = torch.linspace(0, 1, width)[None].expand(height, width)
    made = augment.RandomResizedCrop(DATA, scale=(0.3, 1.0), ratio=(0.7, 1.4))
    areas, aspects = [], []
    for y in draws(made, torch.stack([rows, columns])):
        assert y.shape == (2, *GRID)
        steps = float(y[0, 7, 8] - y[0, 4, 8]) / 3, float(y[1, 6, 10] - y[1, 6, 5]) / 5  # away from the edges
        tall, wide = steps[0] * (height - 1) * GRID[0], steps[1] * (width - 1) * GRID[1]
        areas.append(tall * wide / (height * width))
        aspects.append(wide / tall)
    assert 0.27 < min(areas) < 0.4
    assert 0.8 < max(areas) < 1.03
    assert 0.67 < min(aspects) < 0.8
    assert 1.2 < max(aspects) < 1.45


def test_random_resized_crop_is_torchvisions_resized_crop() -> None:
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    x = image(3, 40, 50)
    made = augment.RandomResizedCrop(DATA)
    for seed in range(10):
        box = made._box(40, 50, np.random.default_rng(seed))
        wanted = functional.resized_crop(
            x, *box, list(GRID), interpolation=functional.InterpolationMode.BICUBIC, antialias=True
        )
        torch.testing.assert_close(made(x, np.random.default_rng(seed)), wanted.clamp(0, 1), rtol=0, atol=2e-5)


def test_an_image_that_no_crop_of_the_ratio_fits_gives_its_middle() -> None:
    made = augment.RandomResizedCrop(DATA, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    assert made._box(10, 40, np.random.default_rng(0)) == (0, 15, 10, 10)
    assert made._box(40, 10, np.random.default_rng(0)) == (15, 0, 10, 10)
    assert all(y.shape == (1, *GRID) for y in draws(made, image(1, 1, 90), range(3)))


@pytest.mark.parametrize("channels", [1, 3])
def test_half_of_the_crops_have_an_aspect_above_the_middle_of_the_ratio(channels: int) -> None:
    made = augment.RandomResizedCrop(DATA, scale=(0.1, 0.2), ratio=(0.5, 2.0))
    boxes = [made._box(100, 100, np.random.default_rng(seed)) for seed in SEEDS]
    logs = [math.log(wide / tall) for _, _, tall, wide in boxes]
    assert abs(float(np.mean(logs))) < 0.12  # even in the logarithm, of standard deviation 0.4
    tops = [top / (100 - tall) for top, _, tall, _ in boxes]
    assert np.mean(tops) == pytest.approx(0.5, abs=0.08)
    assert made(image(channels, 30, 30), np.random.default_rng(0)).shape == (channels, *GRID)
