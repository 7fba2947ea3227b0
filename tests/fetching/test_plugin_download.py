"""A stranger's dataset that says of what it consists (`downloads`) is fetched, checked and mended as our own are."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from conftest import Infomax
from packing import tar
from processes import Outcome
from servers import Server

Run = Callable[..., Outcome]


def _sound(number: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.1 * np.random.default_rng(number).standard_normal(2000), 16000, format="WAV")
    return buffer.getvalue()


@pytest.fixture
def clicks(server: Server, infomax: Infomax, foreign_site: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A verb about `echo_clicks`, whose archive the loopback server has."""
    monkeypatch.syspath_prepend(foreign_site)
    archive = tar({f"clicks/{number}.wav": _sound(number) for number in range(4)})
    server.files["clicks.tar.gz"] = archive
    digest = f"sha256:{hashlib.sha256(archive).hexdigest()}"

    def run(verb: str, *more: str, digest: str = digest) -> Outcome:
        options = [f"data.url={server.url}/clicks.tar.gz", f"data.digest={digest}", f"data.size={len(archive)}"]
        return infomax(verb, "echo_clicks", *options, *more)

    return run


def test_it_is_fetched_once_and_counted(clicks: Run, server: Server, here: Path) -> None:
    planned = clicks("download", "--dry-run", "--json")
    assert planned.code == 0, planned.err
    assert json.loads(planned.out)["subsets"][0]["missing"] == len(server.files["clicks.tar.gz"])
    assert server.asked == []
    done = clicks("download")
    assert done.code == 0, done.err
    folder = here / "data" / "echo_clicks"
    assert {path.name: path.read_bytes() for path in folder.glob("*.wav")} == {f"{n}.wav": _sound(n) for n in range(4)}
    again = clicks("download", "--json")
    assert [task["did"] for task in json.loads(again.out)] == ["nothing"]
    assert len(server.asked) == 1
    held = json.loads(clicks("data", "--check", "--json").out)
    assert (held["splits"]["train"]["items"], held["splits"]["train"]["corrupt"]) == (4, [])
    assert held["splits"]["train"]["seconds"] == pytest.approx(4 * 1600 / 16000)


def test_what_is_damaged_is_found_and_mended(clicks: Run, server: Server, here: Path) -> None:
    assert clicks("download").code == 0
    victim = here / "data" / "echo_clicks" / "2.wav"
    victim.write_bytes(_sound(2)[:-1] + b"x")
    mended = clicks("download", "--verify", "--json")
    assert [task["did"] for task in json.loads(mended.out)] == ["mended"]
    assert victim.read_bytes() == _sound(2)
    assert len(server.asked) == 2


def test_wrong_bytes_are_refused_and_nothing_is_there(clicks: Run, here: Path) -> None:
    done = clicks("download", digest=f"sha256:{'0' * 64}")
    assert done.code == 1
    assert "clicks.tar.gz" in done.err
    assert not (here / "data" / "echo_clicks").exists()


def test_missing_it_says_how_to_get_it(clicks: Run) -> None:
    done = clicks("data")
    assert done.code == 1
    assert "infomax download echo_clicks" in done.err


def test_its_own_download_gets_the_same(
    server: Server, infomax: Infomax, clicks: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`download` called from Python, as whoever uses the class without the command line does."""
    import importlib

    module = importlib.import_module("infomax_echo.clicks")
    archive = server.files["clicks.tar.gz"]
    data = module.Clicks(
        url=f"{server.url}/clicks.tar.gz", digest=f"sha256:{hashlib.sha256(archive).hexdigest()}", size=len(archive)
    )
    data.download(here / "other")
    assert data.describe(here / "other").sizes == {"train": 4}


def test_downloads_that_are_no_subsets_are_the_authors_fault(clicks: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    module = importlib.import_module("infomax_echo.clicks")
    monkeypatch.setattr(module, "Subset", lambda **_: "a zip somewhere")
    done = clicks("download")
    assert done.code == 1
    assert "dataset echo_clicks: its downloads are no dict of Subset" in done.err
