"""One backward pass gives both players of prior matching their own gradients, and neither the other's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dim_blocks import BATCH, blob_images, block_spec, features, gradients, image_blocks, random_features, total
from infomax_cli.core.api import BlockSpec, DoesNotFit, InfomaxError
from infomax_plugins.losses.local_dim import LocalDIM
from infomax_plugins.losses.prior_matching import PriorMatching
from toys import batch_of

SPEC = block_spec((3, (6, 6)), (4, (2, 3)), (5, (1, 1)))
ITEMS, UNITS = 4, 5


def make_loss(spec: BlockSpec = SPEC, **options: Any) -> PriorMatching:
    torch.manual_seed(1)
    return PriorMatching(spec, **{"layers": [6, 3]} | options).double()


def judged(loss: PriorMatching, *views: Any) -> Tensor:
    torch.manual_seed(3)
    return total(loss(views, BATCH))


# --- each player on its own ------------------------------------------------------------------------------------------


class Players:
    """What each player minimises, from the formulas, sample by sample, on the draws that `judged` makes."""

    def __init__(self, loss: PriorMatching, codes: Tensor) -> None:
        torch.manual_seed(3)
        uniform = loss.prior == "uniform"
        self.net = loss.discriminator
        self.drawn = (torch.rand if uniform else torch.randn)(codes.shape, dtype=codes.dtype)
        self.codes = 1 / (1 + torch.exp(-codes)) if uniform else codes

    def logit(self, x: Tensor) -> Tensor:
        for layer in self.net:
            x = layer.weight @ x + layer.bias if isinstance(layer, nn.Linear) else torch.clamp(x, min=0)
        return x[0]

    def encoder(self) -> Tensor:
        """Non-saturating."""
        return torch.stack([-torch.log(torch.sigmoid(self.logit(c))) for c in self.codes]).mean()

    def minimax(self) -> Tensor:
        """What the encoder minimises of the discriminator's own objective."""
        return torch.stack([torch.log(1 - torch.sigmoid(self.logit(c))) for c in self.codes]).mean()

    def discriminator(self) -> Tensor:
        real = torch.stack([torch.log(torch.sigmoid(self.logit(x))) for x in self.drawn]).mean()
        fake = torch.stack([torch.log(1 - torch.sigmoid(self.logit(c))) for c in self.codes.detach()]).mean()
        return -(real + fake)

    def penalty(self) -> Tensor:
        return (self._penalty(self.drawn) + self._penalty(self.codes)) / 2

    def _penalty(self, points: Tensor) -> Tensor:
        norms = []
        for point in points.detach():
            x = point.clone().requires_grad_()
            (slope,) = torch.autograd.grad(self.logit(x), x, create_graph=True)
            norms.append(slope @ slope)
        return torch.stack(norms).mean()


@pytest.mark.parametrize("prior", ["uniform", "normal"])
@pytest.mark.parametrize("game", ["non_saturating", "reversal"])
def test_one_backward_pass_gives_each_player_exactly_its_own_gradient(prior: str, game: str) -> None:
    loss, seen = make_loss(prior=prior, game=game, scale=0.3, penalty=2.0), random_features(SPEC, ITEMS)
    found = judged(loss, seen)
    players = Players(loss, seen.maps[2].flatten(1))
    alone = players.discriminator() + 2.0 * players.penalty()
    on_encoder = players.encoder() if game == "non_saturating" else players.minimax()
    torch.testing.assert_close(found, alone + players.encoder() if game == "non_saturating" else alone)
    expected = [0.3 * g for g in gradients(on_encoder, seen.maps[1:])]
    weights = list(loss.parameters())
    torch.testing.assert_close(gradients(found, seen.maps[1:]), expected)
    torch.testing.assert_close(gradients(found, weights), gradients(alone, weights))
    assert expected[1].abs().sum() > 0


