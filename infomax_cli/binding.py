"""Holding what a recipe says against a constructor: its keywords, their annotations and defaults."""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal

from infomax_cli.errors import RecipeError
from infomax_cli.wording import suggest


def bind(
    factory: Callable[..., Any], given: Mapping[str, Any], where: str, source: str, *, skip: int = 0
) -> dict[str, Any]:
    """The keywords of `factory`, checked against its annotations and filled up with its defaults.

    `where` is the dotted key of the section; the first `skip` parameters are not the recipe's business. Raises
    `RecipeError` on an unknown key, a missing one or a value of the wrong type.
    """
    open_ended = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(factory).parameters.values())
    known = options_of(factory, skip=skip)
    for key in given:
        if key not in known and not open_ended:
            accepted = f"accepted: {', '.join(known)}" if known else "it takes no options"
            hint = suggest(str(key), list(known), prefix=f"{where}.")
            raise RecipeError(f"{source}: {where}.{key} is unknown ({accepted})", hint)
    hints = keyword_types(factory)
    bound: dict[str, Any] = {}
    for name, parameter in known.items():
        if name in given:
            bound[name] = check_value(hints.get(name, Any), given[name], f"{where}.{name}", source)
        elif parameter.default is not parameter.empty:
            if _is_plain(parameter.default):
                bound[name] = parameter.default
        elif not open_ended:
            raise RecipeError(
                f"{source}: {where}.{name} is missing ({describe_type(hints.get(name, Any))})",
                f"add {where}.{name}={_placeholder(factory, name)}",
            )
    return bound | {key: value for key, value in given.items() if key not in known}


def options_of(factory: Callable[..., Any], *, skip: int = 0) -> dict[str, inspect.Parameter]:
    """The keywords that a recipe may give; the first `skip` parameters are not its business."""
    parameters = list(inspect.signature(factory).parameters.values())[skip:]
    return {p.name: p for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}


def check_value(kind: Any, value: Any, where: str, source: str) -> Any:
    """`value` as `kind` has it, or a `RecipeError` that says what is accepted."""
    from pydantic import PydanticUserError, TypeAdapter, ValidationError
    from pydantic_core import to_jsonable_python

    try:
        # JSON's rules are YAML's: a list may become a tuple, a word a path, but a string no number. What was bound
        # before, so that it is a path or a dataclass by now, is bound again to the same.
        plain = json.dumps(value, default=to_jsonable_python)
        return TypeAdapter(kind).validate_json(plain, strict=True)
    except ValidationError as error:
        refused = [detail["ctx"]["error"] for detail in error.errors() if detail["type"] == "value_error"]
        if refused:  # by a dataclass, which knows best why
            raise RecipeError(f"{source}: {refused[0]}") from None
        message = f"{source}: {where} must be {describe_type(kind)}, not {value!r}"
        raise RecipeError(message, _hint(kind, value, where)) from None
    except PydanticUserError:  # an annotation of a stranger's class, which no recipe can hold against anything
        return value


def _placeholder(factory: Callable[..., Any], name: str) -> str:
    """What stands for the value of a keyword in a hint: ``Annotated[str, "FOLDER"]`` names it."""
    kind = keyword_types(factory, include_extras=True).get(name)
    return str(typing.get_args(kind)[1]) if typing.get_origin(kind) is typing.Annotated else "..."


def keyword_types(factory: Callable[..., Any], *, include_extras: bool = False) -> dict[str, Any]:
    """What its keywords may be; with `include_extras` also what is annotated beside their types."""
    constructor = factory.__init__ if inspect.isclass(factory) else factory
    try:
        return typing.get_type_hints(constructor, include_extras=include_extras)
    except (NameError, TypeError, AttributeError):
        return {}  # names that exist for the type checker alone: such an option takes anything


def _hint(kind: Any, value: Any, where: str) -> str | None:
    """The word that was meant, or what a value of that kind looks like; None where that cannot be told."""
    alternatives = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    words = [word for each in alternatives if typing.get_origin(each) is Literal for word in typing.get_args(each)]
    if words:
        return suggest(str(value), list(map(str, words)), prefix=f"{where}=")
    return next((f"for example {where}={_EXAMPLES[each]}" for each in alternatives if each in _EXAMPLES), None)


_EXAMPLES: Mapping[Any, str] = {
    int: "8",
    float: "0.1",
    bool: "true",
    str: "name",
    list[int]: "[1, 3]",
    list[float]: "[0.1, 0.5]",
    list[str]: "[one, other]",
}


def _is_plain(value: Any) -> bool:
    """Whether a default can be written into a recipe."""
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def describe_type(kind: Any) -> str:
    """An annotation in words: ``int | None`` is "a whole number or nothing"."""
    words = {int: "a whole number", float: "a number", str: "a word", bool: "true or false", type(None): "null"}
    if kind in words:
        return words[kind]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe_type(argument) for argument in arguments)
    if origin in (list, tuple, Sequence):
        several = {int: "whole numbers", float: "numbers", str: "words"}
        count = f"{len(arguments)} " if origin is tuple and Ellipsis not in arguments else ""
        return f"a list of {count}{several.get(arguments[0], describe_type(arguments[0]))}" if arguments else "a list"
    if origin in (dict, Mapping):
        return "a mapping"
    if is_dataclass(kind):
        return f"{{{', '.join(part.name for part in fields(kind))}}}"
    return getattr(kind, "__name__", str(kind)).lower()
