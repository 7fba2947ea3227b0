"""A file arrives intact, or not at all, whatever the server does; and what came is not fetched again."""

from __future__ import annotations

import hashlib
import io
import json
import random
import sys
import threading
import time
import types
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infomax_cli.errors import DataError
from infomax_cli.fetching import http
from infomax_cli.fetching.catalogue import RemoteFile
from infomax_cli.fetching.http import Patience, Stopped, fetch
from infomax_cli.fetching.watch import Silence
from servers import Answer, Server

CONTENT = random.Random(1).randbytes(300_000)
NAME = "data.bin"
QUICK = Patience(timeout=5.0, retries=5, backoff=0.002)


class Notes(Silence):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "CHUNK", 4096)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / NAME


def remote(server: Server, content: bytes = CONTENT, **changes: Any) -> RemoteFile:
    server.files.setdefault(NAME, content)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    known = {"name": NAME, "urls": (f"{server.url}/{NAME}",), "size": len(content), "digest": digest}
    return RemoteFile(**{**known, **changes})


def anonymous(server: Server, content: bytes = CONTENT) -> RemoteFile:
    """Of which nobody has published a size or a checksum."""
    return remote(server, content, size=None, digest=None)


def get(file: RemoteFile, path: Path, patience: Patience = QUICK, watch: Any = None) -> None:
    fetch(file, path, patience=patience, watch=watch or Silence(), stop=threading.Event())


def leave_part(path: Path, count: int, file: RemoteFile, content: bytes = CONTENT, etag: str | None = None) -> None:
    """As a process does that was killed."""
    path.with_name(f"{NAME}.part").write_bytes(content[:count])
    known = {"url": file.urls[0], "validator": etag, "total": len(content), "digest": file.digest}
    path.with_name(f"{NAME}.part.json").write_text(json.dumps(known))


def only(path: Path) -> bool:
    """Whether the file is all that there is."""
    return [file.name for file in path.parent.iterdir()] == [path.name]


# --- what servers do -------------------------------------------------------------------------------------------------


def test_a_file_comes_in_one_request_and_gets_its_name_when_it_is_whole(server: Server, path: Path) -> None:
    server.answers[NAME] = [Answer(pause=0.01, piece=30_000)]
    thread = threading.Thread(target=get, args=(remote(server), path))
    thread.start()
    named = []
    while thread.is_alive():
        named.append(path.exists() and path.read_bytes() != CONTENT)
        time.sleep(0.001)
    thread.join()
    assert len(named) > 20
    assert not any(named)
    assert path.read_bytes() == CONTENT
    assert only(path)
    assert server.firsts(NAME) == [0]


@pytest.mark.parametrize("known", [True, False])
def test_connections_that_drop_at_random_bytes_cost_nothing_but_time(server: Server, path: Path, known: bool) -> None:
    chance = random.Random(2)
    server.answers[NAME] = [Answer(drop=chance.randrange(0, 60_000)) for _ in range(12)] + [Answer()]
    get(remote(server) if known else anonymous(server), path)
    assert path.read_bytes() == CONTENT
    ends = [asked.first + asked.sent for asked in server.asked]
    assert server.firsts(NAME) == [0, *ends[:-1]]  # each goes on where the one before it ended
    assert sum(asked.sent for asked in server.asked) == len(CONTENT)


def test_a_server_that_ignores_ranges_is_read_from_the_start(server: Server, path: Path) -> None:
    server.answers[NAME] = [Answer(drop=n, ranges=False) for n in (50_000, 120_000, 80_000)] + [Answer(ranges=False)]
    get(remote(server), path)
    assert path.read_bytes() == CONTENT
    assert server.firsts(NAME) == [0, 50_000, 120_000, 80_000]


def test_a_server_that_ignores_ranges_and_always_drops_is_given_up(server: Server, path: Path) -> None:
    server.answers[NAME] = [Answer(drop=100_000, ranges=False)]
    with pytest.raises(DataError, match=r"closed the connection after 97\.7 KiB of 293\.0 KiB; 97\.7 KiB of data"):
        get(remote(server), path)
    assert not path.exists()
    assert len(server.asked) == 1 + 1 + QUICK.retries


