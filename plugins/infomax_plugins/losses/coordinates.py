"""Where in the map a local vector lies: the coordinate task of Deep InfoMax (Hjelm et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infomax_cli.core.api import Batch, BlockSpec, DoesNotFit, Features, LossOutput, stop_gradient

from ._critics import MI1x1ConvNet
from ._maps import Address, described
from ._scoring import at_least_float
from ._taps import Tap, find_taps, pairs_of_views


class Coordinates(nn.Module):
    """Tell from the vector of a location and the global where on the grid the location is, axis by axis.

    The global is set beside every location; a scoring network makes logits of both, as many as each axis is long. The
    loss is the sum over axes of the cross-entropies, ``log`` of each length at chance. Of several views the locations
    are held against the global of every other, and the losses are averaged.

    Terms: ``coordinates``, in nats. Watched: ``accuracy``, averaged over axes.

    Args:
        spec: the block.
        local_map: the map whose locations are told, by index within the block or by grid (``8x8``). By default the
            last with more than one position, before a context stage.
        global_map: the global, likewise, averaged over its grid. By default the last map of one position, or the mean
            of the block's last map where there is none.

    Raises:
        DoesNotFit: there is no such map, the local map has one position, or only the block's input is named.
    """

    places: Tensor

    def __init__(self, spec: BlockSpec, *, local_map: Address | None = None, global_map: Address | None = None) -> None:
        super().__init__()
        self.local, found = find_taps(spec, "coordinates", local_map, global_map)
        self.summary = Tap(found.index, found.map, pooled=True)
        self.grid = self.local.map.grid
        if self.local.positions < 2:
            raise DoesNotFit(
                f"coordinates: map {self.local.index} of block {spec.index} has one position: there is nothing to tell",
                f"it has {described(spec.maps)}",
            )
        self.net = MI1x1ConvNet(self.local.channels + self.summary.channels, sum(self.grid))
        places = torch.arange(prod(self.grid)).view(self.grid)
        # of each position its place along each axis, (axes, L)
        self.register_buffer("places", torch.stack(torch.unravel_index(places.flatten(), self.grid)), persistent=False)

    def forward(self, views: Sequence[Features], batch: Batch) -> LossOutput:
        judged = [self._pair(views[one], views[other]) for one, other in pairs_of_views(len(views))]
        losses, accuracies = zip(*judged, strict=True)
        return LossOutput({"coordinates": torch.stack(losses).mean()}, {"accuracy": torch.stack(accuracies).mean()})

    def _pair(self, local: Features, summary: Features) -> tuple[Tensor, Tensor]:
        """Loss and accuracy of one view's locations, given the global of another or of the same."""
        self.local.of_known_grid(local, "coordinates")
        rows, given = self.local.rows(local), self.summary.rows(summary)  # (B, L, C), (B, 1, C')
        beside = torch.cat([rows, given.expand(-1, rows.shape[1], -1).to(rows.dtype)], dim=2)
        logits = torch.split(at_least_float(self.net(beside)), list(self.grid), dim=2)  # (B, L, length) for each axis
        losses, accuracies = [], []
        for along, place in zip(logits, self.places, strict=True):
            places = place.expand(len(rows), -1)  # (B, L)
            losses.append(F.cross_entropy(along.flatten(0, 1), places.flatten()))
            accuracies.append((stop_gradient(along).argmax(2) == places).to(along.dtype).mean())
        return torch.stack(losses).sum(), torch.stack(accuracies).mean()
