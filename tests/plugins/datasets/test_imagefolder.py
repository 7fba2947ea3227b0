"""Anyone's images: layouts, kinds of files, and what is said about those that cannot be used."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from image_files import noise
from infomax_cli.core.api import CorruptItem, DataError, Dataset, read_image
from infomax_plugins.datasets import _picture_files
from infomax_plugins.datasets._picture_files import list_pictures
from infomax_plugins.datasets.imagefolder import ImageFolder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFOMAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.mkdir()
    return path


def write(path: Path, height: int = 12, width: int = 16) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(height, width, 3, seed=len(path.name))).save(path)
    return path


def folder(path: str | Path = "pictures", **options: object) -> ImageFolder:
    return ImageFolder(**{"path": str(path), "size": 8, "validation_fraction": 0.0, **options})  # type: ignore[arg-type]


def contents(data: ImageFolder, root: Path, name: str) -> dict[str, str | None]:
    """The class of each image of a split, by the image's id."""
    split = data.split(root, name)
    spec = data.describe(root).labels.get("class")
    found = {}
    for index in range(len(split)):
        item = split[index, None]
        label = item.labels.get("class", -1)
        found[item.id] = None if spec is None or label == -1 else spec.names[int(label)]
    return found


# --- layouts ---------------------------------------------------------------------------------------------------------


def test_splits_with_classes(root: Path) -> None:
    for name in (
        "train/cat/1.jpg",
        "train/cat/deep/2.PNG",
        "train/Über hund/3 4.jpeg",
        "val/cat/5.jpg",
        "test/cat/6.jpg",
    ):
        write(root / "pictures" / name)
    (root / "pictures" / "train" / "cat" / "notes.txt").write_text("no image")
    write(root / "pictures" / "train" / "cat" / "._1.jpg")
    data = folder()
    assert isinstance(data, Dataset)
    spec = data.describe(root)
    assert (spec.channels, spec.grid, spec.axes, spec.rate) == (3, (8, 8), ("height", "width"), None)
    assert spec.labels["class"].names == ("cat", "Über hund")
    assert spec.sizes == {"train": 3, "validation": 1, "test": 1}
    assert contents(data, root, "train") == {
        "train/cat/1.jpg": "cat",
        "train/cat/deep/2.PNG": "cat",
        "train/Über hund/3 4.jpeg": "Über hund",
    }
    assert contents(data, root, "validation") == {"val/cat/5.jpg": "cat"}
    assert contents(data, root, "test") == {"test/cat/6.jpg": "cat"}


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("train", "val"),
        ("Train", "Valid"),
        ("ILSVRC2012_img_train", "ILSVRC2012_img_val"),
        ("places205_256_train", "places205_256_val"),
    ],
)
def test_val_is_scored_on_where_there_is_no_test(root: Path, train: str, val: str) -> None:
    for name in ("a", "b"):
        for number in range(4):
            write(root / "pictures" / train / name / f"{number}.png")
        write(root / "pictures" / val / name / "9.png")
    data = folder(validation_fraction=0.25)
    assert data.describe(root).sizes == {"train": 6, "validation": 2, "test": 2}
    assert contents(data, root, "test") == {f"{val}/a/9.png": "a", f"{val}/b/9.png": "b"}


def test_tiny_imagenets_layout(root: Path) -> None:
    top = root / "tiny-imagenet-200"
    for name in ("n01", "n02"):
        write(top / "train" / name / "images" / f"{name}_0.JPEG")
        (top / "train" / name / f"{name}_boxes.txt").write_text(f"{name}_0.JPEG\t0\t0\t62\t62\n")
    for number in range(3):
        write(top / "val" / "images" / f"val_{number}.JPEG")
        write(top / "test" / "images" / f"test_{number}.JPEG")
    lines = ["val_0.JPEG\tn02\t0\t32\t44\t62\n", "val_1.JPEG\tn01\t52\t55\t57\t59\n"]
    (top / "val" / "val_annotations.txt").write_text("".join(lines))
    data = folder(top)
    assert data.describe(root).labels["class"].names == ("n01", "n02")
    assert contents(data, root, "train") == {"train/n01/images/n01_0.JPEG": "n01", "train/n02/images/n02_0.JPEG": "n02"}
    assert contents(data, root, "test") == {
        "val/images/val_0.JPEG": "n02",
        "val/images/val_1.JPEG": "n01",
        "val/images/val_2.JPEG": None,
    }
    assert data.split(root, "test").item_labels("class") == [1, 0, -1]
    (top / "val" / "val_annotations.txt").write_text(lines[0] + "val_1.JPEG n01\n")
    with pytest.raises(DataError, match=r"val_annotations.txt, line 2: expected the name of a file"):
        folder(top).describe(root)