@pytest.mark.parametrize("drop", [1, 150_000, 299_999])
def test_a_file_that_changes_midway_is_fetched_anew(server: Server, path: Path, drop: int) -> None:
    new = random.Random(3).randbytes(len(CONTENT) + 5)
    server.answers[NAME] = [Answer(drop=drop), Answer(content=new, drop=1000), Answer(content=new)]
    get(anonymous(server), path)
    assert path.read_bytes() == new
    assert [asked.if_range is not None for asked in server.asked] == [False, True, True]
    assert server.firsts(NAME) == [0, drop, 1000]


def test_a_file_without_etag_is_known_by_its_date(server: Server, path: Path) -> None:
    dates = [{"Last-Modified": "Sun, 06 Nov 1994 08:49:37 GMT"}, {"Last-Modified": "Sun, 06 Nov 1994 08:49:38 GMT"}]
    new = CONTENT[::-1]
    server.answers[NAME] = [
        Answer(drop=9000, etag="", headers=dates[0]),
        Answer(drop=9000, etag="", headers=dates[0], splices=True),
        Answer(content=new, etag="", headers=dates[1]),
    ]
    get(anonymous(server), path)
    assert path.read_bytes() == new
    assert [asked.if_range for asked in server.asked] == [None, *[dates[0]["Last-Modified"]] * 2]


def test_without_etag_date_or_checksum_nothing_is_pieced_together(server: Server, path: Path) -> None:
    server.answers[NAME] = [Answer(drop=9000, etag=""), Answer(etag="")]
    get(anonymous(server), path)
    assert path.read_bytes() == CONTENT
    assert server.firsts(NAME) == [0, 0]


@pytest.mark.parametrize("known", [True, False])
def test_parts_of_two_versions_are_never_one_file(server: Server, path: Path, known: bool) -> None:
    old = CONTENT[::-1]
    server.answers[NAME] = [Answer(content=old, drop=70_000), Answer(splices=True), Answer()]
    get(remote(server) if known else anonymous(server), path)
    assert path.read_bytes() == CONTENT


def test_a_file_that_keeps_changing_is_given_up(server: Server, path: Path) -> None:
    chance = random.Random(4)
    server.choose = lambda _: Answer(content=chance.randbytes(100_000), drop=chance.randrange(1, 99_999))
    with pytest.raises(DataError, match="keeps changing the file"):
        get(anonymous(server), path)


def test_servers_of_one_address_with_etags_of_their_own_are_one(server: Server, path: Path) -> None:
    server.answers[NAME] = [Answer(drop=50_000, etag=f'"{n}"') for n in range(8)] + [Answer(etag='"x"')]
    get(remote(server), path)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "lie",
    [
        Answer(length=100_000, drop=100_000),
        Answer(length=400_000),
        Answer(chunked=True, drop=100_000),
        Answer(total=7, content=b"the part of another file"),
    ],
)
def test_a_lie_about_length_is_found_out(server: Server, path: Path, lie: Answer) -> None:
    server.answers[NAME] = [Answer(drop=50_000), lie, Answer()]
    get(remote(server), path)
    assert path.read_bytes() == CONTENT
    assert only(path)


def test_a_server_that_always_lies_is_given_up_with_one_clear_line(server: Server, path: Path) -> None:
    server.answers[NAME] = [Answer(length=400_000)]
    with pytest.raises(DataError) as caught:
        get(remote(server), path)
    host = server.url.removeprefix("http://")
    told = f"cannot get data.bin: {host} has 400,000 bytes of application/octet-stream where the file has 300,000"
    assert caught.value.message == told
    assert not list(path.parent.iterdir())


def test_more_than_the_file_has_is_not_taken(server: Server, path: Path) -> None:
    server.answers[NAME] = [Answer(chunked=True, content=CONTENT + b"more")]
    with pytest.raises(DataError, match="sends more than the 300,000 bytes"):
        get(remote(server), path)
    assert not path.exists()


