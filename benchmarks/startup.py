"""How long `infomax --help` takes, beside a bare Typer program of two commands. Run: python benchmarks/startup.py"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BARE = """
import typer

app = typer.Typer()


@app.command()
def one(name: str) -> None:
    "The first."


@app.command()
def two(name: str) -> None:
    "The second."


app()
"""


def measure_startup(repeats: int = 5) -> tuple[float, float]:
    """Median seconds of `infomax --help` and of the bare program, taken in turns so that a busy machine hits both."""
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder, "bare.py")
        bare.write_text(BARE, encoding="utf-8")
        commands = ([sys.executable, "-m", "infomax_cli", "--help"], [sys.executable, str(bare), "--help"])
        rounds = [[_seconds(command) for command in commands] for _ in range(repeats + 1)][1:]  # the first warms up
    ours, theirs = (statistics.median(column) for column in zip(*rounds, strict=True))
    return ours, theirs


def _seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    ours, theirs = measure_startup()
    print(f"infomax --help {ours:.3f} s, a bare Typer program {theirs:.3f} s: {ours / theirs:.2f} times")
