"""`infomax download` as a user meets it: whole or not there, never twice, and mended where it is damaged."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from conftest import Forked, Infomax
from infomax_cli.fetching import http
from infomax_cli.fetching.catalogue import CATALOGUE
from packing import tar
from servers import Answer, Server

FILES = {f"toy/sounds/{number}.bin": random.Random(number).randbytes(40_000) for number in range(5)}
ARCHIVE = tar(FILES)
NAME = "toy.tar.gz"

# what a child process runs first: the catalogue with a dataset of the test's server
_TOY = """
from infomax_cli.fetching.catalogue import CATALOGUE, Entry, RemoteFile, Subset
from infomax_cli.fetching import http
http.CHUNK = 4096
file = RemoteFile(name="toy.tar.gz", urls=({url!r},), size={size}, digest="sha256:{digest}")
subset = Subset(folder="toy", inside="toy", files=(file,), unpacked=200_000)
CATALOGUE["toy"] = Entry(name="toy", about="a toy", subsets={{"all": subset}})
"""


@pytest.fixture
def toy(server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The catalogue of this process has it too."""
    server.files[NAME] = ARCHIVE
    digest = hashlib.sha256(ARCHIVE).hexdigest()
    code = _TOY.format(url=f"{server.url}/{NAME}", size=len(ARCHIVE), digest=digest)
    # what the code changes is set back at the end
    monkeypatch.setitem(CATALOGUE, "toy", CATALOGUE["ljspeech"])
    monkeypatch.setattr(http, "CHUNK", http.CHUNK)
    exec(code, {})
    return code


def content(folder: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(folder.parent)): path.read_bytes() for path in folder.rglob("*.bin")}
    assert (folder / ".infomax.json").exists() == bool(found)
    return found


def leftovers(root: Path) -> list[str]:
    """All but the data, and the lock that stays."""
    inside = [path for path in root.rglob("*") if path.is_file() and path.relative_to(root).parts[0] != "toy"]
    return [path.name for path in inside if path.name != ".lock"]


def test_it_is_fetched_once_and_unpacked_whole(infomax: Infomax, toy: str, server: Server, here: Path) -> None:
    done = infomax("download", "toy")
    assert done.code == 0, done.err
    assert content(here / "data" / "toy") == FILES
    assert leftovers(here / "data") == []
    again = infomax("download", "toy", "--json")
    assert [task["did"] for task in json.loads(again.out)] == ["nothing"]
    assert len(server.asked) == 1


def test_an_archive_that_is_here_is_not_fetched(infomax: Infomax, toy: str, server: Server, here: Path) -> None:
    """Kept by an earlier call, or the user's own, which stays where it is; one that is damaged is refused."""
    assert infomax("download", "toy", "--keep-archive").code == 0
    assert leftovers(here / "data") == [NAME]
    shutil.rmtree(here / "data" / "toy")
    assert infomax("download", "toy", "--keep-archive").code == 0
    assert content(here / "data" / "toy") == FILES
    (here / NAME).write_bytes(ARCHIVE)
    assert infomax("download", "toy", "--root", "other", "--file", NAME).code == 0
    assert content(here / "other" / "toy") == FILES
    assert (here / NAME).read_bytes() == ARCHIVE
    assert len(server.asked) == 1
    (here / NAME).write_bytes(ARCHIVE[:-1] + b"x")
    done = infomax("download", "toy", "--root", "third", "--file", NAME)
    assert done.code == 1
    assert done.err.splitlines()[-2] == f"error: --file {NAME}: not the published file, or damaged"
    assert not (here / "third" / "toy").exists()


def test_a_dry_run_asks_nobody_and_writes_nothing(infomax: Infomax, toy: str, server: Server, here: Path) -> None:
    done = infomax("download", "toy", "--dry-run")
    assert done.code == 0, done.err
    assert NAME in done.out
    assert server.asked == []
    assert not (here / "data").exists()