def test_a_file_of_unknown_length_comes_in_chunks(server: Server, path: Path) -> None:
    server.answers[NAME] = [Answer(chunked=True, drop=100_000), Answer(chunked=True)]
    get(anonymous(server), path)
    assert path.read_bytes() == CONTENT
    assert server.firsts(NAME) == [0, 100_000]


def test_wrong_bytes_are_thrown_away_and_fetched_anew(server: Server, path: Path) -> None:
    wrong = CONTENT[:200_000] + b"?" + CONTENT[200_001:]
    server.answers[NAME] = [Answer(content=wrong, drop=250_000), Answer(content=wrong), Answer()]
    get(remote(server), path)
    assert path.read_bytes() == CONTENT
    assert server.firsts(NAME) == [0, 250_000, 0]


def test_a_server_with_another_file_is_given_up_after_three_times(server: Server, path: Path) -> None:
    server.answers[NAME] = [Answer(content=CONTENT[::-1])]
    with pytest.raises(DataError, match="sends another file: its checksum is not the published one"):
        get(remote(server), path)
    assert len(server.asked) == 3
    assert not path.exists()
    assert not path.with_name(f"{NAME}.part").exists()


@pytest.mark.parametrize("digest", ["md5", "git"])
def test_other_checksums(server: Server, path: Path, digest: str) -> None:
    sums = {"md5": hashlib.md5(CONTENT), "git": hashlib.sha1(b"blob 300000\0" + CONTENT)}
    server.answers[NAME] = [Answer(drop=1234), Answer()]
    get(remote(server, size=None, digest=f"{digest}:{sums[digest].hexdigest().upper()}"), path)
    assert path.read_bytes() == CONTENT
    server.answers[NAME] = [Answer(content=CONTENT[::-1])]
    with pytest.raises(DataError, match="sends another file"):
        get(remote(server, size=None, digest=f"{digest}:{sums[digest].hexdigest()}"), path)


def test_a_slow_server_is_waited_for(server: Server, path: Path) -> None:
    server.answers[NAME] = [Answer(pause=0.05, piece=50_000)]
    get(remote(server), path, Patience(timeout=0.3, retries=0))  # the pauses are short, though all in all it is longer
    assert path.read_bytes() == CONTENT


def test_a_silent_server_is_asked_again(server: Server, path: Path) -> None:
    server.answers[NAME] = [Answer(pause=0.6, piece=50_000), Answer(drop=150_000), Answer(pause=0.6), Answer()]
    notes = Notes()
    get(remote(server), path, Patience(timeout=0.2, retries=5, backoff=0.002), notes)
    assert path.read_bytes() == CONTENT
    assert [line.partition(" has ")[2] for line in notes.lines] == ["been silent for 0.2 s"] * 2


def test_503_then_200(server: Server, path: Path) -> None:
    server.answers[NAME] = [Answer(503), Answer(429, headers={"Retry-After": "0"}), Answer(500), Answer()]
    notes = Notes()
    get(remote(server), path, watch=notes)
    assert path.read_bytes() == CONTENT
    assert [line.partition("answers ")[2] for line in notes.lines] == [
        "HTTP 503 Service Unavailable", "HTTP 429 Too Many Requests", "HTTP 500 Internal Server Error",
    ]  # fmt: skip


