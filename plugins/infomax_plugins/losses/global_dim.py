"""Deep InfoMax with a global objective, DIM(G) (Hjelm et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from infomax_cli.core.api import Batch, BlockSpec, Features, LossOutput

from ._critics import ConvTrunk, check_axes
from ._dim import check_at_least, check_batch, contrast_views, with_activation
from ._divergences import Measure
from ._maps import Address
from ._taps import find_taps


class GlobalDIM(nn.Module):
    """Tell one's own item, read anew from the whole of its local map, from the others of the batch, for every global.

    The local map goes through convolutions of the loss's own to one vector, the global through a linear layer; a pair's
    score is the dot product of the two. The published code builds those convolutions from the encoder's own layers,
    that which made the local map among them; here they are a trunk of their own that begins at the local map. Of
    several views each is held against the global of every other, and the losses are averaged.

    Terms and what is watched are those of `LocalDIM`, with one location.

    Args:
        spec: the block.
        local_map: the local map, by index within the block or by grid (``8x8``). By default the last with more than
            one position, before a context stage.
        global_map: the global, likewise; of a map of several positions each is a global. By default the last map of one
            position, or the mean of the block's last map where there is none.
        measure: what is bounded: see `LocalDIM`.
        units: the width of the two vectors. A global of as many channels and one position is taken as it is.
        act_penalty: weight of the squared norm of the encoder's globals.

    Raises:
        DoesNotFit: there is no such map, none with more than one position, one of more than two axes, or only the
            block's input is named.
    """

    def __init__(
        self,
        spec: BlockSpec,
        *,
        local_map: Address | None = None,
        global_map: Address | None = None,
        measure: Measure = "jsd",
        units: int = 2048,
        act_penalty: float = 0.0,
    ) -> None:
        super().__init__()
        check_at_least("global_dim", 1, units=units)
        check_at_least("global_dim", 0, act_penalty=act_penalty)
        self.local, self.summary = find_taps(spec, "global_dim", local_map, global_map, global_learns=act_penalty > 0)
        check_axes(self.local.map, "global_dim")
        self.measure: Measure = measure
        self.act_penalty = act_penalty
        self.local_net = ConvTrunk(self.local.map, units)
        ready = self.summary.positions == 1 and self.summary.channels == units
        self.global_net = nn.Identity() if ready else nn.Linear(self.summary.channels, units)

    def forward(self, views: Sequence[Features], batch: Batch) -> LossOutput:
        locals_ = [self.local.of_known_grid(view, "global_dim") for view in views]
        globals_ = [self.summary.rows(view) for view in views]
        check_batch(locals_[0], "global_dim")
        output = contrast_views(
            [self.local_net(found).unsqueeze(1) for found in locals_],  # (B, 1, units)
            [self.global_net(rows) for rows in globals_],
            self.measure,
        )
        return with_activation(output, globals_, self.act_penalty)