def test_the_scale_touches_the_encoder_alone() -> None:
    seen = random_features(SPEC, ITEMS)
    once, thrice, never = make_loss(scale=1.0), make_loss(scale=3.0), make_loss(scale=0.0)
    values = [judged(loss, seen) for loss in (once, thrice, never)]
    code = [gradients(value, seen.maps[2:])[0] for value in values]
    torch.testing.assert_close(code[1], 3 * code[0])
    assert code[2].abs().sum() == 0
    for loss, value in ((thrice, values[1]), (never, values[2])):
        own = gradients(values[0], list(once.parameters()))
        torch.testing.assert_close(gradients(value, list(loss.parameters())), own)


def test_the_penalty_is_the_mean_over_every_sample() -> None:
    loss, seen = make_loss(penalty=1.0), random_features(SPEC, ITEMS)
    torch.manual_seed(3)
    watched = loss([seen], BATCH).watched
    torch.testing.assert_close(watched["penalty"], Players(loss, seen.maps[2].flatten(1)).penalty().detach())
    torch.manual_seed(3)
    assert "penalty" not in make_loss(penalty=0.0)([seen], BATCH).watched


def test_alternating_players_take_turns_and_the_other_gets_no_gradient_at_all() -> None:
    loss, seen = make_loss(game="alternating", scale=0.3), random_features(SPEC, ITEMS)
    weights = list(loss.parameters())
    for turn in range(4):
        value = judged(loss, seen)
        on_weights = torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True)
        (on_code,) = torch.autograd.grad(value, seen.maps[2], retain_graph=True, allow_unused=True)
        players = Players(loss, seen.maps[2].flatten(1))
        if turn % 2 == 0:
            assert on_code is None
            torch.testing.assert_close(
                list(on_weights), gradients(players.discriminator() + players.penalty(), weights)
            )
        else:
            # not zero but none: an optimizer with momentum would move at zero
            assert all(gradient is None for gradient in on_weights)
            torch.testing.assert_close(on_code, 0.3 * gradients(players.encoder(), [seen.maps[2]])[0])


def test_whose_turn_it_is_is_saved_and_validation_does_not_count() -> None:
    loss, seen = make_loss(game="alternating"), random_features(SPEC, ITEMS)
    judged(loss, seen)
    again = make_loss(game="alternating")
    again.load_state_dict(loss.state_dict())
    assert all(isinstance(value, Tensor) for value in loss.state_dict().values())
    again.eval()
    with torch.no_grad():
        both = again([seen], BATCH).watched
    assert {"encoder", "discriminator", "penalty"} <= set(both)
    assert "encoder" in again.train()([seen], BATCH).watched
    assert "discriminator" in again([seen], BATCH).watched


def test_of_several_positions_and_views_each_is_a_code() -> None:
    spec = block_spec((3, (6,)), (4, (2,)))
    loss, one, two = make_loss(spec, code_map=1), random_features(spec, 3, seed=1), random_features(spec, 3, seed=2)
    found = judged(loss, one, two)
    codes = torch.cat([view.maps[1].transpose(1, 2).flatten(0, 1) for view in (one, two)])
    players = Players(loss, codes)
    torch.testing.assert_close(found, players.encoder() + players.discriminator() + players.penalty())


@pytest.mark.parametrize("grid", [(6,), (2, 3)])
def test_without_a_vector_the_code_is_the_mean_of_the_last_map(grid: tuple[int, ...]) -> None:
    spec = block_spec((3, grid), (UNITS, grid))
    loss, seen = make_loss(spec), random_features(spec, ITEMS)
    players = Players(loss, seen.maps[1].flatten(2).mean(2))
    torch.testing.assert_close(judged(loss, seen), players.encoder() + players.discriminator() + players.penalty())


# --- in training -----------------------------------------------------------------------------------------------------


def test_the_published_discriminator_has_layers_of_1000_and_200() -> None:
    spec = block_spec((3, (6, 6)), (64, (1, 1)))
    shapes = [tuple(p.shape) for p in PriorMatching(spec).parameters() if p.ndim > 1]
    assert shapes == [(1000, 64), (200, 1000), (1, 200)]


