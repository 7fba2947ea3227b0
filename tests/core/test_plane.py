"""Projections to the plane, and how far classes are apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from infomax_cli.core.plane import Method, project, purity, silhouette, standardised


@pytest.fixture(scope="module")
def blobs() -> tuple[Tensor, Tensor]:
    """Three clusters of 30 points in 12 dimensions of unlike scales."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(90) % 3
    centres = 6 * torch.randn(3, 12, generator=generator)
    return (centres[classes] + torch.randn(90, 12, generator=generator)) * torch.logspace(-3, 3, 12), classes


@pytest.mark.parametrize("method", ["tsne", "pca", pytest.param("umap", marks=pytest.mark.slow)])
def test_clusters_stay_apart_in_the_plane_and_the_seed_decides(method: Method, blobs: tuple[Tensor, Tensor]) -> None:
    if method == "umap":
        pytest.importorskip("umap", reason="an extra")
    features, classes = blobs
    made = project(features, method, seed=1)
    assert made.shape == (90, 2)
    assert silhouette(made, classes) > 0.5
    assert torch.equal(made, project(features, method, seed=1))


def test_few_points_and_one_dimension_are_projected_too() -> None:
    for features in (torch.randn(3, 5), torch.arange(10.0).unsqueeze(1), torch.zeros(4, 3)):
        for method in ("tsne", "pca"):
            made = project(features, method)  # type: ignore[arg-type]  # a list of words
            assert made.shape == (len(features), 2)
            assert made.isfinite().all()


def test_silhouette_and_purity_equal_their_definitions(blobs: tuple[Tensor, Tensor]) -> None:
    x, classes = blobs[0][:24].double(), blobs[1][:24]
    x = standardised(x + 5).double()
    far = torch.cdist(x, x)
    values, pure = [], []
    for place in range(len(x)):
        own = (classes == classes[place]) & (torch.arange(len(x)) != place)
        within = far[place][own].mean()
        other = min(far[place][classes == value].mean() for value in range(3) if value != classes[place])
        values.append(float((other - within) / max(other, within)))
        nearest = [n for n in far[place].argsort().tolist() if n != place][:4]
        pure.append(sum(int(classes[n] == classes[place]) for n in nearest) / 4)
    assert silhouette(x, classes) == pytest.approx(sum(values) / len(values), abs=1e-6)
    assert purity(x, classes, neighbours=4) == pytest.approx(sum(pure) / len(pure))
    assert silhouette(x[:3], torch.tensor([0, 1, 2])) == 0.0


def test_dimensions_count_alike_and_constant_ones_not_at_all() -> None:
    x = torch.stack([torch.arange(6.0) * 1e4, torch.arange(6.0).flip(0), torch.full((6,), 7.0)], 1)
    found = standardised(x)
    torch.testing.assert_close(found[:, 0], -found[:, 1])
    assert (found[:, 2] == 0).all()
