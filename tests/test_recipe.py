"""Recipes: what they may say, and what is said where they may not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

import tiny
from infomax_cli.binding import bind, describe_type
from infomax_cli.dialect import parse_yaml
from infomax_cli.errors import RecipeError
from infomax_cli.overrides import apply_overrides
from infomax_cli.recipe import Milestones, Recipe, differences, parse, read_recipe
from tiny import RECIPE

RAW: dict[str, Any] = yaml.safe_load(RECIPE)
TWO = {**RAW, "loss": ["infonce", {"name": "supervised", "label": "speaker"}]}
TWINS = {**RAW, "loss": [{"name": "infonce", "steps": 1}, {"name": "infonce", "steps": 2}]}


def changed(*overrides: str, raw: dict[str, Any] | None = None) -> dict[str, Any]:
    return apply_overrides(RAW if raw is None else raw, overrides)


def recipe(*overrides: str, **sections: Any) -> Recipe:
    return parse(apply_overrides({**RAW, **sections}, overrides), "my.yaml")


def refused(error: pytest.ExceptionInfo[RecipeError], *, lines: int = 1) -> tuple[str, str]:
    assert len(error.value.message.splitlines()) == lines
    return error.value.message, error.value.hint or ""


# --- YAML ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("2E5", 2e5), ("-1e-3", -0.001), (".5e3", 500.0), ("1.e2", 100.0), ("2.0e-4", 2e-4), ("7", 7),
        ("1e", "1e"), ("e5", "e5"), ("2024-01-01", "2024-01-01"), ("[1,3]", [1, 3]), ("null", None), ("", None),
        ("none", "none"), ("true", True), ("a=b=c", "a=b=c"), ("'1e-3'", "1e-3"),
    ],
)  # fmt: skip
def test_values_are_read_as_people_write_them(text: str, value: object) -> None:
    found = parse_yaml(text, "x")
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [1, 2", "my.yaml:1: not valid YAML: "),
        ("a: 1\nb: {c: 1, c: 2}\n", "my.yaml:2: not valid YAML: key 'c' stands twice"),
        ("a: 1\na: 2\n", "my.yaml:1: not valid YAML: key 'a' stands twice"),
        ("a: 1\n\tb: 2\n", "my.yaml:2: not valid YAML: found character '\\t' that cannot start any token"),
        ("a: !!python/object/apply:os.getcwd []", "my.yaml:1: not valid YAML: could not determine a constructor"),
        ("{[a]: 1}", "my.yaml:1: not valid YAML: found unhashable key"),
        ("&a [*a]", "my.yaml: not a recipe: ValueError: Circular reference detected"),
        ("!!set {a, b}", "my.yaml: not a recipe: TypeError: "),
        ("!!binary aGVsbG8=", "my.yaml: not a recipe: TypeError: "),
        ("!!timestamp 2024-01-01", "my.yaml: not a recipe: TypeError: "),
        ("!!int nine", "my.yaml: not a recipe: ValueError: "),
        ("[" * 2000, "my.yaml: not a recipe: RecursionError: "),
        ("a: \x00", "my.yaml: not valid YAML: "),
    ],
)
def test_what_is_no_plain_yaml_is_a_line_with_its_place(text: str, told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_yaml(text, "my.yaml")
    message, _ = refused(caught)
    assert message.startswith(told)


def test_a_recipe_file_gives_its_sections_and_its_name(tmp_path: Path) -> None:
    path = tiny.write_recipe(tmp_path, name="mine")
    raw = read_recipe(path)
    assert raw["name"] == "mine"
    assert raw["train"]["lr"] == 0.01
    path.write_text("name: other\n" + path.read_text())
    assert read_recipe(path)["name"] == "other"


@pytest.mark.parametrize("data", [b"", b"- a\n- b\n", b"just words", b"\xff\xfe\x00"])
def test_a_file_that_is_no_mapping_is_told(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(data)
    with pytest.raises(RecipeError, match=r"mine\.yaml.*(a recipe is a mapping|not UTF-8 text)"):
        read_recipe(path)
    with pytest.raises(RecipeError, match=r"cannot read the recipe .*: No such file"):
        read_recipe(tmp_path / "none.yaml")


# --- overrides -------------------------------------------------------------------------------------------------------


def test_overrides_change_a_copy() -> None:
    before = yaml.safe_load(RECIPE)
    made = changed("train.lr=1e-3", "train.betas=[0.8,0.9]", "cut=[1,3]", "data.unit=syllable", " train.seed = 4 ")
    assert before == RAW
    assert made["train"] == {**RAW["train"], "lr": 0.001, "betas": [0.8, 0.9], "seed": 4}
    assert (made["cut"], made["data"]["unit"]) == ([1, 3], "syllable")


def test_a_number_picks_from_a_list_and_a_word_there_is_a_mapping_of_that_name() -> None:
    raw = {**RAW, "views": {"augment": ["flip", {"name": "noise", "snr": 3}]}}
    overrides = ("views.augment.0.p=0.3", "views.augment.1.snr=[0,5]", "train.betas=[0.9,0.99]", "train.betas.0=0.8")
    made = changed(*overrides, raw=raw)
    assert made["views"]["augment"] == [{"name": "flip", "p": 0.3}, {"name": "noise", "snr": [0, 5]}]
    assert made["train"]["betas"] == [0.8, 0.99]
    assert changed("views.augment.1=gain", raw=raw)["views"]["augment"] == ["flip", "gain"]
    for key in ("views.augment.2.p", "views.augment.flip.p", "views.augment.2"):
        with pytest.raises(RecipeError, match="'augment' has nothing below it"):
            changed(f"{key}=1", raw=raw)


def test_a_value_may_hold_an_equals_sign() -> None:
    assert changed("data.root=/tmp/a=b")["data"]["root"] == "/tmp/a=b"


def test_the_last_of_two_overrides_wins() -> None:
    assert changed("train.lr=1", "train.lr=2")["train"]["lr"] == 2


def test_sections_that_are_not_there_are_made() -> None:
    made = changed("views.count=2", "train.schedule.at=[3,4]", "sampling.eval=sample")
    assert made["views"] == {"count": 2}
    assert made["train"]["schedule"] == {"at": [3, 4]}
    assert parse(made, "x").train.schedule == Milestones(at=[3, 4])


@pytest.mark.parametrize(
    ("raw", "overrides", "loss"),
    [
        (RAW, ["loss.negatives=16"], [{"name": "infonce", "steps": 3, "negatives": 16}]),
        (RAW, ["loss.infonce.negatives=16"], [{"name": "infonce", "steps": 3, "negatives": 16}]),
        (RAW, ["loss.0.negatives=16"], [{"name": "infonce", "steps": 3, "negatives": 16}]),
        ({**RAW, "loss": "infonce"}, ["loss.steps=2"], [{"name": "infonce", "steps": 2}]),
        ({**RAW, "loss": ["infonce"]}, ["loss.weight=2"], [{"name": "infonce", "weight": 2}]),
        (RAW, ["loss=infonce", "loss.steps=2"], [{"name": "infonce", "steps": 2}]),
        (TWO, ["loss.0.weight=2", "loss.supervised.detach=true"],
         [{"name": "infonce", "weight": 2}, {"name": "supervised", "label": "speaker", "detach": True}]),
        (TWO, ["loss.1=infonce"], [{"name": "infonce"}, "infonce"]),
        (TWINS, ["loss.1.weight=2"], [{"name": "infonce", "steps": 1}, {"name": "infonce", "steps": 2, "weight": 2}]),
        ({**RAW, "loss": {"name": "kl", "kl": 1}}, ["loss.kl=2"], [{"name": "kl", "kl": 2}]),
    ],
)  # fmt: skip
def test_losses_are_reached_by_place_by_name_and_a_single_one_at_once(
    raw: dict[str, Any], overrides: list[str], loss: list[Any]
) -> None:
    assert changed(*overrides, raw=raw)["loss"] == loss


@pytest.mark.parametrize(
    ("raw", "override", "told", "hint"),
    [
        (RAW, "train.lr", "train.lr: an override is KEY=VALUE", "for example train.lr=1e-3"),
        (RAW, "=3", "=3: an override is KEY=VALUE", "for example"),
        (RAW, "train..lr=3", "train..lr=3: an override is KEY=VALUE", "for example"),
        (RAW, "trian.lr=3", "trian.lr=3: there is no section 'trian'", "did you mean train?"),
        (RAW, "train.lr={a", "train.lr={a:1: not valid YAML: ", ""),
        (RAW, "train.lr.x=3", "train.lr.x=3: 'lr' has nothing below it: it is 0.01", ""),
        (RAW, "cut.x=3", "cut.x=3: 'cut' has nothing below it: it is 'each'", ""),
        (TWO, "loss.weight=2", "loss.weight=2: there is no loss 'weight' among 2",
         "name one of: loss.0 (infonce), loss.1 (supervised)"),
        (TWO, "loss.2.weight=2", "loss.2.weight=2: there is no loss '2' among 2", "name one of: "),
        (RAW, "loss.1.weight=2", "loss.1.weight=2: there is no loss '1' among 1", "name one of: loss.0 (infonce)"),
        (TWINS, "loss.infonce.weight=2", "loss.infonce.weight=2: there are 2 losses 'infonce'",
         "name one of: loss.0 (infonce), loss.1 (infonce)"),
        ({**RAW, "loss": [3]}, "loss.weight=2", "loss.weight=2: 'weight' has nothing below it: it is 3", ""),
    ],
)  # fmt: skip
def test_an_override_that_reaches_nothing_says_why(raw: dict[str, Any], override: str, told: str, hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        changed(override, raw=raw)
    message, found = refused(caught)
    assert message.startswith(told)
    assert hint in found


def test_of_steps_and_epochs_the_one_given_takes_the_other_s_place() -> None:
    assert "steps" not in changed("train.epochs=3")["train"]
    epochs = {**RAW, "train": {"epochs": 1000}}
    assert changed("train.steps=10", raw=epochs)["train"] == {"steps": 10}
    with pytest.raises(RecipeError, match=r"give either train\.epochs or train\.steps"):
        recipe("train.epochs=3", "train.steps=4")


# --- the form of a recipe --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.batch=0", "train.batch must be at least 1, not 0"),
        ("train.steps=0", "train.steps must be at least 1, not 0"),
        ("train.steps=1e3", "train.steps must be a whole number or null, not 1000.0"),
        ("train.batch=true", "train.batch must be a whole number, not True"),
        ("train.batch='8'", "train.batch must be a whole number, not '8'"),
        ("train.lr=0", "train.lr must be above 0, not 0.0"),
        ("train.lr=.nan", "train.lr must be above 0, not nan"),
        ("train.lr=.inf", "train.lr must be above 0, not inf"),
        ("train.lr=fast", "train.lr must be a number, not 'fast'"),
        ("train.clip=-1", "train.clip must be above 0, not -1.0"),
        ("train.momentum=-1", "train.momentum must be at least 0, not -1.0"),
        ("train.block=-1", "train.block must be at least 0, not -1"),
        ("train.betas=[0.9]", "train.betas takes two numbers of at least 0 and below 1, not [0.9]"),
        ("train.betas=[0.9,1.0]", "train.betas takes two numbers of at least 0 and below 1, not [0.9, 1.0]"),
        ("train.amp=banana", "train.amp must be one of none, bf16, fp16, not 'banana'"),
        (
            "train.schedule=banana",
            "train.schedule must be one of constant, cosine, linear or {at, factor}, not 'banana'",
        ),
        ("train.schedule={at: [1], factor: 0}", "train.schedule.factor must be above 0, not 0.0"),
        ("train.tsne={every: 0}", "train.tsne.every must be at least 1, not 0"),
        ("train={}", "the section 'train' is missing"),
        ("train=5", "train must be a mapping, not 5"),
        ("train.stpes=4", "train.stpes is unknown (accepted: epochs, steps, "),
        ("loss=[]", "the section 'loss' is missing"),
        ("loss=[3]", "loss must be a mapping, such as {name: ..., key: value}, not 3"),
        ("loss={steps: 3}", "loss.name is missing: it says which plugin to use"),
        ("loss.weight=heavy", "loss.weight must be a number, not 'heavy'"),
        ("loss.weight=.nan", "loss.weight must be a finite number, not nan"),
        ("loss.blocks=2", "loss.blocks must be a list of whole numbers or null, not 2"),
        ("data={}", "the section 'data' is missing"),
        ("data.root=5", "data.root must be a path"),
        ("encoder=5", "encoder must be a mapping"),
        ("encoder.name=null", "encoder.name is missing"),
        ("cut=2", "cut must be one of none, each or a list of whole numbers, not 2"),
        ("cut=every", "cut must be one of none, each or a list of whole numbers, not 'every'"),
        ("cut=[1,x]", "cut must be"),
        ("views=gain", "views must be a mapping, not 'gain'"),
        ("views.augment=5", "views.augment must be a word or a mapping or a list of a word or a mapping, not 5"),
        ("views.count=0", "views.count must be at least 1, not 0"),
        ("sampling.eval=mode", "sampling.eval must be one of mean, sample, not 'mode'"),
        ("name=a/b", "name must be a word that can name a folder, not 'a/b'"),
        ("name=5", "name must be a word that can name a folder, not 5"),
    ],
)
def test_what_a_recipe_may_not_say_is_a_line_with_file_and_key(override: str, told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe(override)
    message, _ = refused(caught)
    assert message.startswith(f"my.yaml: {told}")


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("train.steps=two", "for example train.steps=8"),
        ("train.lr=fast", "for example train.lr=0.1"),
        ("train.cache=1", "for example train.cache=true"),
        ("train.betas=0.9", "for example train.betas=[0.1, 0.5]"),
        ("loss.blocks=2", "for example loss.blocks=[1, 3]"),
        ("train.amp=bf17", "did you mean train.amp=bf16?"),
        ("train.optimizer=lion", "there are: adam, adamw, sgd"),
    ],
)
def test_a_value_of_the_wrong_kind_is_answered_with_one_of_the_right(override: str, hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe(override)
    assert caught.value.hint == hint


@pytest.mark.parametrize(("key", "closest"), [("trian", "did you mean train?"), ("losses", "did you mean loss?")])
def test_an_unknown_section_is_answered_with_the_closest(key: str, closest: str) -> None:
    with pytest.raises(RecipeError, match=f"my.yaml: there is no section '{key}'") as caught:
        parse({**RAW, key: {}}, "my.yaml")
    assert caught.value.hint == closest


def test_an_unknown_key_of_a_section_is_answered_with_the_closest() -> None:
    with pytest.raises(RecipeError) as caught:
        recipe("train.stpes=4")
    assert caught.value.hint == "did you mean train.steps?"


def test_a_recipe_written_out_is_read_back_the_same(tmp_path: Path) -> None:
    made = recipe(
        "train.schedule={at: [3, 4], factor: 0.5}", "train.lr=1e-8", "cut=[1,3]",
        "views={augment: [{name: noise, snr: 3}], count: 2}",
        "data.split='1e5'", "data.day='2024-01-01'", "data.yes='no'", "data.empty=''", "data.name=ünï",
        "loss=[{name: infonce, weight: 0.5, blocks: [0, 2]}, {name: infonce}]", "data.root='/a: b #c'", "data.n=null",
    )  # fmt: skip
    path = tmp_path / "tiny.yaml"
    path.write_text(made.to_yaml())
    again = parse(read_recipe(path), "my.yaml")
    assert again.to_dict() == made.to_dict()
    assert again.train == made.train
    assert again.losses == made.losses
    assert again.root == "/a: b #c"


def test_differences_are_dotted_keys() -> None:
    assert differences(recipe(), recipe()) == []
    assert differences(recipe(), recipe("train.lr=1", "loss.steps=9", "loss.more=1", "cut=none")) == [
        "cut", "loss.0.steps", "loss.0.more", "train.lr",
    ]  # fmt: skip
    assert differences(recipe(), recipe("loss=[infonce, kl]")) == ["loss"]


# --- holding keys against a constructor ------------------------------------------------------------------------------


@dataclass
class Shape:
    width: int
    height: int = 2


class Plugin:
    def __init__(
        self,
        spec: object,
        *,
        steps: int | list[int],
        kind: Literal["a", "b"] = "a",
        scale: float = 1.0,
        path: Path | None = None,
        pair: tuple[int, int] = (1, 2),
        shape: Shape | None = None,
        anything: object = None,
    ) -> None:
        del spec, steps, kind, scale, path, pair, shape, anything


def test_keys_are_bound_and_defaults_filled_in() -> None:
    given = {"steps": [1, 2], "scale": 3, "path": "/a", "pair": [3, 4], "shape": {"width": 5}}
    bound = bind(Plugin, given, "loss", "my.yaml", skip=1)
    assert bound == {
        "steps": [1, 2], "kind": "a", "scale": 3.0, "path": Path("/a"), "pair": (3, 4), "shape": Shape(5),
        "anything": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "loss.steps is missing (a whole number or a list of whole numbers)"),
        ({"steps": "x"}, "loss.steps must be a whole number or a list of whole numbers, not 'x'"),
        ({"steps": 1, "kind": "c"}, "loss.kind must be one of a, b, not 'c'"),
        ({"steps": 1, "scale": True}, "loss.scale must be a number, not True"),
        ({"steps": 1, "shape": {"with": 5}}, "loss.shape must be {width, height} or null, not {'with': 5}"),
        ({"steps": 1, "spec": 1}, "loss.spec is unknown (accepted: steps, kind, scale, path, pair, shape, anything)"),
        ({"steps": 1, "stesp": 1}, "loss.stesp is unknown"),
    ],
)
def test_keys_that_do_not_fit_the_constructor_are_told(given: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        bind(Plugin, given, "loss", "my.yaml", skip=1)
    assert refused(caught)[0].startswith(f"my.yaml: {told}")


def test_what_annotations_make_of_words_is_written_as_words() -> None:
    bound = bind(Plugin, {"steps": 1, "path": "/a", "shape": {"width": 5}}, "encoder", "my.yaml", skip=1)
    made = recipe(encoder={"name": "x", **bound})
    assert made.to_dict()["encoder"]["path"] == "/a"
    assert yaml.safe_load(made.to_yaml())["encoder"]["shape"] == {"width": 5, "height": 2}


def test_a_constructor_whose_annotations_mean_nothing_to_us_takes_anything() -> None:
    class Strange:
        def __init__(self, x: NotThere, *, y: yaml.Loader = None) -> None:  # type: ignore[name-defined]  # noqa: F821
            del x, y

    assert bind(Strange, {"x": [1], "y": 2}, "loss", "my.yaml") == {"x": [1], "y": 2}

    class Odd:
        def __init__(self, *, loader: yaml.Loader) -> None:
            del loader

    assert bind(Odd, {"loader": 2}, "loss", "my.yaml") == {"loader": 2}


def test_a_constructor_of_open_ended_keys_takes_them_all() -> None:
    def make(*, a: int = 1, **rest: object) -> None:
        del a, rest

    assert bind(make, {"b": 2}, "loss", "my.yaml") == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("kind", "words"),
    [(int | None, "a whole number or null"), (list[str], "a list of words"), (bool, "true or false"), (Path, "path"),
     (list[list[int]], "a list of a list of whole numbers"), (tuple[float, ...], "a list of numbers"),
     (float | tuple[float, float], "a number or a list of 2 numbers"), (str | dict[str, Any], "a word or a mapping")],
)  # fmt: skip
def test_types_are_told_in_words(kind: Any, words: str) -> None:
    assert describe_type(kind) == words