def test_validation_reports_without_a_gradient() -> None:
    loss, seen = make_loss(), random_features(SPEC, ITEMS)
    with_gradient = judged(loss, seen)
    with torch.no_grad():
        without = judged(loss.eval(), seen)
    assert not without.requires_grad
    torch.testing.assert_close(without, with_gradient.detach())


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("game", ["non_saturating", "reversal", "alternating"])
def test_it_runs_under_autocast_and_stays_finite_with_large_codes(game: str, half: torch.dtype) -> None:
    loss = PriorMatching(SPEC, game=game, prior="normal")
    seen = random_features(SPEC, ITEMS, dtype=torch.float32)
    code = (1e3 * seen.maps[2].detach()).to(half).requires_grad_()
    with torch.autocast("cpu", half):
        value = total(loss([features(*seen.maps[:2], code)], BATCH))
    value.backward()
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    assert all(torch.isfinite(p.grad).all() for p in [code, *loss.parameters()] if p.grad is not None)


def test_one_item_is_enough() -> None:
    assert torch.isfinite(judged(make_loss(), random_features(SPEC, 1)))


@pytest.mark.parametrize(
    ("game", "prior"),
    [("non_saturating", "uniform"), ("reversal", "uniform"), ("alternating", "uniform"), ("non_saturating", "normal")],
)
def test_codes_are_drawn_towards_the_prior(game: str, prior: str) -> None:
    torch.manual_seed(0)
    spec = block_spec((2, (1, 1)), (2, (1, 1)))
    loss = PriorMatching(spec, game=game, prior=prior, layers=[32])  # type: ignore[arg-type]
    noise = torch.randn(64, 2, 1, 1)
    encoder = nn.Conv2d(2, 2, 1)
    with torch.no_grad():
        encoder.weight.mul_(0.3)
        encoder.bias.fill_(2.0)

    def distance(codes: Tensor) -> float:
        """The largest gap between the codes' and the prior's distribution functions, worst over units."""
        flat = codes.detach().flatten(1)
        below = torch.sigmoid(flat) if prior == "uniform" else torch.special.ndtr(flat)
        ranks = torch.linspace(0, 1, len(flat))
        return float((below.sort(0).values - ranks[:, None]).abs().max())

    optimizer = torch.optim.Adam([*encoder.parameters(), *loss.parameters()], 1e-2, betas=(0.5, 0.999))
    before = distance(encoder(noise))
    for _ in range(400 if game == "alternating" else 200):
        codes = encoder(noise)
        optimizer.zero_grad()
        total(loss([features(noise, codes)], BATCH)).backward()
        optimizer.step()
    assert before > 0.5
    assert distance(encoder(noise)) < 0.4


def test_beside_local_dim_each_loss_keeps_its_parameters_to_itself() -> None:
    torch.manual_seed(0)
    (block,) = image_blocks(
        [(LocalDIM, {"units": 16, "measure": "nce"}), (PriorMatching, {"scale": 0.1, "layers": [8]})]
    )
    images = blob_images(8)
    optimizer = torch.optim.Adam(block.trained_parameters(), 3e-3)
    told = []
    for _ in range(20):
        output = block([images], batch_of(images))
        assert output.total is not None
        optimizer.zero_grad()
        output.total.backward()
        optimizer.step()
        told.append(float(output.terms["LocalDIM"]))
    assert told[-1] < told[0]
    assert all(p.grad is not None for p in block.trained_parameters())


@pytest.mark.parametrize(
    ("spec", "options", "error", "message"),
    [
        (SPEC, {"code_map": 0}, DoesNotFit, "nothing but the input of block 2"),
        (SPEC, {"code_map": "7x7"}, DoesNotFit, "prior_matching: block 2 has no map of 7x7"),
        (SPEC, {"scale": -1.0}, InfomaxError, "prior_matching: scale is -1.0"),
        (SPEC, {"penalty": -1.0}, InfomaxError, "prior_matching: penalty is -1.0"),
        (SPEC, {"layers": [3, 0]}, InfomaxError, "a layer has at least one unit"),
    ],
)
def test_what_does_not_fit_is_refused(
    spec: BlockSpec, options: dict[str, Any], error: type[InfomaxError], message: str
) -> None:
    with pytest.raises(error, match=message):
        PriorMatching(spec, **options)
