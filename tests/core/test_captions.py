"""Titles are broken where they would leave their picture, and nowhere else."""

from __future__ import annotations

from infomax_cli.core.captions import wrapped

RUN = "gim-syllables-20261126-170312"


def test_a_title_is_as_wide_as_its_picture_and_names_stay_whole() -> None:
    title = f"{RUN}: draws from the Gaussian of its features"
    assert wrapped(title, 13, 9) == title
    lines = wrapped(title, 3.2, 9).split("\n")
    assert len(lines) > 1
    assert lines[0].startswith(f"{RUN}:")
    assert " ".join(lines) == title
    assert max(map(len, lines)) <= 72 * 3.2 / (0.55 * 9)


def test_lines_that_were_meant_stay_apart() -> None:
    assert wrapped(f"{RUN}\nclass, knn", 6, 12) == f"{RUN}\nclass, knn"
