"""What is asked of a probe, and what of that makes no sense."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from infomax_cli.core.api import UsageError
from infomax_cli.core.baselines import Baseline
from infomax_cli.core.classifiers import Classifier
from infomax_cli.core.features import Pool
from infomax_cli.core.protocols import find_protocol
from infomax_cli.core.subject import Subject
from infomax_cli.wording import suggest


@dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    """How to probe. `depth`, `classifier` and `pool` None leave them to the protocol. With `labels_per_class` only so
    many training items of each class (frames, for aligned labels) are learnt from, drawn anew in each of `repeats`.
    With `draws`, so many draws from its Gaussians stand beside each training item: what V-GIM's variance is worth as
    augmentation. With `neighbours`, the nearest training items of so many test items are found too."""

    depth: int | Literal["all", "last"] | None = None
    classifier: Classifier | None = None
    pool: Pool | None = None
    protocol: str = "optimum"
    labels_per_class: int | None = None
    repeats: int = 1
    draws: int = 0
    baselines: tuple[Baseline, ...] = ()
    neighbours: int = 0
    seed: int = 0


def parse_labels(text: str, known: Sequence[str]) -> tuple[str, ...]:
    """``vowel,speaker`` as two labels; the name of a label that exists may itself hold a comma."""
    return (text,) if text in known else tuple(part.strip() for part in text.split(",") if part.strip())


_NO_LABELS = "take a dataset that has some; a folder's are named by data.labels=[...] or data.label_from=parent"


def check_labels(subject: Subject, labels: Sequence[str]) -> None:
    known, data = list(subject.data.labels), subject.recipe.data.name
    if not known:
        raise UsageError(f"the data ({data}) has no labels to probe", _NO_LABELS)
    for label in labels:
        if label not in known:
            listed = f"there are: {', '.join(known)}"
            near = suggest(label, known)
            hint = listed if near in (None, listed) else f"{near} {listed}"
            raise UsageError(f"the data ({data}) has no label {label!r}", hint)


def check_options(options: ProbeOptions, counts: Sequence[int | None]) -> None:
    few = [count for count in counts if count is not None]
    if any(count < 1 for count in few):
        raise UsageError(f"--labels-per-class {min(few)}: must be at least 1")
    if len(set(counts)) < len(counts) or not counts:
        raise UsageError("--labels-per-class: give each number once")
    protocol = find_protocol(options.protocol)
    optimum = protocol.is_optimum
    if not optimum and options.classifier not in (None, *protocol.heads):
        known = " or ".join(protocol.heads)
        raise UsageError(
            f"--protocol {options.protocol} is for the {known} classifier", "leave out --classifier, or --protocol"
        )
    if options.neighbours < 0:
        raise UsageError(f"--neighbours {options.neighbours}: must be at least 0")
    if options.neighbours and options.pool == "none":
        raise UsageError("--neighbours compares whole items", "leave out --pool none")
    if few and not optimum:
        raise UsageError(f"--protocol {options.protocol} uses all labels", "leave out --labels-per-class")
    if options.draws < 0:
        raise UsageError(f"--draws {options.draws}: must be at least 0")
    if options.draws and not optimum:
        raise UsageError(f"--protocol {options.protocol} takes items as they are", "leave out --draws")
    if options.repeats > 1 and not few:
        raise UsageError("--repeats draws the few labels anew", "give --labels-per-class with it")


def check_whole(options: ProbeOptions, aligned: Sequence[str]) -> None:
    """Raise `UsageError` where something is asked that only whole items have, of labels that are `aligned`."""
    if options.draws and aligned:
        raise UsageError(
            f"--draws is for labels of whole items, and {aligned[0]} is aligned", "of syllables: data.unit=syllable"
        )
    if options.neighbours and aligned:
        raise UsageError(
            f"--neighbours is for labels of whole items, and {aligned[0]} is aligned", "probe that label apart"
        )


def check_draws(subject: Subject, options: ProbeOptions, deepest: int) -> None:
    """Raise `UsageError` where draws would all be alike, as no stage up to the `deepest` returns a Gaussian."""
    drawn = subject.gaussians() if options.draws else [0]
    if not drawn:
        raise UsageError(
            f"--draws {options.draws}: this encoder has no Gaussians to draw from",
            "leave out --draws; encoder.variational makes them (`infomax recipes show vgim`)",
        )
    if min(drawn) > deepest:
        raise UsageError(
            f"--draws {options.draws}: there is no Gaussian up to depth {deepest}", f"--depth {min(drawn)}, or deeper"
        )
