"""Names from metadata, classes on demand, and one broken distribution that harms nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import pytest

from infomax_cli import registry
from infomax_cli.errors import PluginError, UsageError
from infomax_cli.registry import Plugin


class Declare(Protocol):
    def __call__(self, name: str, entry_points: str | bytes, **modules: str) -> Path: ...


@pytest.fixture
def declare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Declare:
    """Install distributions by hand, in one folder of the path: ``declare("stranger-1.0", metadata, module=code)``."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    monkeypatch.delenv("INFOMAX_PLUGINS", raising=False)

    def install(name: str, entry_points: str | bytes, **modules: str) -> Path:
        info = site / f"{name}.dist-info"
        info.mkdir()
        content = entry_points if isinstance(entry_points, bytes) else entry_points.encode()
        (info / "entry_points.txt").write_bytes(content)
        for module, code in modules.items():
            (site / f"{module}.py").write_text(code)
            monkeypatch.delitem(sys.modules, module, raising=False)
        return site

    return install


def plugin(kind: registry.Kind, qualified: str) -> Plugin:
    (found,) = [plugin for plugin in registry.available(kind) if plugin.qualified == qualified]
    return found


def test_built_ins_are_found_through_the_same_entry_points_as_anyone_s(declare: Declare) -> None:
    declare("stranger-1.0", "[infomax.losses]\nnovel = novel:Novel\n")
    assert plugin("losses", "infomax:infonce").status == "built-in"
    novel = plugin("losses", "stranger:novel")
    assert (novel.status, novel.version, novel.target) == ("plugin", "1.0", "novel:Novel")


def test_listing_imports_no_plugin_and_no_torch(foreign_site: Path) -> None:
    code = """
import sys
from infomax_cli import recipe_files, registry
names = {plugin.name for kind in registry.KINDS for plugin in registry.available(kind)}
assert {"speech_conv", "infonce", "echo_conv", "echo_tones"} <= names, names
assert [folder for owner, folder in registry.recipe_folders() if owner == "infomax-echo"]
assert recipe_files.find_recipe("gim-echo").is_file()
imported = {name.partition(".")[0] for name in sys.modules}
assert not imported & {"torch", "numpy", "infomax_plugins", "infomax_echo"}, imported
"""
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(foreign_site)}, check=True)


# --- names -----------------------------------------------------------------------------------------------------------


def test_a_built_in_name_cannot_be_taken(declare: Declare) -> None:
    declare("aardvark-1.0", "[infomax.losses]\ninfonce = novel:Novel\n", novel="class Novel: ...")
    assert registry.find("losses", "infonce").builtin
    assert plugin("losses", "aardvark:infonce").status == "shadowed"
    assert registry.load("losses", "aardvark:infonce").__name__ == "Novel"


def test_two_strangers_of_one_name_must_be_told_apart(declare: Declare) -> None:
    declare("one-1.0", "[infomax.losses]\nnovel = novel_one:Novel\n", novel_one="class Novel: ...")
    declare("Two_More-2.0", "[infomax.losses]\nnovel = novel_two:Novel\n", novel_two="class Novel: ...")
    with pytest.raises(UsageError, match="'novel' is declared by one and two-more") as caught:
        registry.load("losses", "novel")
    assert caught.value.hint == "say which: one:novel or two-more:novel"
    assert registry.load("losses", "two-more:novel").__module__ == "novel_two"
    assert registry.load("losses", "Two_More:novel").__module__ == "novel_two"


def test_one_name_may_stand_for_plugins_of_different_kinds(declare: Declare) -> None:
    declare("stranger-1.0", "[infomax.losses]\nnovel = a:A\n[infomax.encoders]\nnovel = b:B\n")
    assert registry.find("losses", "novel").target == "a:A"
    assert registry.find("encoders", "novel").target == "b:B"