@pytest.mark.parametrize("damage", ["changed", "cut", "removed", "marker"])
def test_verify_finds_what_is_damaged_and_mends_it(
    infomax: Infomax, toy: str, server: Server, here: Path, damage: str
) -> None:
    assert infomax("download", "toy").code == 0
    assert infomax("download", "toy", "--verify").code == 0
    assert len(server.asked) == 1
    victim = here / "data" / "toy" / "sounds" / "3.bin"
    original = victim.read_bytes()
    if damage == "marker":
        marker = here / "data" / "toy" / ".infomax.json"
        marker.write_bytes(marker.read_bytes()[:20])
    elif damage == "removed":
        victim.unlink()
    else:
        victim.write_bytes(original[:-1] + (b"" if damage == "cut" else bytes([original[-1] ^ 1])))
    mended = infomax("download", "toy", "--verify", "--json")
    assert [task["did"] for task in json.loads(mended.out)] == ["mended"]
    assert content(here / "data" / "toy") == FILES
    assert len(server.asked) == 2


def test_wrong_bytes_end_in_one_line_and_nothing_is_there(
    infomax: Infomax, toy: str, server: Server, here: Path
) -> None:
    server.files[NAME] = random.Random(9).randbytes(len(ARCHIVE))
    done = infomax("download", "toy")
    assert done.code == 1
    lines = done.err.splitlines()
    assert [line.partition(":")[0] for line in lines[-2:]] == ["error", "hint"]
    assert NAME in lines[-2]
    assert not (here / "data" / "toy").exists()
    server.files[NAME] = ARCHIVE
    assert infomax("download", "toy").code == 0
    assert content(here / "data" / "toy") == FILES