def test_pauses_double_and_a_server_may_ask_for_longer_ones(
    server: Server, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    stop = threading.Event()
    monkeypatch.setattr(stop, "wait", lambda seconds: pauses.append(seconds))
    server.answers[NAME] = [Answer(503)] * 3 + [
        Answer(503, headers={"Retry-After": "17"}), Answer(503, headers={"Retry-After": "9999"}), Answer(drop=5),
        Answer(503), Answer(),
    ]  # fmt: skip
    fetch(remote(server), path, patience=Patience(), watch=Silence(), stop=stop)
    assert pauses == [0.5, 1.0, 2.0, 17.0, http.LONGEST_PAUSE, 0.02, 0.5]


def test_what_is_not_there_is_not_asked_for_again(server: Server, path: Path) -> None:
    with pytest.raises(DataError, match=r"HTTP 404 Not Found to /gone\.bin"):
        get(remote(server, urls=(f"{server.url}/gone.bin",)), path)
    assert len(server.asked) == 1


def test_nobody_at_the_address(path: Path, server: Server) -> None:
    file = remote(server)
    server.close()
    with pytest.raises(DataError, match="cannot be reached, or not any more: Connection refused"):
        get(file, path)


def test_another_server_goes_on_where_one_ended(server: Server, path: Path) -> None:
    other = Server()
    other.files[NAME] = CONTENT
    server.answers[NAME] = [Answer(drop=120_000), Answer(503)]
    try:
        get(remote(server, urls=(f"{server.url}/{NAME}", f"{other.url}/{NAME}")), path)
    finally:
        other.close()
    assert path.read_bytes() == CONTENT
    assert other.firsts(NAME) == [120_000]


def test_a_web_page_in_place_of_the_file_costs_nothing_that_came(server: Server, path: Path) -> None:
    page = Answer(content=b"<html>Please log in</html>", ranges=False, headers={"Content-Type": "text/html"})
    for answer in (page, Answer(content=CONTENT[::-1], ranges=False, headers={"Content-Type": "text/html"})):
        server.answers[NAME] = [Answer(drop=200_000), answer, Answer()]
        get(remote(server), path)
        assert path.read_bytes() == CONTENT
        assert server.firsts(NAME)[-1] == 200_000
        path.unlink()


def test_nothing_more_of_a_file_that_was_longer(server: Server, path: Path) -> None:
    file = remote(server)
    leave_part(path, 250_000, file)
    server.answers[NAME] = [Answer(content=CONTENT[:250_000], splices=True), Answer()]
    get(file, path)
    assert path.read_bytes() == CONTENT


def test_a_file_without_checksum_does_not_leave_https(
    server: Server, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_plain = urllib.request.urlopen
    address = f"https://elsewhere.org/{NAME}"

    def redirected(request: urllib.request.Request, timeout: float) -> Any:
        request.full_url = f"{server.url}/{NAME}"
        return open_plain(request, timeout=timeout)

    monkeypatch.setattr(urllib.request, "urlopen", redirected)
    with pytest.raises(DataError, match="leads to an address without https"):
        get(remote(server, urls=(address,), digest=None), path)
    get(remote(server, urls=(address,)), path)  # a checksum tells what is right
    assert path.read_bytes() == CONTENT


# --- whatever comes --------------------------------------------------------------------------------------------------


def bad_day(chance: random.Random) -> Answer:
    """One of all that can happen, by chance."""
    wrong = bytearray(CONTENT)
    wrong[chance.randrange(len(wrong))] ^= 1
    return chance.choice(
        [
            Answer(drop=chance.randrange(len(CONTENT))),
            Answer(drop=chance.randrange(len(CONTENT)), ranges=False),
            Answer(503),
            Answer(length=chance.randrange(2 * len(CONTENT))),
            Answer(content=bytes(wrong), drop=chance.randrange(len(CONTENT))),
            Answer(content=bytes(wrong), drop=chance.randrange(len(CONTENT)), splices=True, etag='"same"'),
            Answer(chunked=True, drop=chance.randrange(len(CONTENT))),
            Answer(content=CONTENT + b"x"),
            Answer(),
        ]
    )


@pytest.mark.parametrize("seed", range(10))
def test_it_arrives_intact_or_fails_and_can_be_tried_again(server: Server, path: Path, seed: int) -> None:
    chance = random.Random(seed)
    server.choose = lambda _: bad_day(chance)
    for _ in range(3):
        failed = ""
        try:
            get(remote(server), path)
        except DataError as error:
            failed = error.message
        assert "\n" not in failed
        assert path.exists() == (not failed)
        assert failed or path.read_bytes() == CONTENT
        path.unlink(missing_ok=True)
    server.choose = None
    get(remote(server), path)
    assert path.read_bytes() == CONTENT
    assert only(path)


# --- from one process to the next ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 123_456, len(CONTENT) - 1])
def test_a_new_process_goes_on(server: Server, path: Path, count: int) -> None:
    file = remote(server)
    leave_part(path, count, file)
    get(file, path)
    assert path.read_bytes() == CONTENT
    assert server.firsts(NAME) == [count]


def test_a_whole_part_is_only_checked(server: Server, path: Path) -> None:
    file = remote(server)
    leave_part(path, len(CONTENT), file)
    get(file, path)
    assert path.read_bytes() == CONTENT
    assert server.asked == []


def test_a_part_that_was_damaged_is_fetched_anew(server: Server, path: Path) -> None:
    file = remote(server)
    leave_part(path, 200_000, file, CONTENT[:100] + b"\0" * 199_900 + CONTENT[200_000:])
    get(file, path)
    assert path.read_bytes() == CONTENT
    assert server.firsts(NAME) == [200_000, 0]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda notes: notes.unlink(),
        lambda notes: notes.write_text("{"),
        lambda notes: notes.write_text(
            '{"digest": "sha256:of another file", "url": "", "total": 5, "validator": null}'
        ),
        lambda notes: notes.write_text("[1]"),
    ],
)
def test_a_part_of_which_nothing_is_known_is_not_used(
    server: Server, path: Path, spoil: Callable[[Path], object]
) -> None:
    file = remote(server)
    leave_part(path, 1000, file)
    spoil(path.with_name(f"{NAME}.part.json"))
    get(file, path)
    assert path.read_bytes() == CONTENT
    assert server.firsts(NAME) == [0]


