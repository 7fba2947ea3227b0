"""Which file a recipe's name picks."""

from __future__ import annotations

from pathlib import Path

import pytest

from infomax_cli import recipe_files, registry
from infomax_cli.errors import RecipeError
from infomax_cli.recipe_files import find_recipe, list_recipes


@pytest.fixture
def shelves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Built-in recipes a and b; recipes b, c and d of plugin one; c of plugin two."""
    for owner, names in {"infomax": "ab", "one": "bcd", "two": "c"}.items():
        (tmp_path / owner).mkdir()
        for name in names:
            (tmp_path / owner / f"{name}.yaml").write_text(
                f"# {owner}'s {name}.\n#\n# Cost: none\ndata: x  # not this\n"
            )
    (tmp_path / "one" / "README.md").write_text("no recipe")
    monkeypatch.setattr(recipe_files, "builtin_folder", lambda: tmp_path / "infomax")
    monkeypatch.setattr(registry, "recipe_folders", lambda: [("one", tmp_path / "one"), ("two", tmp_path / "two")])
    return tmp_path


def test_every_recipe_is_listed_under_a_name_that_picks_it(shelves: Path) -> None:
    listed = list_recipes()
    assert [recipe.name for recipe in listed] == ["a", "b", "one:b", "one:c", "d", "two:c"]
    for recipe in listed:
        assert find_recipe(recipe.name) == recipe.path


def test_the_header_is_the_comment_at_the_top(shelves: Path) -> None:
    assert list_recipes()[0].header == "infomax's a.\n\nCost: none"


def test_a_built_in_name_wins_over_a_plugin_s(shelves: Path) -> None:
    assert find_recipe("b") == shelves / "infomax" / "b.yaml"
    assert find_recipe("infomax:b") == shelves / "infomax" / "b.yaml"
    assert find_recipe("one:b") == shelves / "one" / "b.yaml"
    assert find_recipe("One:d") == shelves / "one" / "d.yaml"


def test_a_path_is_taken_as_it_is(shelves: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shelves / "two")
    assert find_recipe("c.yaml") == Path("c.yaml")
    assert find_recipe("../one/d.yaml") == Path("../one/d.yaml")
    monkeypatch.setenv("HOME", str(shelves))
    assert find_recipe("~/one/d.yaml") == shelves / "one" / "d.yaml"


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("c", "the recipe 'c' comes from several plugins", "say which: one:c or two:c"),
        ("nothing", "there is no recipe 'nothing'", "there are: a, b, one:b"),
        ("two:d", "there is no recipe 'two:d'", "did you mean two:c?"),
        ("a.yaml", "there is no recipe file a.yaml", "the recipe that comes with infomax is called a"),
        ("none/at/all.yaml", "there is no recipe file none/at/all.yaml", "`infomax recipes` lists"),
        ("./", "./ is a folder, not a recipe", "name a .yaml file in it"),
    ],
)
def test_a_name_that_picks_nothing_is_answered_with_what_there_is(
    shelves: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, message: str, hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError) as caught:
        find_recipe(name)
    assert caught.value.message == message
    assert hint in (caught.value.hint or "")


def test_the_built_in_recipes_are_there() -> None:
    assert find_recipe("gim").name == "gim.yaml"