def test_a_distribution_seen_twice_counts_once_and_the_first_on_the_path_wins(
    declare: Declare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare("stranger-1.0", "[infomax.losses]\nnovel = a:A\n")
    newer = tmp_path / "earlier" / "stranger-2.0.dist-info"
    newer.mkdir(parents=True)
    (newer / "entry_points.txt").write_text("[infomax.losses]\nnovel = a:A\n")
    monkeypatch.syspath_prepend(newer.parent)
    assert plugin("losses", "stranger:novel").version == "2.0"


def test_what_pip_left_behind_when_it_was_interrupted_does_not_count(declare: Declare) -> None:
    declare("~nfomax-0.1", "[infomax.losses]\ninfonce = a:A\n")
    assert [found.distribution for found in registry.available("losses") if found.name == "infonce"] == ["infomax"]


@pytest.mark.parametrize(
    ("kind", "name", "message", "hint"),
    [
        ("encoders", "speach_conv", "there is no encoder 'speach_conv'", "did you mean speech_conv?"),
        (
            "losses",
            "xyz",
            "there is no loss 'xyz'",
            "there are: amdim, coordinates, global_dim, infonce, kl, local_dim, patch_infonce, prior_matching",
        ),
        ("losses", "nobody:infonce", "there is no loss 'nobody:infonce'", "did you mean infonce?"),
        (
            "encoders",
            "infonce",
            "there is no encoder 'infonce'; 'infonce' is among the losses",
            "there are: amdim_resnet, dim_convnet, dim_resnet, resnet_patches, speech_conv",
        ),
    ],
)
def test_an_unknown_name_is_answered_with_what_there_is(
    kind: registry.Kind, name: str, message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        registry.load(kind, name)
    assert caught.value.message == message
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(hint)


# --- INFOMAX_PLUGINS -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "on"),
    [
        (None, {"one", "two-more"}),
        ("all", {"one", "two-more"}),
        ("off", set()),
        ("0", set()),
        ("", set()),
        ("two_more", {"two-more"}),
        (" one , Two.More ", {"one", "two-more"}),
        ("somebody-else", set()),
    ],
)
def test_an_environment_variable_switches_foreign_plugins_off(
    declare: Declare, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str | None, on: set[str]
) -> None:
    site = declare("one-1.0", "[infomax.losses]\nfirst = a:A\n[infomax.recipes]\nr = one_recipes\n")
    (site / "one_recipes").mkdir()
    (site / "one_recipes" / "__init__.py").touch()
    declare("Two_More-2.0", "[infomax.losses]\nsecond = b:B\n")
    if value is not None:
        monkeypatch.setenv("INFOMAX_PLUGINS", value)
    losses = registry.available("losses")
    assert {found.distribution for found in losses if found.status == "plugin"} == on
    assert any(found.status == "built-in" for found in losses)
    assert ("one" in dict(registry.recipe_folders())) == ("one" in on)


def test_a_plugin_that_is_switched_off_says_so(declare: Declare, monkeypatch: pytest.MonkeyPatch) -> None:
    declare("stranger-1.0", "[infomax.losses]\nnovel = a:A\n")
    monkeypatch.setenv("INFOMAX_PLUGINS", "off")
    with pytest.raises(UsageError, match=r"'novel' of stranger 1\.0 is switched off by INFOMAX_PLUGINS=off"):
        registry.load("losses", "novel")


# --- broken metadata -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"[infomax.losses]\nno equals sign\n",
        b"a = before any section infomax.\n",
        b"[infomax.losses]\nx = \xff\xfe:X\n",
    ],
    ids=["no value", "no section", "not UTF-8"],
)
def test_a_malformed_file_hides_no_other_distribution(declare: Declare, content: bytes) -> None:
    declare("aaa-1.0", "[infomax.losses]\nfirst = a:A\n")
    declare("mmm-1.0", content)
    declare("zzz-1.0", "[infomax.losses]\nlast = z:Z\n")
    assert {"infonce", "first", "last"} <= {found.name for found in registry.available("losses")}
    (entry,) = registry.inventory().broken
    assert (entry.distribution, entry.version, entry.name) == ("mmm", "1.0", None)
    assert entry.reason.startswith("malformed entry_points.txt: ")


def test_a_malformed_file_that_is_not_our_business_is_not_reported(declare: Declare) -> None:
    declare("aaa-1.0", "[infomax.losses]\nfirst = a:A\n")
    declare("mmm-1.0", b"[pytest11]\nno equals sign\n")
    assert registry.inventory().broken == ()
    assert plugin("losses", "aaa:first")


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("no-module:Novel", "malformed entry point 'no-module:Novel'"),
        ("100%:Novel", "malformed entry point '100%:Novel'"),
        ("novel", "'novel' names a module, not a class in it"),
    ],
)
def test_a_malformed_entry_is_named_and_its_neighbours_stay(declare: Declare, target: str, reason: str) -> None:
    declare("stranger-1.0", f"[infomax.losses]\nwrong = {target}\nright = a:A\n")
    assert plugin("losses", "stranger:right")
    (entry,) = registry.inventory().broken
    assert (entry.distribution, entry.name, entry.reason) == ("stranger", "wrong", reason)
    with pytest.raises(PluginError, match=r"loss 'wrong' of stranger 1\.0 cannot be used"):
        registry.load("losses", "wrong")


