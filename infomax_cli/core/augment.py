"""Augmentations by name, and the sets of them that were published; how a recipe names them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from infomax_cli.binding import bind
from infomax_cli.core import image_augment, speech_augment
from infomax_cli.core.api import DataSpec
from infomax_cli.core.augment_base import Augmentation, kind_of
from infomax_cli.errors import RecipeError
from infomax_cli.recipe import ViewOptions
from infomax_cli.wording import suggest

AUGMENTATIONS: Mapping[str, type[Augmentation]] = {
    "flip": image_augment.Flip,
    "translate": image_augment.Translate,
    "random_crop": image_augment.RandomCrop,
    "random_resized_crop": image_augment.RandomResizedCrop,
    "color_jitter": image_augment.ColorJitter,
    "grayscale": image_augment.Grayscale,
    "crop": speech_augment.Crop,
    "gain": speech_augment.Gain,
    "noise": speech_augment.Noise,
    "reverb": speech_augment.Reverb,
    "pitch": speech_augment.Pitch,
    "shift": speech_augment.Shift,
    "spec_augment": speech_augment.SpecAugment,
}


@dataclass(frozen=True)
class Published:
    """The augmentations of a published system: those that each view draws, and those `shared` by all."""

    about: str
    augment: tuple[Mapping[str, Any], ...]
    shared: tuple[Mapping[str, Any], ...] = ()

    def __str__(self) -> str:
        """With the numbers: ``GIM on STL-10: random_crop, flip (p 0.5)``."""
        parts = [_described(part) for part in self.augment]
        parts += [f"{_described(part)} shared by all views" for part in self.shared]
        return f"{self.about}: {', '.join(parts)}"


def _described(part: Mapping[str, Any]) -> str:
    options = ", ".join(
        f"{key} {'-'.join(f'{end:g}' for end in value) if isinstance(value, tuple) else f'{value:g}'}"
        for key, value in part.items()
        if key != "name"
    )
    return f"{part['name']} ({options})" if options else str(part["name"])


def _amdim(geometry: Mapping[str, Any], hue: float, images: str) -> Published:
    colour = {"name": "color_jitter", "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": hue, "p": 0.8}
    grey = {"name": "grayscale", "p": 0.25}
    return Published(f"AMDIM on {images}", (geometry, colour, grey), shared=({"name": "flip", "p": 0.5},))


_AMDIM_CROP = {"name": "random_resized_crop", "scale": (0.3, 1.0), "ratio": (0.7, 1.4)}

PUBLISHED: Mapping[str, Published] = {
    "amdim-cifar": _amdim({"name": "translate", "pixels": 4, "p": 0.8}, 0.2, "CIFAR"),
    "amdim-stl10": _amdim(_AMDIM_CROP, 0.2, "STL-10"),
    "amdim-imagenet": _amdim(_AMDIM_CROP, 0.1, "ImageNet and Places205"),
    # with --grayscale it is the encoder that takes one channel: its option `grey`
    "gim-vision": Published("Greedy InfoMax on STL-10", ({"name": "random_crop"}, {"name": "flip", "p": 0.5})),
}


# --- what a recipe may say -------------------------------------------------------------------------------------------


def resolve_views(options: ViewOptions, source: str) -> ViewOptions:
    """Hold every augmentation's options against its constructor, and fill in the defaults. Published sets stay names.

    Raises `RecipeError` on a name that is none, an unknown option or one of the wrong type.
    """
    return replace(
        options,
        augment=_resolved(options.augment, "views.augment", source),
        shared=_resolved(options.shared, "views.shared", source),
    )


def _resolved(given: Any, where: str, source: str) -> list[str | dict[str, Any]]:
    if not isinstance(given, list):
        return [_resolve_one(given, where, source)]
    return [_resolve_one(entry, f"{where}.{place}", source) for place, entry in enumerate(given)]


def _resolve_one(given: str | Mapping[str, Any], where: str, source: str) -> str | dict[str, Any]:
    options = {"name": given} if isinstance(given, str) else dict(given)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise RecipeError(f"{source}: {where}.name is missing: it says which augmentation to use")
    if name in PUBLISHED:
        if options:
            raise RecipeError(
                f"{source}: {where}: {name} is a published set, which has no options ({', '.join(options)})",
                f"name what it consists of: {', '.join(str(part['name']) for part in _parts(name))}",
            )
        return name
    if name not in AUGMENTATIONS:
        raise RecipeError(
            f"{source}: views: there is no augmentation {name!r}", suggest(name, [*AUGMENTATIONS, *PUBLISHED])
        )
    bound = bind(AUGMENTATIONS[name], options, where, source, skip=1)
    # a path that is not absolute means another folder when the run is resumed elsewhere
    paths = {key: value.expanduser().absolute() for key, value in bound.items() if isinstance(value, Path)}
    return {"name": name, **bound, **paths}


# --- what becomes of it ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """An augmentation, and what its random numbers are derived from beside the item's seed and the view."""

    key: tuple[str | int, ...]
    augment: Augmentation


@dataclass(frozen=True)
class Steps:
    """What is done to an item: once for all views, then for each view apart."""

    shared: tuple[Step, ...]
    own: tuple[Step, ...]


def make_steps(options: ViewOptions, data: DataSpec) -> Steps:
    """The augmentations of resolved `options`, built for `data`.

    What stands in both lists, with the same options, is shared. Raises `RecipeError` on an augmentation that is not for
    such data, or refuses its options.
    """
    shared = [part for entry in _listed(options.shared) for part in _parts(entry)]
    own = []
    for entry in _listed(options.augment):
        for_all = PUBLISHED[entry].shared if isinstance(entry, str) else ()
        own += [part for part in _parts(entry) if part not in shared and part not in for_all]
        shared += [part for part in for_all if part not in shared]
    return Steps(_steps(shared, data), _steps(own, data))


def _listed(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given]


def _parts(entry: str | Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """An augmentation, or all of a published set."""
    return (*PUBLISHED[entry].shared, *PUBLISHED[entry].augment) if isinstance(entry, str) else (entry,)


def _steps(entries: Sequence[Mapping[str, Any]], data: DataSpec) -> tuple[Step, ...]:
    """Of those of one name the first draws by its name alone, the others by their number as well."""
    met: Counter[str] = Counter()
    steps = []
    for entry in entries:
        name = str(entry["name"])
        met[name] += 1
        steps.append(Step((name,) if met[name] == 1 else (name, met[name]), _build(name, entry, data)))
    return tuple(steps)


def _build(name: str, entry: Mapping[str, Any], data: DataSpec) -> Augmentation:
    factory, medium = AUGMENTATIONS[name], kind_of(data)
    if factory.medium not in (None, medium):
        fitting = ", ".join(known for known, other in AUGMENTATIONS.items() if other.medium in (None, medium))
        what = medium or f"{' by '.join(data.axes)}"
        raise RecipeError(f"views: {name} is for {factory.medium}, and the data is {what}", f"there are: {fitting}")
    try:
        return factory(data, **{key: value for key, value in entry.items() if key != "name"})
    except ValueError as error:
        raise RecipeError(f"views: {name}: {error}") from error