def test_classes_without_splits_are_divided_by_the_seed(root: Path) -> None:
    for name in ("a", "b"):
        for number in range(10):
            write(root / "pictures" / name / f"{number}.png")
    data = folder(test_fraction=0.2, validation_fraction=0.25)
    assert data.describe(root).sizes == {"train": 12, "validation": 4, "test": 4}
    found = {name: contents(data, root, name) for name in ("train", "validation", "test")}
    assert sorted(found["test"].values(), key=str) == ["a", "a", "b", "b"]
    assert len(found["train"] | found["validation"] | found["test"]) == 20
    assert contents(folder(test_fraction=0.2, validation_fraction=0.25), root, "test") == found["test"]


def test_images_alone_have_no_label(root: Path) -> None:
    for number in range(10):
        write(root / "pictures" / f"{number}.png")
    data = folder(test_fraction=0.2)
    spec = data.describe(root)
    assert spec.labels == {}
    assert spec.sizes == {"train": 8, "test": 2}
    assert data.split(root, "train")[0, None].labels == {}
    with pytest.raises(DataError, match="no whole-item label 'class'; there are: none"):
        data.split(root, "train").item_labels("class")


def test_images_to_test_on_that_lie_flat_are_told(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("train/a/1.png", "train/b/1.png", "val/1.png", "val/2.png"):
        write(root / "pictures" / name)
    data = folder()
    assert data.describe(root).sizes == {"train": 2, "test": 2}
    assert data.split(root, "test").item_labels("class") == [-1, -1]
    assert "pictures/val are in no folders of classes, so that nothing can be scored on them" in caplog.text


def test_an_empty_class_keeps_its_number_and_is_named(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "c"):
        write(root / "pictures" / "train" / name / "1.png")
    (root / "pictures" / "train" / "b").mkdir()
    (root / "pictures" / "train" / "b" / "readme.txt").write_text("images to come")
    data = folder()
    spec = data.describe(root).labels["class"]
    assert spec.names == ("a", "b", "c")
    assert data.split(root, "train").item_labels("class") == [0, 2]
    assert len(caplog.records) == 1
    assert "1 of 3 classes have no image in" in caplog.text
    assert "but keep their numbers: b" in caplog.text


def test_images_beside_the_classes_are_left_out_and_told(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("train/a/1.png", "train/b/2.png", "train/stray.png"):
        write(root / "pictures" / name)
    assert list(contents(folder(), root, "train")) == ["train/a/1.png", "train/b/2.png"]
    assert "1 images in" in caplog.text
    assert "left out, since they lie in no folder of a class: stray.png" in caplog.text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda top: None, "there is no folder"),
        (lambda top: top.mkdir(), "there is no image in"),
        (lambda top: write(top / "val" / "a" / "1.png"), "has a folder val, but none to train on"),
        (lambda top: write(top / "train" / "a.gif").rename(top / "train" / "a.xyz"), "there is no image in"),
    ],
)
def test_a_folder_without_images_ends_in_one_clear_line(
    root: Path, make: Callable[[Path], object], message: str
) -> None:
    make(root / "pictures")
    with pytest.raises(DataError, match=message) as caught:
        folder().describe(root)
    assert caught.value.hint
    assert "syllables" not in caught.value.hint


# --- the index -------------------------------------------------------------------------------------------------------


def age(top: Path) -> None:
    """As though nothing had changed for a minute."""
    for where, _, _ in os.walk(top):
        os.utime(where, (1.7e9, 1.7e9))