def test_a_recipe_folder_that_is_missing_is_named(declare: Declare) -> None:
    declare("stranger-1.0", "[infomax.recipes]\nmine = nowhere.recipes\n")
    assert registry.recipe_folders() == []
    (entry,) = registry.inventory().broken
    assert entry.reason == "there is no folder 'nowhere.recipes'"


# --- loading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "reason", "hint"),
    [
        ("import not_there_at_all", "ModuleNotFoundError: No module named 'not_there_at_all'", "pip install not_there"),
        ("raise OSError('libx.so: no such file\\nmore')", "OSError: libx.so: no such file", "pip uninstall stranger"),
        ("import sys; sys.exit(4)", "it exits on import, with 4", "pip uninstall stranger"),
        ("import os; os._exit(0)", "it exits on import, with 0", "pip uninstall stranger"),
        ("class Dumb(Exception):\n  def __str__(self): raise ValueError\nraise Dumb", "Dumb", "pip uninstall stranger"),
        ("class GeneratorExit_(BaseException): ...\nraise GeneratorExit_", "GeneratorExit_", "pip uninstall stranger"),
        ("syntax error", "SyntaxError: invalid syntax", "pip uninstall stranger"),
        ("Novel = 3", "novel:Novel is not a class", "pip uninstall stranger"),
        ("def Novel(): ...", "novel:Novel is not a class", "pip uninstall stranger"),
        ("", "AttributeError: module 'novel' has no attribute 'Novel'", "pip uninstall stranger"),
        (
            "from infomax_cli.errors import DataError\nraise DataError('no corpus', 'fetch it')",
            "no corpus",
            "fetch it",
        ),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_named_with_its_distribution_and_the_reason(
    declare: Declare, code: str, reason: str, hint: str
) -> None:
    declare(
        "stranger-1.0", "[infomax.losses]\nnovel = novel:Novel\nfine = fine:Fine\n", novel=code, fine="class Fine: ..."
    )
    with pytest.raises(PluginError) as caught:
        registry.load("losses", "novel")
    assert caught.value.message.startswith(f"loss 'novel' of stranger 1.0 cannot be used: {reason}")
    assert "\n" not in caught.value.message
    assert hint in (caught.value.hint or "")
    assert registry.load("losses", "fine").__name__ == "Fine"  # only its own use fails


def test_what_a_plugin_prints_on_import_is_no_result(declare: Declare, capfd: pytest.CaptureFixture[str]) -> None:
    declare("stranger-1.0", "[infomax.losses]\nnovel = novel:Novel\n", novel="print('hello')\nclass Novel: ...")
    leave = os._exit
    registry.load("losses", "novel")
    assert capfd.readouterr() == ("", "hello\n")
    assert os._exit is leave


def test_malformed_metadata_is_found_whoever_s_it_is(declare: Declare) -> None:
    declare("stranger-1.0", "[console_scripts\nno = section")
    (spoilt,) = registry.malformed()
    assert spoilt.endswith("stranger-1.0.dist-info/entry_points.txt")


def test_a_slip_in_the_list_of_allowed_plugins_is_found(declare: Declare, monkeypatch: pytest.MonkeyPatch) -> None:
    declare("stranger-1.0", "[infomax.losses]\nnovel = novel:Novel\n")
    monkeypatch.setenv("INFOMAX_PLUGINS", "stranger,stanger")
    assert registry.unknown_allowed() == ["stanger"]


def test_the_user_can_interrupt_an_import(declare: Declare) -> None:
    declare("stranger-1.0", "[infomax.losses]\nnovel = novel:Novel\n", novel="raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        registry.load("losses", "novel")


def test_without_metadata_of_its_own_infomax_says_that_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(PluginError, match="not even the built-in plugins are declared"):
        registry.load("losses", "infonce")
