"""The command line itself: help, plugins, recipes, doctor, and how errors are told."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infomax_cli import __version__, main
from infomax_cli.errors import InfomaxError, Interrupted, UsageError

# --- help ------------------------------------------------------------------------------------------------------------


def imported_by(*arguments: str) -> set[str]:
    """The modules that the command line imports on its way, sub-modules and all."""
    command = [sys.executable, "-X", "importtime", "-m", "infomax_cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}


HEAVY = {"torch", "torchaudio", "numpy", "scipy", "sklearn", "matplotlib", "tensorboard"}


def test_help_does_not_import_torch() -> None:
    imported = imported_by("--help")
    assert "typer" in imported
    light = {"pydantic", "yaml", "entrypoints", "soundfile", "rich.live", "infomax_cli.registry"}
    assert not imported & (HEAVY | light)


@pytest.mark.parametrize(
    "arguments", [["plugins"], ["recipes"], ["recipes", "show", "nothing"], ["train", "--help"], ["train", "nothing"]]
)
def test_listing_and_errors_do_not_import_torch(arguments: list[str]) -> None:
    assert not imported_by(*arguments) & HEAVY


def test_without_a_verb_there_is_help(run_cli: Any) -> None:
    done = run_cli()
    assert (done.returncode, done.stderr) == (0, "")
    for verb in ("train", "plugins", "recipes", "doctor"):
        assert verb in done.stdout
    assert done.stdout == run_cli("--help").stdout


def test_version_and_an_unknown_verb(run_cli: Any) -> None:
    assert run_cli("--version").stdout == f"infomax {__version__}\n"
    unknown = run_cli("pluginz")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "plugins" in unknown.stderr


@pytest.mark.parametrize(
    ("arguments", "message", "verb"),
    [
        (["probe", "speaker", "--depht", "3"], "error: no such option: --depht", "infomax probe"),
        (["train", "gim-syllables", "--splits", "six"], "error: invalid value for '--splits'", "infomax train"),
        (["recipes", "show"], "error: missing argument 'name'", "infomax recipes show"),
    ],
)
def test_what_the_parser_refuses_is_one_line_with_a_hint(
    run_cli: Any, arguments: list[str], message: str, verb: str
) -> None:
    done = run_cli(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    assert lines[0].startswith(message)
    assert lines[1:] == [f"hint: {verb} --help tells what there is"]


def test_a_reader_that_has_seen_enough_hears_no_complaint() -> None:
    command = f"{sys.executable} -m infomax_cli recipes show gim | true"
    quiet = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in quiet.stderr
    assert "error" not in quiet.stderr


# --- errors ----------------------------------------------------------------------------------------------------------


def run_main(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    def app(**_: Any) -> None:
        raise error

    monkeypatch.setattr(main, "app", app)
    monkeypatch.setenv("COLUMNS", "40")
    with pytest.raises(SystemExit) as caught:
        main.main()
    assert isinstance(caught.value.code, int)
    return caught.value.code


LONG = "/a/path/that/is/longer/than/any/terminal/is/wide/and must/not be/broken [bold]/or.eaten"


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (
            InfomaxError(f"cannot read {LONG}", f"look into {LONG}"),
            1,
            f"error: cannot read {LONG}\nhint: look into {LONG}\n",
        ),
        (InfomaxError("no hint"), 1, "error: no hint\n"),
        (UsageError("wrong", "right"), 2, "error: wrong\nhint: right\n"),
        (Interrupted("at step 3, saved", "--resume"), 130, "stopped: at step 3, saved\nhint: --resume\n"),
        (KeyboardInterrupt(), 130, "stopped: by Ctrl-C or SIGTERM\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", LONG),
            1,
            f"error: no space left on device: {LONG}\nhint: make room on that disk, or choose another folder\n",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "runs"),
            1,
            "error: permission denied: runs\nhint: choose a folder that you may use, or ask for the permission\n",
        ),
        (
            IsADirectoryError(errno.EISDIR, "Is a directory", ".sheet.tmp", None, "sheet"),
            1,
            "error: is a directory: sheet\nhint: a folder is where a file should be; choose another place\n",
        ),
        (
            RuntimeError("some\nthing"),
            1,
            "error: unexpected: RuntimeError: some\nhint: INFOMAX_DEBUG=1 shows where; please report it\n",
        ),
        (
            MemoryError("too much"),
            1,
            "error: out of memory: MemoryError: too much\nhint: a smaller train.batch or data.crop needs less\n",
        ),
    ],
)
def test_every_error_is_a_line_and_a_hint_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, told: str
) -> None:
    monkeypatch.delenv("INFOMAX_DEBUG", raising=False)
    assert run_main(monkeypatch, error) == code
    assert capsys.readouterr() == ("", told)


def test_infomax_debug_shows_where_and_changes_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("INFOMAX_DEBUG", "1")
    assert run_main(monkeypatch, UsageError("wrong")) == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("Traceback (most recent call last):")
    assert stderr.endswith("error: wrong\n")


def test_a_pipe_that_closes_early_is_no_error(foreign_site: Path) -> None:
    command = f"{sys.executable} -m infomax_cli plugins --json | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("{\n", "")


# --- plugins ---------------------------------------------------------------------------------------------------------


def rows(stdout: str) -> dict[str, dict[str, Any]]:
    return {f"{row['distribution']}:{row['name']}": row for row in json.loads(stdout)["plugins"]}


def test_plugins_lists_everything_by_its_metadata(run_cli: Any, foreign_site: Path, broken_site: Path) -> None:
    done = run_cli("plugins", "--json", sites=[foreign_site, broken_site])
    assert (done.returncode, done.stderr) == (0, "")
    listed = rows(done.stdout)
    assert listed["infomax:infonce"]["status"] == "built-in"
    assert listed["infomax-broken:infonce"]["status"] == "shadowed"
    assert listed["infomax-broken:hangs"]["status"] == "plugin"
    assert listed["infomax-echo:echo_tones"]["status"] == listed["infomax-broken:echo_tones"]["status"] == "ambiguous"
    assert listed["infomax-echo:echo_conv"] == {
        "kind": "encoders",
        "name": "echo_conv",
        "distribution": "infomax-echo",
        "version": "0.1.0",
        "target": "infomax_echo.encoder:EchoConv",
        "status": "plugin",
        "checked": False,
        "problem": None,
    }
    assert {entry["name"] for entry in json.loads(done.stdout)["broken"]} == {"malformed", "broken"}


def test_the_table_of_plugins_says_what_their_status_means(run_cli: Any, broken_site: Path) -> None:
    done = run_cli("plugins", "losses", sites=[broken_site])
    assert "infomax_broken.sound:Impostor" in done.stdout
    assert "a built-in has that name; pick it as infomax-broken:infonce" in done.stderr
    off = run_cli("plugins", "losses", sites=[broken_site], env={"INFOMAX_PLUGINS": "off"})
    assert "switched off by INFOMAX_PLUGINS" in off.stderr


def test_check_names_every_broken_plugin_with_the_reason_and_harms_no_other(
    run_cli: Any, foreign_site: Path, broken_site: Path
) -> None:
    done = run_cli(
        "plugins",
        "--check",
        "--json",
        "--time-limit",
        "10",
        "infomax-broken",
        "echo_conv",
        sites=[foreign_site, broken_site],
    )
    assert done.returncode == 1
    problems = {name: row["problem"] for name, row in rows(done.stdout).items()}
    assert problems == {
        "infomax-broken:needs_missing": "ModuleNotFoundError: No module named 'a_library_that_is_not_there'",
        "infomax-broken:quits": "it exits on import, with 3",
        "infomax-broken:quits_hard": "it exits on import, with 0",
        "infomax-broken:crashes": "when it is imported: killed by SIGSEGV",
        "infomax-broken:hangs": "when it is imported: no answer within 10 s",
        "infomax-broken:not_a_class": "infomax_broken.sound:make_encoder is not a class",
        "infomax-broken:not_a_module": "it is not a torch.nn.Module",
        "infomax-broken:gone": "AttributeError: module 'infomax_broken.sound' has no attribute 'Gone'",
        "infomax-broken:infonce": "it is not a torch.nn.Module",
        "infomax-broken:incomplete": "it has no download()",
        "infomax-broken:echo_tones": "it has no download()",
        "infomax-echo:echo_conv": None,
    }


def test_check_is_content_with_what_is_sound(run_cli: Any, foreign_site: Path) -> None:
    done = run_cli("plugins", "--check", "echo_conv", "infonce", sites=[foreign_site])
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("works") == 2


def test_asking_for_a_plugin_that_is_not_there_is_a_usage_error(run_cli: Any) -> None:
    done = run_cli("plugins", "infonse")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: there is no plugin, distribution or kind 'infonse'\nhint: did you mean infonce?\n"


# --- recipes ---------------------------------------------------------------------------------------------------------


def test_recipes_lists_ours_and_the_plugins_with_what_they_are(run_cli: Any, foreign_site: Path) -> None:
    listed = {row["name"]: row for row in json.loads(run_cli("recipes", "--json", sites=[foreign_site]).stdout)}
    assert listed["gim"]["from"] == "infomax"
    assert listed["gim-echo"]["from"] == "infomax-echo"
    assert listed["gim-echo"]["about"].startswith("Greedy InfoMax on tones")
    table = run_cli("recipes", "list", sites=[foreign_site]).stdout
    assert "Greedy InfoMax on tones" in table
    assert table == run_cli("recipes", sites=[foreign_site]).stdout
    assert "gim-echo" not in run_cli("recipes", sites=[foreign_site], env={"INFOMAX_PLUGINS": "off"}).stdout


def test_show_prints_the_file_as_it_is(run_cli: Any, foreign_site: Path) -> None:
    text = (foreign_site / "infomax_echo" / "recipes" / "gim-echo.yaml").read_text()
    assert run_cli("recipes", "show", "gim-echo", sites=[foreign_site]).stdout == text


def test_copy_never_overwrites_unless_told_to(run_cli: Any, tmp_path: Path) -> None:
    original = run_cli("recipes", "show", "gim").stdout
    assert run_cli("recipes", "copy", "gim").returncode == 0
    assert (tmp_path / "gim.yaml").read_text() == original
    (tmp_path / "gim.yaml").write_text("mine")
    refused = run_cli("recipes", "copy", "gim")
    assert refused.returncode == 2
    assert refused.stderr == "error: gim.yaml is there already\nhint: give another name, or --force to replace it\n"
    assert (tmp_path / "gim.yaml").read_text() == "mine"
    assert run_cli("recipes", "copy", "gim", "--force").returncode == 0
    assert (tmp_path / "gim.yaml").read_text() == original


@pytest.mark.parametrize(
    ("destination", "file"),
    [("folder", "folder/gim.yaml"), ("mine", "mine.yaml"), ("new/mine.yml", "new/mine.yml"), ("v1.2", "v1.2.yaml")],
)
def test_copy_puts_the_file_where_it_can_be_trained_from(
    run_cli: Any, tmp_path: Path, destination: str, file: str
) -> None:
    (tmp_path / "folder").mkdir()
    done = run_cli("recipes", "copy", "gim", destination)
    assert (tmp_path / file).is_file()
    assert done.stdout == f"{file}: a copy of gim; train it with: infomax train {file}\n"


def test_an_unknown_recipe_is_answered_with_the_closest(run_cli: Any) -> None:
    done = run_cli("recipes", "show", "gimm")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: there is no recipe 'gimm'\nhint: did you mean gim? (`infomax recipes` lists them)\n"


def test_a_folder_that_cannot_be_written_is_named(run_cli: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run_cli("recipes", "copy", "gim", "file/gim.yaml")
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot write file/gim.yaml: ")
    assert len(done.stderr.splitlines()) == 2


# --- doctor ----------------------------------------------------------------------------------------------------------


def test_doctor_finds_a_sound_machine_sound(run_cli: Any, tmp_path: Path) -> None:
    done = run_cli("doctor", "--json", env={"INFOMAX_PLUGINS": "off"})
    found = json.loads(done.stdout)
    assert done.returncode == 0, found["problems"]
    assert found["sound"]
    assert found["versions"]["infomax"] == __version__
    assert found["libraries"]["torch"]["version"]
    assert "libsndfile" in found["libraries"]["soundfile"]["notes"][0]
    assert found["devices"]["cpu"]["threads"] >= 1
    assert found["folders"]["data"]["path"] == str(tmp_path / "home" / "data")
    assert found["data"] == []
    assert found["folders"]["cache"]["variable"] == "INFOMAX_CACHE"
    assert found["folders"]["runs"] == found["folders"]["runs"] | {"path": str(tmp_path / "runs"), "exists": False}
    assert all(row["checked"] and row["problem"] is None for row in found["plugins"])


def fake(folder: Path, **modules: str) -> Path:
    for name, code in modules.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(code)
    return folder


def test_doctor_works_where_torch_does_not_and_says_what_to_do(run_cli: Any, tmp_path: Path, broken_site: Path) -> None:
    site = fake(
        tmp_path / "fake",
        torch="raise OSError('libtorch_cuda.so: cannot open shared object file')",
        torchaudio="import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    )
    (tmp_path / "file").write_text("")
    env = {"INFOMAX_DATA": str(tmp_path / "file" / "data")}
    done = run_cli("doctor", sites=[site, broken_site], env=env)
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    for expected in (
        "broken: torch: OSError: libtorch_cuda.so: cannot open shared object file\n"
        "  costs: nothing can be trained or probed\n"
        "  do:    pip install --force-reinstall torch\n",
        "note: torchaudio: killed by SIGSEGV\n  costs: the MFCC baseline",
        f"note: data folder {tmp_path}/file/data: {tmp_path}/file is not a folder\n  costs: ",
        "note: infomax-broken: malformed: malformed entry point",
        "The main job cannot be done.",
    ):
        assert expected in done.stdout


def test_doctor_names_broken_foreign_plugins_and_stays_calm(
    run_cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from infomax_cli import diagnosis, registry

    info = tmp_path / "site" / "stranger-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "entry_points.txt").write_text("[infomax.losses]\nnovel = not_there_at_all:Novel\n")
    monkeypatch.syspath_prepend(info.parent)
    monkeypatch.setattr(diagnosis, "LIBRARIES", [lib for lib in diagnosis.LIBRARIES if lib.module == "torch"])
    everything = registry.inventory()
    two = tuple(plugin for plugin in everything.plugins if plugin.name in ("novel", "infonce"))
    monkeypatch.setattr(registry, "inventory", lambda: replace(everything, plugins=two))
    found = diagnosis.diagnose(limit=120, progress=lambda _: None)
    (problem,) = [problem for problem in found.problems if "stranger" in problem.what]
    assert problem.what == "loss 'novel' of stranger 1.0: ModuleNotFoundError: No module named 'not_there_at_all'"
    assert problem.remedy == "pip uninstall stranger"
    assert not problem.essential
    assert found.sound


def test_a_missing_library_is_not_installed_and_one_that_raises_says_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from infomax_cli.checks import library_facts

    monkeypatch.syspath_prepend(fake(tmp_path, raises_on_import="import not_there_at_all"))
    assert library_facts("not_there_at_all", "not-there")["problem"] == "not installed"
    problem = library_facts("raises_on_import", "not-there")["problem"]
    assert problem == "ModuleNotFoundError: No module named 'not_there_at_all'"


def test_an_interruption_while_it_is_being_imported_is_quiet() -> None:
    """As `site-packages` and torch are read, Ctrl-C may come at any line of anybody's."""
    code = (
        "import sys, importlib.abc\n"
        "class Impatient(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'typer': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Impatient())\n"
        "from infomax_cli.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


# --- views -----------------------------------------------------------------------------------------------------------


def test_views_lists_augmentations_and_the_numbers_of_published_sets(run_cli: Any) -> None:
    listed = " ".join(run_cli("views", env={"COLUMNS": "400"}).stdout.split())
    assert "│ noise │ sound │ Noise `snr` decibels below the sound" in listed
    assert "AMDIM on CIFAR: translate (pixels 4, p 0.8), color_jitter (brightness 0.4" in listed
    assert "flip (p 0.5) shared by all views" in listed


def test_views_tells_the_options_of_one_and_refuses_a_name_that_is_none(run_cli: Any) -> None:
    told = run_cli("views", "color_jitter").stdout
    assert "Brightness, contrast and saturation times a factor" in told
    assert "hue         a number  0.1" in told
    done = run_cli("views", "colour_jitter")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: there is no augmentation 'colour_jitter'\nhint: did you mean color_jitter?\n"
