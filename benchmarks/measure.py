"""How everything here is measured: two sides in turns, as a ratio with its spread; memory in a process of its own."""

from __future__ import annotations

import json
import platform
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
FEW_PAIRS = 5  # fewer say nothing about a spread


@dataclass(frozen=True)
class Ratio:
    """How many times longer the other side takes: median, lowest and highest of the pairs; and the medians in seconds.

    `processor` is the median ratio of processor time, which a busy machine disturbs less than that of the clock.
    """

    median: float
    lowest: float
    highest: float
    processor: float
    ours: float
    theirs: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.lowest:.2f} to {self.highest:.2f})"


def compare(ours: Callable[[], object], theirs: Callable[[], object], pairs: int = FEW_PAIRS) -> Ratio:
    """Time both in turns, each pair in the other order, so that whatever else the machine does hits both alike."""
    ours(), theirs()  # the first time is no measure: memory is fetched, kernels are chosen
    times: dict[int, list[tuple[float, float]]] = {0: [], 1: []}
    for pair in range(pairs):
        for side in (0, 1) if pair % 2 else (1, 0):
            times[side].append(_timed((ours, theirs)[side]))
    clock, processor = (
        [their[kind] / our[kind] for our, their in zip(times[0], times[1], strict=True)] for kind in (0, 1)
    )
    return Ratio(
        median=statistics.median(clock),
        lowest=min(clock),
        highest=max(clock),
        processor=statistics.median(processor),
        ours=statistics.median(seconds for seconds, _ in times[0]),
        theirs=statistics.median(seconds for seconds, _ in times[1]),
        pairs=pairs,
    )


def _timed(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - clock, time.process_time() - processor


def peak_memory(run: Callable[[], object]) -> int:
    """Bytes that this process held at most while `run` ran."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    run()
    return _status("VmHWM")


def peak_own_memory(run: Callable[[], object], every: float = 0.005) -> int:
    """As `peak_memory`, without the pages of mapped files, which the system takes back when it needs them; looked at
    so often, in seconds."""
    done = threading.Event()
    peaks = [own_memory()]

    def watch() -> None:
        while not done.wait(every):
            peaks[0] = max(peaks[0], own_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run()
    finally:
        done.set()
        watcher.join()
    return peaks[0]


def resident_memory() -> int:
    """Bytes that this process holds now."""
    return _status("VmRSS")


def own_memory() -> int:
    """Bytes that this process holds now, but for the pages of mapped files."""
    return _status("RssAnon")


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"the kernel does not tell {field}")


def matrix_speed(threads: int, size: int = 1536, repeats: int = 7) -> float:
    """Floating-point operations a second that this machine reaches in one large matrix product in fp32."""
    torch.set_num_threads(threads)
    a, b = torch.randn(size, size), torch.randn(size, size)
    out = torch.empty(size, size)
    seconds = [_timed(lambda: torch.mm(a, b, out=out))[0] for _ in range(repeats)]
    return 2 * size**3 / min(seconds[1:])


def has_bf16() -> bool:
    """Whether this processor computes in bf16, and does not only convert."""
    flags = Path("/proc/cpuinfo").read_text(encoding="ascii").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags or "bf16" in flags


def machine() -> dict[str, Any]:
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    return {"processor": model, "bf16": has_bf16(), "torch": torch.__version__, "python": platform.python_version()}


def write_result(name: str, result: Mapping[str, Any]) -> Path:
    """``benchmarks/results/NAME.json``."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    text = json.dumps({"machine": machine(), **result}, indent=1, default=_plain)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def _plain(value: Any) -> Any:
    if isinstance(value, Ratio):
        return {key: round(part, 4) for key, part in asdict(value).items()}
    raise TypeError(f"{type(value).__name__} is not JSON")


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
