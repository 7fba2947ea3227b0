"""``infomax doctor``: what is there, what is missing or broken, what it costs and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infomax_cli.diagnosis import Diagnosis


def doctor(
    time_limit: Annotated[float, typer.Option(min=0.1, help="Seconds that each import may take.")] = 120.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at versions, devices, folders and plugins; say what is missing or broken and what to do."""
    from infomax_cli.console import messages, print_json
    from infomax_cli.diagnosis import diagnose

    with messages().status("looking") as status:
        found = diagnose(limit=time_limit, progress=status.update)
    if as_json:
        print_json(found.to_dict())
    else:
        _print(found)
    if not found.sound:
        raise typer.Exit(1)


def _print(found: Diagnosis) -> None:
    from rich.table import Table
    from rich.text import Text

    from infomax_cli.console import results

    console = results()
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _lines(found):
        table.add_row(name, Text(value))
    console.print(table)
    for problem in found.problems:
        heading = ("\nbroken: ", "bold red") if problem.essential else ("\nnote: ", "bold yellow")
        console.print(Text.assemble(heading, problem.what), soft_wrap=True)
        console.print(f"  costs: {problem.costs}\n  do:    {problem.remedy}", markup=False, soft_wrap=True)
    console.print("\nAll is well." if not found.problems else "" if found.sound else "\nThe main job cannot be done.")


def _lines(found: Diagnosis) -> Iterator[tuple[str, str]]:
    from infomax_cli.wording import describe_bytes

    yield from found.versions.items()
    for name, facts in found.libraries.items():
        remarks = [facts["problem"]] if facts["problem"] else facts["notes"]
        yield name, " - ".join([facts["version"] or "", *remarks]).removeprefix(" - ")
    yield from _device_lines(found.devices) if found.devices else ()
    for name, folder in found.folders.items():
        state = folder["problem"] or f"{describe_bytes(folder['free'])} free"
        there = "" if folder["exists"] else "not there yet, "
        yield f"{name} folder", f"{folder['path']} ({there}{state}; {folder['variable']} sets it)"
    yield "data there", ", ".join(found.data) or "none but what is embedded: `infomax data` tells what gets more"
    yield "plugins", _plugin_line(found)
    yield "recipes", str(found.recipes)


def _device_lines(devices: dict[str, Any]) -> Iterator[tuple[str, str]]:
    from infomax_cli.wording import describe_bytes

    cpu = devices["cpu"]
    bf16 = {True: "bf16 arithmetic", False: "no bf16 arithmetic (amp: bf16 works, but is slow)", None: "bf16 not known"}
    yield "cpu", f"{cpu['cores']} cores, {cpu['threads']} threads, {bf16[cpu['bf16']]}"
    for index, gpu in enumerate(devices["cuda"]):
        state = gpu["problem"] or ("bf16" if gpu["bf16"] else "no bf16: use amp: fp16")
        yield f"cuda:{index}", f"{gpu['name']}, {describe_bytes(gpu['memory'])}, {state}"
    if not devices["cuda"]:
        yield "cuda", f"no GPU is seen (torch is built for CUDA {devices['cuda_build'] or 'none'})"
    if devices["mps"]:
        yield "mps", "available"


def _plugin_line(found: Diagnosis) -> str:
    checked = [plugin for plugin in found.plugins if plugin["checked"]]
    broken = sum(plugin["problem"] is not None for plugin in checked)
    if not checked:
        return f"{len(found.plugins)} declared, not checked: they need torch"
    return f"{len(found.plugins)} declared, {len(checked)} checked, {broken} broken"