def test_without_room_nothing_is_asked_for(
    infomax: Infomax, toy: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    done = infomax("download", "toy")
    assert done.code == 1
    assert "are needed in" in done.err
    assert server.asked == []


def test_what_lies_in_the_place_of_a_folder_is_said_before_anything_is_asked_for(
    infomax: Infomax, toy: str, server: Server, here: Path
) -> None:
    (here / "file").touch()
    (here / "link").symlink_to("nowhere")
    (here / "data").mkdir()
    (here / "data" / "toy").touch()
    for root, code, message in (
        (here / "file", 2, f"{here / 'file'} is a file, not a folder"),
        (here / "file" / "below", 2, f"{here / 'file'} is a file, not a folder"),
        (here / "link", 2, f"{here / 'link'} is a link that leads nowhere, not a folder"),
        (here / "data", 1, f"{here / 'data' / 'toy'} is in the way"),
    ):
        for verb in (["download", "toy"], ["download", "toy", "--dry-run"]):
            done = infomax(*verb, "--root", str(root))
            assert done.code == code
            assert done.err.startswith(f"error: {message}")
            assert done.err.splitlines()[1].startswith("hint: ")
    assert server.asked == []


def slow(server: Server) -> None:
    """Some two seconds for the whole file."""
    server.answers[NAME] = [Answer(piece=4096, pause=0.04)]


def until_some_came(root: Path) -> int:
    end = time.monotonic() + 60
    part = root / ".downloads" / "toy" / f"{NAME}.part"
    while time.monotonic() < end:
        if part.exists() and (came := part.stat().st_size) > 20_000:
            return came
        time.sleep(0.01)
    raise AssertionError("nothing came")


def test_after_a_kill_it_goes_on_from_what_had_come(
    infomax: Infomax, forked: Forked, toy: str, server: Server, here: Path
) -> None:
    slow(server)
    child = forked("download", "toy", before=toy)
    came = until_some_came(here / "data")
    child.signal(signal.SIGKILL)
    child.wait()
    assert not (here / "data" / "toy").exists()
    server.answers.clear()
    assert infomax("download", "toy").code == 0
    assert content(here / "data" / "toy") == FILES
    assert leftovers(here / "data") == []
    first, second = server.firsts(NAME)
    assert first == 0
    assert second >= came - 4096


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_say_what_is_kept(
    forked: Forked, infomax: Infomax, toy: str, server: Server, here: Path, number: signal.Signals
) -> None:
    slow(server)
    child = forked("download", "toy", before=toy)
    until_some_came(here / "data")
    child.signal(number)
    done = child.wait()
    assert done.code == 130
    assert "came and are kept in" in done.err
    assert "Traceback" not in done.err
    server.answers.clear()
    assert infomax("download", "toy").code == 0
    assert content(here / "data" / "toy") == FILES
    assert server.firsts(NAME)[-1] > 0


@pytest.mark.parametrize(
    "moment", ["before_it_is_unpacked", "half_way", "before_it_has_its_name", "before_the_archive_goes"]
)
def test_after_a_kill_while_it_is_unpacked_nothing_is_fetched_again(
    infomax: Infomax, forked: Forked, toy: str, server: Server, here: Path, moment: str
) -> None:
    die = "\nimport os, signal\nfrom infomax_cli.fetching import obtain, archives\n"
    die += "def die(*_, **__):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    die += {
        "before_it_is_unpacked": "obtain.unpack = die\n",
        "half_way": (
            "take = archives._Room.take\n"
            "def counted(self, name, source):\n"
            "    die() if len(self.taken) == 2 else take(self, name, source)\n"
            "archives._Room.take = counted\n"
        ),
        "before_it_has_its_name": "obtain.put_in_place = die\n",
        "before_the_archive_goes": "obtain._clear_away = die\n",
    }[moment]
    if moment == "before_the_archive_goes":
        die += "obtain._clear_leftovers = lambda *_: None\n"
    done = forked("download", "toy", before=toy + die).wait()
    assert done.code == -signal.SIGKILL
    named = (here / "data" / "toy").exists()
    assert named == (moment == "before_the_archive_goes")
    assert infomax("download", "toy").code == 0
    assert content(here / "data" / "toy") == FILES
    assert leftovers(here / "data") == []
    assert len(server.asked) == 1


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_stopped_while_it_is_unpacked_it_takes_nothing_half_for_whole(
    infomax: Infomax, forked: Forked, toy: str, server: Server, here: Path, number: str
) -> None:
    stop = (
        "\nimport os, signal\nfrom infomax_cli.fetching import archives\n"
        "take = archives._Room.take\n"
        "def counted(self, name, source):\n"
        f"    os.kill(os.getpid(), signal.{number}) if len(self.taken) == 2 else None\n"
        "    take(self, name, source)\n"
        "archives._Room.take = counted\n"
    )
    done = forked("download", "toy", before=toy + stop).wait()
    assert done.code == 130
    assert "came and are kept in" in done.err
    assert leftovers(here / "data") == [NAME]
    assert not (here / "data" / "toy").exists()
    assert infomax("download", "toy").code == 0
    assert content(here / "data" / "toy") == FILES
    assert len(server.asked) == 1


def test_two_at_once_are_refused(forked: Forked, infomax: Infomax, toy: str, server: Server, here: Path) -> None:
    slow(server)
    child = forked("download", "toy", before=toy)
    until_some_came(here / "data")
    second = infomax("download", "toy")
    assert second.code == 1
    assert "another process is downloading toy" in second.err
    assert child.wait().code == 0
    assert content(here / "data" / "toy") == FILES


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["toys"], "there is no dataset 'toys' to download"),
        (["toy", "--subset", "some"], "--subset some: toy has no such subset"),
        (["toy", "--mirror", "ftp://x"], "--mirror ftp://x: not an http address"),
        (["toy", "--mirror", "http://"], "--mirror http://: not an http address"),
        (["toy", "--mirror", "http://[::1"], "--mirror http://[::1: not an http address"),
        (["toy", "--mirror", "http://x:y"], "--mirror http://x:y: not an http address"),
        (["toy", "--mirror", "http://x/\u00f6"], "--mirror http://x/\u00f6: not an http address"),
        (["toy", "--file", "nowhere.tar.gz"], "--file nowhere.tar.gz: there is no such file"),
        ([], "which dataset?"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(infomax: Infomax, toy: str, words: list[str], message: str) -> None:
    done = infomax("download", *words)
    assert done.code == 2
    assert done.err.startswith(f"error: {message}")
    assert done.err.splitlines()[1].startswith("hint: ")
