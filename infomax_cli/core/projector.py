"""TensorBoard's projector: features with their labels and thumbnails, a tab for each.

`SummaryWriter.add_embedding` would print to stdout and forget the tabs of earlier calls.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from google.protobuf import text_format
from tensorboard.plugins.projector import ProjectorConfig
from torch import Tensor

from infomax_cli.core.files import write_atomically, write_text
from infomax_cli.runs import Run

_CONFIG = "projector_config.pbtxt"  # where TensorBoard looks


def write_projector(
    run: Run, name: str, features: Tensor, header: Sequence[str], rows: Sequence[Sequence[str]], thumbs: Tensor | None
) -> None:
    """``<run>/projector/<name>/``: features ``(N, D)``, a row of words for each, thumbnails ``(N, C, H, W)`` in [0, 1].

    A tab of the same name is replaced, others stay.
    """
    folder = run.path / "projector" / name
    config = _read(run.path / _CONFIG)
    kept = [tab for tab in config.embeddings if tab.tensor_name != name]
    del config.embeddings[:]
    config.embeddings.extend(kept)
    tab = config.embeddings.add()
    tab.tensor_name = name
    tab.tensor_path, tab.metadata_path = (str(Path("projector", name, f)) for f in ("tensors.tsv", "metadata.tsv"))
    write_text(folder / "tensors.tsv", "".join("\t".join(f"{v:.6g}" for v in row) + "\n" for row in features.tolist()))
    words = [[cell.replace("\t", " ").replace("\n", " ") for cell in row] for row in (header, *rows)]
    write_text(folder / "metadata.tsv", "".join("\t".join(row) + "\n" for row in words))
    if thumbs is not None:
        tab.sprite.image_path = str(Path("projector", name, "sprite.png"))
        tab.sprite.single_image_dim.extend([thumbs.shape[3], thumbs.shape[2]])
        with write_atomically(folder / "sprite.png") as temporary:
            temporary.write_bytes(sheet_of(thumbs)[0])
    write_text(run.path / _CONFIG, text_format.MessageToString(config))


def sheet_of(thumbs: Tensor, widest: int | None = None) -> tuple[bytes, int]:
    """Thumbnails ``(N, C, H, W)`` in [0, 1] row by row on one square sheet, a PNG, and how many stand in a row."""
    from matplotlib.image import imsave

    count, _, height, width = thumbs.shape
    columns = math.ceil(math.sqrt(count))
    if widest is not None:
        columns = max(1, min(columns, widest // width))
    rows = math.ceil(count / columns)
    rows = max(rows, columns) if widest is None else rows  # TensorBoard takes square sheets
    sheet = np.zeros((rows * columns, height, width, 3), np.float32)
    sheet[:count] = thumbs.expand(count, 3, height, width).permute(0, 2, 3, 1).numpy()
    sheet = sheet.reshape(rows, columns, height, width, 3).transpose(0, 2, 1, 3, 4)
    file = io.BytesIO()
    imsave(file, sheet.reshape(rows * height, columns * width, 3).clip(0, 1), format="png")
    return file.getvalue(), columns


def _read(path: Path) -> ProjectorConfig:
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), ProjectorConfig())
    except (OSError, ValueError, text_format.ParseError):  # there is none, or it is of no use
        return ProjectorConfig()
