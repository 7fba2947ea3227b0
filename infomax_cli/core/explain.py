"""What single dimensions of a latent space mean: what they tell about a label, how a linear probe uses them, how near
they are to the standard normal, and how much of a sound they carry."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from infomax_cli.core.api import DataError
from infomax_cli.core.decode import Decoding, cropped, shared_grid
from infomax_cli.core.features import FrozenEncoder, extract
from infomax_cli.core.logistic import fit_logistic
from infomax_cli.core.rows import Rows, distinct
from infomax_cli.core.seeds import torch_generator
from infomax_cli.core.subject import Subject
from infomax_cli.wording import count_of

MOST = 20_000  # rows that are looked at
_BINS = 16  # of equal frequency, into which a dimension's values are put
_PENALTY = 1e-3  # of the linear probe
_SHOWN = 2000  # values of a dimension that are kept for its histogram


@dataclass(frozen=True)
class Explained:
    """One depth. Lists have a value a dimension: `information` about the label in nats, `mean` and `deviation`, and
    `distance`, the largest difference of its distribution function from that of N(0, 1) (Kolmogorov-Smirnov). `weights`
    are the linear probe's, of standardised features, a row a class. `entropy` is the label's, in nats: the most that
    can be known."""

    depth: int
    rows: int
    entropy: float
    classes: tuple[str, ...]
    information: tuple[float, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    distance: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]
    sparsity: float
    carrying: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def explain(
    subject: Subject,
    label: str,
    depths: Sequence[int],
    *,
    seed: int = 0,
    sampled: bool = True,
    tell: Callable[[str], None] = lambda text: None,
) -> list[tuple[Explained, Tensor]]:
    """Each depth's dimensions over the test split, and some of their values ``(N, D)`` for histograms.

    With `sampled`, stages that return Gaussians are drawn from: together such draws are the aggregate posterior, which
    V-GIM pulls towards N(0, I). `tell` hears how many items are left out. Raises `DataError` where nothing is labelled,
    or nothing of it long enough for the encoder.
    """
    sampling = replace(subject.recipe.sampling, eval="sample") if sampled else subject.recipe.sampling
    source = FrozenEncoder(subject.encoder, sampling, subject.device, depths)
    spec = subject.data.labels[label]
    found = extract(source, subject.split("test"), {label: spec}, seed=seed)
    left_out = {"corrupt": found.corrupt, "too short for the encoder": found.skipped}
    for why, count in left_out.items():
        if count:
            tell(f"{count_of(count, 'item')} of test left out: {why}")
    results = []
    for depth, rows in zip(depths, found.rows[label], strict=True):
        if len(rows) == 0:
            what = "that the encoder can take " if any(left_out.values()) else ""
            raise DataError(f"nothing in test {what}has the label {label}", "choose another label, or other data")
        results.append(_explain(depth, rows, spec.names, seed))
    return results


def _explain(depth: int, rows: Rows, names: Sequence[str], seed: int) -> tuple[Explained, Tensor]:
    order = torch.randperm(len(rows), generator=torch_generator("explain", seed))[:MOST].sort().values
    x, (present, y) = rows.take(order).double(), distinct(rows.labels[order])
    counts = y.bincount().double() / len(y)
    mean, deviation = x.mean(0), x.std(0, correction=0)
    standardised = ((x - mean) / deviation.clamp_min(1e-12)).float()
    weights = fit_logistic(standardised, y, len(present), _PENALTY).weight.double()
    classes = tuple(names[value] if value < len(names) else str(value) for value in present.tolist())
    explained = Explained(
        depth=depth,
        rows=len(x),
        entropy=float(-(counts * counts.log()).sum()),
        classes=classes,
        information=tuple(information(x, y).tolist()),
        mean=tuple(mean.tolist()),
        deviation=tuple(deviation.tolist()),
        distance=tuple(normal_distance(x).tolist()),
        weights=tuple(tuple(row) for row in weights.tolist()),
        sparsity=float(hoyer(weights).mean()),
        carrying=carrying(weights),
    )
    return explained, x[:: max(1, len(x) // _SHOWN)].float()


def information(x: Tensor, y: Tensor) -> Tensor:
    """Mutual information in nats between each column of `x` ``(N, D)`` and classes ``(N,)``: ``(D,)``.

    Columns are put into 16 bins of equal frequency; from the plug-in estimate the bias of Miller and Madow (1955),
    ``(bins - 1) (classes - 1) / 2N``, is taken off, down to zero.
    """
    classes = int(y.max()) + 1
    share = y.bincount(minlength=classes).double() / len(y)
    found = []
    for column in x.T.contiguous():
        inner = torch.linspace(0, 1, _BINS + 1, dtype=torch.float64)[1:-1]
        place = torch.bucketize(column.double(), column.double().quantile(inner))
        joint = (place * classes + y).bincount(minlength=_BINS * classes).view(-1, classes).double() / len(y)
        bins = joint.sum(1, keepdim=True)
        ratio = torch.where(joint > 0, joint / (bins * share).clamp_min(1e-300), 1.0)
        bias = (int((bins > 0).sum()) - 1) * (int((share > 0).sum()) - 1) / (2 * len(y))
        found.append(max(0.0, float((joint * ratio.log()).sum()) - bias))
    return torch.tensor(found, dtype=torch.float64)


def normal_distance(x: Tensor) -> Tensor:
    """For each column of `x` ``(N, D)`` the Kolmogorov-Smirnov statistic against N(0, 1): ``(D,)``, in [0, 1]."""
    ordered = x.double().sort(0).values
    expected = 0.5 * (1 + torch.erf(ordered / math.sqrt(2)))
    rank = torch.arange(len(x), dtype=torch.float64)[:, None]
    above = ((rank + 1) / len(x) - expected).amax(0)
    below = (expected - rank / len(x)).amax(0)
    return torch.maximum(above, below)


def hoyer(weights: Tensor) -> Tensor:
    """Sparsity of each row of ``(K, D)``, from 0 (all alike) to 1 (a single one) (Hoyer 2004)."""
    root = math.sqrt(weights.shape[1])
    if root <= 1:
        return torch.ones(len(weights), dtype=weights.dtype)
    ratio = weights.abs().sum(1) / weights.norm(dim=1).clamp_min(1e-300)
    found: Tensor = ((root - ratio) / (root - 1)).clamp(0, 1)
    return found


def carrying(weights: Tensor, share: float = 0.9) -> int:
    """The least number of dimensions that hold this share of all absolute weight ``(K, D)``."""
    total = weights.abs().sum(0).sort(descending=True).values.cumsum(0)
    return int((total < share * total[-1]).sum()) + 1


@torch.no_grad()
def contribution(decoding: Decoding, depth: int, items: int = 5) -> dict[int, float]:
    """The interpolation contribution score of Denoodt et al.: by the number n of dimensions replaced, the error left.

    For each ordered pair of test items, the n dimensions whose means over time differ most are taken from the second
    item into the first; the squared distance of what is decoded from the second item's, over that with none replaced.
    """
    inputs = [item.input.unsqueeze(0) for item in decoding.items(items)]
    units = decoding.decoders[depth].units
    counts = [2**power for power in range(1, 20) if 2**power < units] + [units]
    left = dict.fromkeys(counts, 0.0)
    whole = 0.0
    for pair in permutations(inputs, 2):
        grid = shared_grid(*pair)
        one, other = (decoding.latents(depth, cropped(x, grid)) for x in pair)
        wanted = decoding.decoded(depth, other, grid)
        order = (one - other).flatten(2).mean(-1).square()[0].argsort(descending=True)
        whole += float((decoding.decoded(depth, one, grid) - wanted).square().mean())
        for count in counts:
            mixed = one.clone()
            mixed[:, order[:count]] = other[:, order[:count]]
            left[count] += float((decoding.decoded(depth, mixed, grid) - wanted).square().mean())
    if whole == 0:
        raise DataError("explain: the test items are alike once decoded", "leave out --contribution")
    return {count: value / whole for count, value in left.items()}
