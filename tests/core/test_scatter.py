"""Points of the plane as a picture."""

from __future__ import annotations

import torch

from infomax_cli.core.api import LabelSpec
from infomax_cli.core.cloud import Cloud, Point
from infomax_cli.core.comparison_plot import PALETTE
from infomax_cli.core.scatter import MARKERS, OTHERS, draw_planes, style_of


def test_every_class_has_a_look_of_its_own_and_what_is_left_is_others() -> None:
    own = len(PALETTE) * len(MARKERS)
    styles = [style_of(place) for place in range(own)]
    assert len(set(styles)) == own
    assert OTHERS not in styles
    assert style_of(own) == OTHERS
    points = tuple(Point(place, str(place), 0, 0, {"speaker": place}) for place in range(own + 2))
    plane = torch.randn(own + 2, 2)
    for count, last in ((own, f"{own - 1}"), (own + 1, "1 other"), (own + 2, "2 others")):
        cloud = Cloud("speaker", LabelSpec(own + 2), "item", (0,), points[:count], (plane[:count],))
        figure = draw_planes(cloud, [plane[:count]], ["depth 0"], "many")
        names = [text.get_text() for text in figure.legends[0].get_texts()]
        assert (len(names), names[-1]) == (min(count, own + 1), last)
