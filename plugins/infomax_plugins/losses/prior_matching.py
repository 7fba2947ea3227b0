"""Codes drawn towards a prior by an adversary: the prior matching of Deep InfoMax (Hjelm et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from infomax_cli.core.api import Batch, BlockSpec, Features, InfomaxError, LossOutput, stop_gradient

from ._dim import check_at_least
from ._maps import Address
from ._scoring import at_least_float
from ._taps import check_learns, global_tap

Prior = Literal["uniform", "normal"]
Game = Literal["non_saturating", "reversal", "alternating"]

_LAYERS = (1000, 200)


class PriorMatching(nn.Module):
    """A discriminator tells codes from draws of a prior; the encoder makes codes that it takes for such draws.

    With logits ``D`` and a code ``c`` (its sigmoid, for the uniform prior) the discriminator minimises
    ``E softplus(D(c)) + E softplus(-D(prior))`` and a zero-centred gradient penalty (Mescheder et al. 2018), the mean
    over codes and draws of ``|grad D|^2``. The encoder minimises ``scale`` times its side of the game. One backward
    pass serves both players: the discriminator is shown codes that nothing flows back through, the encoder a
    discriminator whose weights are constants.

    The entry's `weight` would multiply both players; to weigh the prior against the block's other losses, take `scale`.
    It multiplies the gradient at the code, not the value that is reported.

    Terms: ``prior_matching``, the sum of what the players minimise; no measure of progress. Watched: ``encoder``,
    ``discriminator`` and ``penalty``, its parts; ``accuracy`` of the discriminator, 0.5 where the code matches.

    Args:
        spec: the block.
        code_map: the code, by index within the block or by grid; of a map of several positions each is a code. By
            default the block's global: its last map of one position, or the mean of its last map where there is none.
        prior: ``uniform`` on (0, 1) in each unit, for the sigmoid of the code, or a standard ``normal``.
        layers: widths of the discriminator's hidden layers, each with a ReLU; [1000, 200] by default.
        game: ``non_saturating`` (as published): the encoder minimises ``E softplus(-D(c))``. ``reversal``: minimax, the
            discriminator's gradient reversed at the code. ``alternating``: the non-saturating game, with the
            discriminator alone trained on one batch and the encoder alone on the next.
        scale: weight of the encoder's side, gamma in the paper.
        penalty: weight of the gradient penalty.

    Raises:
        DoesNotFit: there is no such map, or the code is the block's input.
    """

    def __init__(
        self,
        spec: BlockSpec,
        *,
        code_map: Address | None = None,
        prior: Prior = "uniform",
        layers: list[int] | None = None,
        game: Game = "non_saturating",
        scale: float = 1.0,
        penalty: float = 1.0,
    ) -> None:
        super().__init__()
        check_at_least("prior_matching", 0, scale=scale, penalty=penalty)
        widths = list(_LAYERS) if layers is None else layers
        if any(width < 1 for width in widths):
            raise InfomaxError(f"prior_matching: layers is {widths}, but a layer has at least one unit")
        self.code = global_tap(spec, code_map, "prior_matching")
        check_learns(spec, "prior_matching", self.code)
        self.prior: Prior = prior
        self.game: Game = game
        self.scale, self.penalty = scale, penalty
        self.discriminator = _make_discriminator(self.code.channels, widths)
        self.batches = 0  # of training

    def forward(self, views: Sequence[Features], batch: Batch) -> LossOutput:
        rows = torch.cat([self.code.rows(view).flatten(0, 1) for view in views])  # (V B M, C)
        with torch.autocast(rows.device.type, enabled=False):
            code = at_least_float(rows)
            if self.prior == "uniform":
                code, drawn = torch.sigmoid(code), torch.rand_like(code)
            else:
                drawn = torch.randn_like(code)
            terms, watched = self._play(code, drawn)
        watched = {name: stop_gradient(value) for name, value in watched.items()}
        return LossOutput({"prior_matching": torch.stack(terms).sum()}, watched)

    def _play(self, code: Tensor, drawn: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
        """What the players whose turn it is minimise, given codes and draws ``(n, C)``, and what is watched."""
        turn = self._turn()
        terms: list[Tensor] = []
        watched: dict[str, Tensor] = {}
        if "discriminator" in turn:
            shown = _scale_gradient(code, -self.scale) if self.game == "reversal" else stop_gradient(code)
            on_code, on_drawn = self.discriminator(shown), self.discriminator(drawn)  # (n, 1)
            watched["discriminator"] = F.softplus(on_code).mean() + F.softplus(-on_drawn).mean()
            watched["accuracy"] = ((on_code < 0).to(code.dtype).mean() + (on_drawn > 0).to(code.dtype).mean()) / 2
            terms.append(watched["discriminator"])
            if self.penalty:
                watched["penalty"] = _mean_squared_slope(self.discriminator, torch.cat([stop_gradient(code), drawn]))
                terms.append(self.penalty * watched["penalty"])
        if "encoder" in turn:
            watched["encoder"] = F.softplus(-self._frozen(_scale_gradient(code, self.scale))).mean()
            terms.append(watched["encoder"])
        return terms, watched

    def _turn(self) -> tuple[str, ...]:
        """Which players this batch trains; with a reversed gradient the encoder plays within the discriminator's."""
        if self.game == "reversal":
            return ("discriminator",)
        if self.game == "alternating" and self.training:
            self.batches += 1
            return ("discriminator",) if self.batches % 2 else ("encoder",)
        return ("discriminator", "encoder")

    def _frozen(self, code: Tensor) -> Tensor:
        """The discriminator's logits, its weights taken as constants."""
        weights = {name: stop_gradient(value) for name, value in self.discriminator.named_parameters()}
        logits: Tensor = functional_call(self.discriminator, weights, (code,))
        return logits

    def get_extra_state(self) -> Tensor:
        """Whose turn it is, on the CPU, where it is read every batch; a resumed run goes on with it."""
        return torch.tensor(self.batches)

    def set_extra_state(self, state: Tensor) -> None:
        self.batches = int(state)


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.factor * grad, None


def _scale_gradient(x: Tensor, factor: float) -> Tensor:
    """`x`, whose gradient is multiplied by `factor` on its way back."""
    same: Tensor = _ScaleGradient.apply(x, factor)
    return same


def _mean_squared_slope(net: nn.Module, points: Tensor) -> Tensor:
    """``E |grad net|^2`` at `points` ``(n, C)``, differentiable in the weights; also where gradients are off."""
    with torch.enable_grad():
        points = stop_gradient(points).requires_grad_()
        (slopes,) = torch.autograd.grad(net(points).sum(), points, create_graph=True)
    return slopes.square().sum(1).mean()


def _make_discriminator(units: int, widths: Sequence[int]) -> nn.Sequential:
    """``(n, units)`` to logits ``(n, 1)``."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(units, width), nn.ReLU()]
        units = width
    return nn.Sequential(*layers, nn.Linear(units, 1))
