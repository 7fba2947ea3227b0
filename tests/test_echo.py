"""The foreign distribution keeps the contracts of `infomax_cli.core.api`, and knows nothing else of infomax."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from infomax_cli.core.api import Axis, Batch, BlockSpec, DataError, Dataset, Encoder, Features, Loss, MapSpec

SOURCE = Path(__file__).parent / "thirdparty" / "infomax-echo" / "infomax_echo"


@pytest.fixture
def echo(foreign_site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Import a module of infomax_echo, by its short name."""
    monkeypatch.syspath_prepend(foreign_site)
    return lambda name: importlib.import_module(f"infomax_echo.{name}")


def test_of_infomax_it_imports_the_api_alone() -> None:
    for file in SOURCE.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            imported = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            imported += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not [n for n in imported if n.startswith("infomax") and n != "infomax_cli.core.api"], file


def test_the_encoder_s_geometry_is_what_its_frames_see(echo: Any) -> None:
    encoder = echo("encoder").EchoConv(activation="gelu").double()
    for stage in encoder.stages:
        stage[1] = torch.nn.Identity()  # a group norm looks at everything
    assert isinstance(encoder, Encoder)
    x = torch.randn(1, 1, 1280, dtype=torch.float64, requires_grad=True)
    y = encoder.prepare(x)
    for index, stage in enumerate(encoder.stages):
        y = stage(y)
        (axis,) = encoder.geometry(index)
        frame = encoder.readout(y, index).shape[-1] // 2
        (gradient,) = torch.autograd.grad(y[0, :, frame].square().sum(), x, retain_graph=True)
        seen = gradient[0, 0].nonzero()
        assert (int(seen.min()) + int(seen.max())) / 2 == axis.centre + axis.hop * frame
        assert int(seen.max()) - int(seen.min()) + 1 == axis.field
    assert encoder.geometry(-1) == (Axis(),)


def test_items_depend_on_index_and_seed_alone_and_labels_stay_aligned(echo: Any, tmp_path: Path) -> None:
    data = echo("dataset").Tones(tones=3, items=7, noise=0.0)
    assert isinstance(data, Dataset)
    spec, split = data.describe(tmp_path), data.split(tmp_path, "train")
    assert len(split) == spec.sizes["train"] == 7
    item, again, other = split[4, 11], split[4, 11], split[4, 12]
    torch.testing.assert_close(item.input, again.input, rtol=0, atol=0)
    assert not torch.equal(item.input, other.input)
    assert item.input.shape == (spec.channels, *spec.grid)
    assert item.input.abs().max() <= 1
    assert split.item_labels("tone") == [split[index, None].labels["tone"] for index in range(7)]
    label = spec.labels["sounding"]
    assert label.hop is not None
    cells = item.input[0].unfold(0, label.hop, label.hop)
    assert label.offset == label.hop / 2
    # with no noise, a cell is silent exactly where its label says so
    assert torch.equal((cells.abs().amax(dim=1) > 0).long(), item.labels["sounding"])
    assert set(item.labels["sounding"].tolist()) <= {0, 1}


def test_an_unknown_split_is_named(echo: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no split 'dev'"):
        echo("dataset").Tones().split(tmp_path, "dev")


def block_spec(echo: Any, channels: int, grid: tuple[int, ...]) -> BlockSpec:
    a_map = MapSpec(channels, grid, tuple(Axis() for _ in grid))
    data = echo("dataset").Tones().describe(Path())
    return BlockSpec(
        index=0, stages=(0,), maps=(a_map, a_map), target=1, context=None, posteriors=(), views=1, data=data
    )


def test_the_loss_equals_a_plain_loop(echo: Any) -> None:
    torch.manual_seed(0)
    target = torch.randn(3, 4, 5, dtype=torch.float64)
    loss = echo("loss").Decorrelate(block_spec(echo, 4, (5,)), variance=2.0, covariance=0.5, slowness=3.0)
    assert isinstance(loss, Loss)
    views = [Features(maps=(target, target), target=target)]
    terms = loss(views, Batch(views=(), labels={}, ids=())).terms
    samples = [target[b, :, t] for b in range(3) for t in range(5)]
    mean = sum(samples) / 15
    covariance = sum(torch.outer(s - mean, s - mean) for s in samples) / 15
    variance = sum(max(0.0, 1 - (float(covariance[c, c]) + 1e-4) ** 0.5) for c in range(4)) / 4
    off = sum(float(covariance[a, b]) ** 2 for a in range(4) for b in range(4) if a != b) / 4
    steps = [float((target[b, c, t + 1] - target[b, c, t]) ** 2) for b in range(3) for c in range(4) for t in range(4)]
    expected = {"variance": 2.0 * variance, "covariance": 0.5 * off, "slowness": 3.0 * sum(steps) / len(steps)}
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("grid", [(7,), (1,), (3, 4)])
def test_the_loss_fits_any_block(echo: Any, grid: tuple[int, ...]) -> None:
    loss = echo("loss").Decorrelate(block_spec(echo, 4, grid), project=3)
    target = torch.randn(2, 4, *grid, requires_grad=True)
    output = loss([Features(maps=(target, target), target=target)] * 2, Batch(views=(), labels={}, ids=()))
    sum(output.terms.values(), torch.zeros(())).backward()
    assert target.grad is not None
    assert torch.isfinite(target.grad).all()
    assert loss.project.weight.grad.abs().sum() > 0