def test_the_index_is_kept_until_a_folder_changes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = root / "pictures"
    for name in ("a/1.png", "a/2.png", "b/c/3.png"):
        write(top / name)
    age(top)
    scans: list[Path] = []
    scan = _picture_files._scan
    monkeypatch.setattr(_picture_files, "_scan", lambda path: (scans.append(path), scan(path))[1])
    expected = {"": [], "a": ["1.png", "2.png"], "b": [], "b/c": ["3.png"]}
    assert list_pictures(top) == expected
    assert list_pictures(top) == expected
    assert len(scans) == 1
    write(top / "b" / "c" / "4.png")
    assert list_pictures(top)["b/c"] == ["3.png", "4.png"]
    (top / "a" / "1.png").unlink()
    assert list_pictures(top)["a"] == ["2.png"]
    write(top / "d" / "5.png")
    assert list_pictures(top)["d"] == ["5.png"]
    (top / "b" / "c" / "3.png").rename(top / "b" / "c" / "0.png")
    assert list_pictures(top)["b/c"] == ["0.png", "4.png"]


def test_what_changes_at_the_moment_of_the_scan_is_noticed(root: Path) -> None:
    top = root / "pictures"
    write(top / "a" / "1.png")
    stamp = (top / "a").stat()
    list_pictures(top)
    write(top / "a" / "2.png")
    os.utime(top / "a", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # a clock too coarse to tell
    assert list_pictures(top)["a"] == ["1.png", "2.png"]


def test_links_are_followed_once(root: Path) -> None:
    top = root / "pictures"
    write(top / "a" / "1.png")
    (top / "again").symlink_to(top)
    write(root / "elsewhere" / "2.png")
    (top / "b").symlink_to(root / "elsewhere")
    found = list_pictures(top)
    assert {name: files for name, files in found.items() if files} == {"a": ["1.png"], "b": ["2.png"]}


def test_folders_that_are_hidden_or_a_systems_own_are_no_classes(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    top = root / ".cache" / "test"
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png", "__MACOSX/a/._1.png", ".trash/3.png"):
        write(top / name)
    age(top)
    for _ in range(2):  # scanned, and from the index
        caplog.clear()
        assert folder(path=str(top)).describe(root).labels["class"].names == ("a", "b")
        assert f"left out of {top} are 1 that" in caplog.text
        assert ".trash/3.png" in caplog.text
    (top / ".trash" / "3.png").unlink()
    caplog.clear()
    assert sum(folder(path=str(top)).describe(root).sizes.values()) == 4
    assert "left out" not in caplog.text


def test_an_index_that_makes_no_sense_is_made_again(root: Path, tmp_path: Path) -> None:
    top = root / "pictures"
    write(top / "a" / "1.png")
    age(top)
    list_pictures(top)
    kept = next((tmp_path / "cache").rglob("*.json"))
    for text in ("[]", '{"folders": {"a": 3}, "settled": true}', "{"):
        kept.write_text(text)
        assert list_pictures(top) == {"": [], "a": ["1.png"]}


# --- decoding --------------------------------------------------------------------------------------------------------


def test_evaluation_sees_the_middle_after_resizing_and_training_the_whole_image(root: Path) -> None:
    write(root / "pictures" / "a" / "1.png", height=40, width=70)
    data = folder(size=16, test_fraction=0.0)
    split = data.split(root, "train")
    assert split[0, None].input.shape == (3, 16, 16)
    assert split[0, 5].input.shape == (3, 40, 70)
    assert ImageFolder(path="x").resize == 146
    assert ImageFolder(path="x", size=224).resize == 256
    assert ImageFolder(path="x", size=64, resize=70).resize == 70


def test_every_kind_of_image_becomes_rgb_in_0_to_1(tmp_path: Path) -> None:
    pixels = noise(6, 9, 3)
    rgb = Image.fromarray(pixels)
    expected = torch.from_numpy(pixels).permute(2, 0, 1) / 255

    def kept(name: str, image: Image.Image, **options: object) -> torch.Tensor:
        image.save(tmp_path / name, **options)  # type: ignore[arg-type]
        read = read_image(tmp_path / name)
        assert read.dtype == torch.float32
        assert read.is_contiguous()
        assert read.shape == (3, 6, 9)
        return read

    for name in ("a.png", "a.bmp", "a.tiff", "a.ppm"):
        assert torch.equal(kept(name, rgb), expected)
    assert torch.equal(kept("lossless.webp", rgb, lossless=True), expected)
    assert (kept("a.jpg", rgb, quality=100, subsampling=0) - expected).abs().max() < 0.05
    grey = torch.from_numpy(np.array(rgb.convert("L"))) / 255
    assert torch.equal(kept("grey.png", rgb.convert("L")), grey.expand(3, 6, 9))
    palette = rgb.quantize(64)
    assert torch.equal(
        kept("palette.png", palette), torch.from_numpy(np.array(palette.convert("RGB"))).permute(2, 0, 1) / 255
    )
    shown = np.array(palette.convert("RGB"))
    clear = torch.from_numpy(shown).permute(2, 0, 1) / 255
    assert torch.equal(kept("clear.png", palette, transparency=bytes(range(64))), clear)
    assert torch.equal(kept("alpha.png", Image.fromarray(np.dstack([pixels, noise(6, 9)]))), expected)
    ink = Image.fromarray(np.full((6, 9, 4), (0, 255, 255, 0), dtype=np.uint8), "CMYK")
    red = kept("cmyk.jpg", ink, quality=100)
    assert red[0].min() > 0.9
    assert red[1:].max() < 0.1
    black = rgb.convert("1")
    assert set(kept("black.png", black).unique().tolist()) <= {0.0, 1.0}


def test_16_bits_keep_their_precision(tmp_path: Path) -> None:
    values = np.arange(54, dtype=np.uint16).reshape(6, 9) * 1200 + 7
    for name in ("deep.png", "deep.tiff"):
        Image.fromarray(values).save(tmp_path / name)
        expected = torch.from_numpy(values.astype(np.float32)) / 65535
        assert torch.equal(read_image(tmp_path / name), expected.expand(3, 6, 9))
        assert torch.equal(read_image(tmp_path / name, grey=True), expected[None])


def test_an_image_is_turned_as_its_exif_data_says(tmp_path: Path) -> None:
    pixels = noise(6, 9, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    turned = torch.from_numpy(np.rot90(pixels, -1).copy()).permute(2, 0, 1) / 255
    assert torch.equal(read_image(tmp_path / "a.png"), turned)


def test_grey_makes_one_channel(root: Path) -> None:
    write(root / "pictures" / "a" / "1.png")
    data = folder(grey=True, test_fraction=0.0)
    assert data.describe(root).channels == 1
    assert data.split(root, "train")[0, 1].input.shape == (1, 12, 16)


# --- what cannot be decoded ------------------------------------------------------------------------------------------


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "gif"])
@pytest.mark.parametrize("damage", [_cut, lambda path: path.write_bytes(b"<html>"), lambda path: path.unlink()])
def test_a_corrupt_image_is_named_and_left_out(
    root: Path, caplog: pytest.LogCaptureFixture, suffix: str, damage: Callable[[Path], None]
) -> None:
    for number in range(4):
        write(root / "pictures" / "a" / f"{number}.{suffix}")
    data = folder(test_fraction=0.0)
    split = data.split(root, "train")
    damage(root / "pictures" / "a" / f"2.{suffix}")
    with pytest.raises(CorruptItem, match=f"cannot read the image .*2.{suffix}: ") as caught:
        split[2, None]
    assert "\n" not in caught.value.message
    assert split[1, None].id == f"a/1.{suffix}"
    # another takes its place in training, the same each time, and it is named only once
    instead = {split[2, 5].id for _ in range(3)}
    assert len(instead) == 1
    assert instead < {f"a/{number}.{suffix}" for number in (0, 1, 3)}
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


def test_more_corrupt_images_than_allowed_end_in_an_error(root: Path) -> None:
    for number in range(10):
        write(root / "pictures" / "a" / f"{number}.png")
    split = folder(test_fraction=0.0, max_corrupt=0.2).split(root, "train")
    for number in range(3):
        (root / "pictures" / "a" / f"{number}.png").write_bytes(b"")
    for number in range(2):
        with pytest.raises(CorruptItem):
            split[number, None]
    with pytest.raises(DataError, match="3 of 10 images turned out to be corrupt, lastly: cannot read") as caught:
        split[2, None]
    assert not isinstance(caught.value, CorruptItem)
    assert "data.max_corrupt=" in (caught.value.hint or "")


def test_a_worker_reads_what_this_process_reads(root: Path) -> None:
    for number in range(4):
        write(root / "pictures" / "Ü b" / f"{number}.png")
    split = folder(test_fraction=0.0).split(root, "train")
    received = pickle.loads(pickle.dumps(split))
    assert received[3, None].id == "Ü b/3.png"
    assert torch.equal(received[3, None].input, split[3, None].input)