def test_a_part_longer_than_the_file_is_not_used(server: Server, path: Path) -> None:
    file = remote(server)
    leave_part(path, len(CONTENT) + 1, file, CONTENT + b"x")
    get(file, path)
    assert server.firsts(NAME) == [0]


def test_when_it_is_not_wanted_any_more_what_came_is_kept(server: Server, path: Path) -> None:
    server.answers[NAME] = [Answer(pause=0.01, piece=10_000)]
    stop, caught = threading.Event(), []

    def work() -> None:
        try:
            fetch(remote(server), path, patience=QUICK, watch=Silence(), stop=stop)
        except Stopped as stopped:
            caught.append(stopped)

    thread = threading.Thread(target=work)
    thread.start()
    part = path.with_name(f"{NAME}.part")
    while not part.exists() or part.stat().st_size < 30_000:
        time.sleep(0.002)
    stop.set()
    thread.join(1)
    assert caught
    kept = part.stat().st_size
    assert part.read_bytes() == CONTENT[:kept]
    server.answers[NAME] = []
    get(remote(server), path)
    assert path.read_bytes() == CONTENT
    assert server.firsts(NAME) == [0, kept]


# --- Google Drive ----------------------------------------------------------------------------------------------------


def drive(monkeypatch: pytest.MonkeyPatch, download: Callable[..., object]) -> RemoteFile:
    module = types.ModuleType("gdown")
    module.download = download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gdown", module)
    return RemoteFile(name=NAME, urls=("gdrive:abc",))


def test_google_drive_is_asked_through_gdown(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def download(**arguments: Any) -> str:
        asked.update(arguments)
        Path(arguments["output"]).write_bytes(CONTENT)
        return str(arguments["output"])

    get(drive(monkeypatch, download), path)
    assert path.read_bytes() == CONTENT
    assert asked == {"id": "abc", "output": str(path.with_name(f"{NAME}.part")), "quiet": True}
    assert only(path)


def test_what_google_drive_refuses_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(**_: Any) -> str:
        raise RuntimeError("Too many users have viewed or downloaded this file recently.\nTry again")

    with pytest.raises(DataError, match="Google Drive cannot be had by gdown: RuntimeError: Too many users"):
        get(drive(monkeypatch, download), path)
    assert not path.exists()


def test_without_gdown_it_says_how_to_get_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = drive(monkeypatch, io.BytesIO)
    monkeypatch.setitem(sys.modules, "gdown", None)
    with pytest.raises(DataError, match="Google Drive needs gdown: pip install gdown"):
        get(file, path)
