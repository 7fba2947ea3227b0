"""Deep InfoMax with a local objective, DIM(L) (Hjelm et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from infomax_cli.core.api import Batch, BlockSpec, Features, LossOutput

from ._critics import MI1x1ConvNet
from ._dim import check_at_least, check_batch, contrast_views, with_activation
from ._divergences import Measure
from ._maps import Address
from ._taps import draw_positions, find_taps


class LocalDIM(nn.Module):
    """Tell the locations of one's own item from those of the others, for every global vector of the block.

    The local map and the global go through a scoring network each; a pair's score is the dot product of what they make
    of it. Of one view the local map is held against its own global, of several against that of every other view, and
    the losses are averaged.

    Terms: ``contrast``, and ``activation`` where that has a weight. Watched: ``accuracy``, the share of locations that
    score above every location of the other items; ``bound`` on the mutual information in nats (measures kl, dv and
    nce), or ``divergence``, the bound on the measure's own. dv and kl overrate what they have been trained on: believe
    them on held-out items.

    Args:
        spec: the block.
        local_map: the local map, by index within the block or by grid (``8x8``). By default the last with more than
            one position, before a context stage.
        global_map: the global, likewise; of a map of several positions each is a global. By default the last map of one
            position, or the mean of the block's last map where there is none.
        measure: what is bounded. ``jsd`` (the published default), ``gan``, ``kl``, ``rkl``, ``h2`` and ``x2`` are
            f-divergences; ``dv`` Donsker and Varadhan's; ``w1`` of Wasserstein's kind, on cosines; ``nce``, which does
            best in the paper, is InfoNCE.
        units: the width of the scoring networks. A global of as many channels and one position has none.
        local_samples: locations drawn from each item, without replacement; None for all.
        global_samples: globals drawn likewise.
        act_penalty: weight of the squared norm of the encoder's globals. The published code takes it behind the scoring
            network, whose layer normalisation all but fixes it.

    Raises:
        DoesNotFit: there is no such map, none with more than one position, or only the block's input is named.
    """

    def __init__(
        self,
        spec: BlockSpec,
        *,
        local_map: Address | None = None,
        global_map: Address | None = None,
        measure: Measure = "jsd",
        units: int = 2048,
        local_samples: int | None = None,
        global_samples: int | None = None,
        act_penalty: float = 0.0,
    ) -> None:
        super().__init__()
        check_at_least("local_dim", 1, units=units, local_samples=local_samples, global_samples=global_samples)
        check_at_least("local_dim", 0, act_penalty=act_penalty)
        self.local, self.summary = find_taps(spec, "local_dim", local_map, global_map, global_learns=act_penalty > 0)
        self.measure: Measure = measure
        self.local_samples, self.global_samples, self.act_penalty = local_samples, global_samples, act_penalty
        self.local_net = MI1x1ConvNet(self.local.channels, units)
        ready = self.summary.positions == 1 and self.summary.channels == units
        self.global_net = nn.Identity() if ready else MI1x1ConvNet(self.summary.channels, units)

    def forward(self, views: Sequence[Features], batch: Batch) -> LossOutput:
        # drawn before the networks, which take most of a step's time
        locals_ = [draw_positions(self.local.rows(view), self.local_samples) for view in views]
        globals_ = [draw_positions(self.summary.rows(view), self.global_samples) for view in views]
        check_batch(locals_[0], "local_dim")
        output = contrast_views(
            [self.local_net(rows) for rows in locals_], [self.global_net(rows) for rows in globals_], self.measure
        )
        return with_activation(output, globals_, self.act_penalty)
