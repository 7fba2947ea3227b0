"""The YAML that recipes are written in: plain data, no surprises."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import yaml

from infomax_cli.errors import RecipeError
from infomax_cli.wording import describe_error


class _Loader(yaml.SafeLoader):
    """YAML whose floats may be written ``1e-3``, whose dates are words, and whose keys may not stand twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice[0]!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes the words that `_Loader` would take for floats."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_FLOAT = ("tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789"))
_Loader.add_implicit_resolver(*_FLOAT)
_Dumper.add_implicit_resolver(*_FLOAT)


def parse_yaml(text: str, source: str) -> Any:
    """Plain data: mappings with words as keys, lists, words, numbers, true, false and null."""
    try:
        # through JSON, which knows no sets, dates, bytes or circles
        return json.loads(json.dumps(yaml.load(text, _Loader)))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{source}:{mark.line + 1}" if mark else source
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise RecipeError(f"{place}: not valid YAML: {problem}", "`infomax recipes show gim` is an example") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise RecipeError(
            f"{source}: not a recipe: {describe_error(error)}", "it may hold words, numbers, lists and mappings"
        ) from error


def inline(plain: Any) -> str:
    """Plain data as it is written within a line: ``null``, ``[1, 3]``, ``{name: kl}``."""
    text = yaml.dump(
        plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=True, width=math.inf
    )
    return text.removesuffix("...\n").strip()


def dump_yaml(plain: Any) -> str:
    """Plain data as `parse_yaml` takes it back, keys in their order."""
    return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None)
