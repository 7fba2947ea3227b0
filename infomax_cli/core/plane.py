"""High dimensions brought to the plane, and how far classes are apart in either."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from infomax_cli.core.seeds import derive_seed
from infomax_cli.errors import InfomaxError

Method = Literal["tsne", "umap", "pca"]
_NEIGHBOURS = 10
_BEFORE = 50  # principal components that t-SNE and UMAP start from, as van der Maaten & Hinton 2008 do (theirs: 30)


def project(features: Tensor, method: Method, *, perplexity: float = 30.0, seed: int = 0) -> Tensor:
    """Features ``(N, D)`` to points of the plane ``(N, 2)``, on the CPU; the same for the same seed.

    ``tsne`` (van der Maaten & Hinton 2008; scikit-learn's, by Barnes-Hut), ``umap`` (McInnes et al. 2018), or the first
    two principal components. All of them see standardised features; the first two of no more than 50 components.
    Of fewer points t-SNE takes the perplexity that `perplexity_of` tells. Raises `InfomaxError` where UMAP is not
    installed.
    """
    x = standardised(features)
    if method == "pca":
        return _components(x, 2)
    x = _components(x, min(_BEFORE, *x.shape))
    made = _tsne(x, perplexity, seed) if method == "tsne" else _umap(x, seed)
    return torch.from_numpy(np.ascontiguousarray(made, dtype=np.float32))


def perplexity_of(points: int, asked: float) -> float:
    """The perplexity that t-SNE takes: the one that is asked for, as far as so few points allow it."""
    return min(asked, (points - 1) / 3)


def standardised(features: Tensor) -> Tensor:
    """Mean 0 and deviation 1 in every dimension; dimensions that never change stay 0. In float32."""
    x = features.double()
    x = x - x.mean(0)
    deviation = x.std(0, correction=0)
    return (x / deviation.clamp_min(1e-6 * float(deviation.max()) + 1e-12)).float()


def _components(x: Tensor, count: int) -> Tensor:
    """The first principal components, their signs fixed so that the largest value of each axis is positive."""
    axes = torch.linalg.eigh(x.double().T @ x.double()).eigenvectors.flip(1)[:, :count]
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    made = (x.double() @ axes).float()
    return made if made.shape[1] >= 2 else torch.cat([made, torch.zeros(len(made), 2 - made.shape[1])], 1)


def _tsne(x: Tensor, perplexity: float, seed: int) -> npt.NDArray[Any]:
    from sklearn.manifold import TSNE

    perplexity = perplexity_of(len(x), perplexity)
    # as scikit-learn begins by itself, but for warnings about dimensions that never change
    begin = _components(x, 2)
    begin = begin / begin[:, 0].std().clamp_min(1e-12) * 1e-4
    method = TSNE(2, perplexity=perplexity, init=begin.numpy(), random_state=derive_seed("tsne", seed) % 2**32)
    made: npt.NDArray[Any] = method.fit_transform(x.numpy())
    return made


def _umap(x: Tensor, seed: int) -> npt.NDArray[Any]:
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own dependencies
            from umap import UMAP
    except ImportError as error:
        raise InfomaxError(
            "--method umap needs umap-learn, which is not installed", "pip install 'infomax[umap]'"
        ) from error
    neighbours = min(15, len(x) - 1)
    method = UMAP(n_neighbors=neighbours, random_state=derive_seed("umap", seed) % 2**32, n_jobs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: npt.NDArray[Any] = method.fit_transform(x.numpy())
    return made


def silhouette(x: Tensor, classes: Tensor) -> float:
    """The mean silhouette (Rousseeuw 1987) of points ``(N, D)`` by their classes ``(N,)``, in [-1, 1]: how much nearer
    a point lies to its own class than to the nearest other. Points alone in their class count 0."""
    from sklearn.metrics import silhouette_score

    if len(set(classes.tolist())) == len(classes):
        return 0.0
    return float(silhouette_score(x.numpy(), classes.numpy()))


def purity(x: Tensor, classes: Tensor, neighbours: int = _NEIGHBOURS) -> float:
    """The share of the nearest `neighbours` of a point, itself apart, that are of its class: the mean over points
    ``(N, D)``."""
    from sklearn.neighbors import NearestNeighbors

    count = min(neighbours, len(x) - 1)
    found = NearestNeighbors(n_neighbors=count).fit(x.numpy()).kneighbors(return_distance=False)
    same = classes[torch.from_numpy(found)] == classes.unsqueeze(1)
    return float(same.double().mean())
