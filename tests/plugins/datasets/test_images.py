"""CIFAR, STL-10, SVHN, MNIST, Fashion-MNIST and digits: what is in their files comes out, and nothing else does."""

from __future__ import annotations

import gzip
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from image_files import idx, noise, python2_pickle, write_cifar10, write_cifar100, write_mnist, write_stl10, write_svhn
from infomax_cli.core.api import DataError, Dataset, InfomaxError, UsageError
from infomax_plugins.datasets._images import ImageDataset, hold_out, keys_of
from infomax_plugins.datasets.cifar import CIFAR10, CIFAR100
from infomax_plugins.datasets.digits import Digits
from infomax_plugins.datasets.mnist import MNIST, FashionMNIST
from infomax_plugins.datasets.stl10 import STL10
from infomax_plugins.datasets.svhn import SVHN

ALL: list[type[ImageDataset]] = [CIFAR10, CIFAR100, STL10, SVHN, MNIST, FashionMNIST]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFOMAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.mkdir()
    return path


def stored(data: Dataset, root: Path, name: str) -> torch.Tensor:
    """The images of a split as bytes, and as they are stored."""
    split = data.split(root, name)
    images = torch.stack([split[index, 7].input for index in range(len(split))])
    assert images.dtype == torch.float32
    assert 0 <= images.min() <= images.max() <= 1
    return (images * 255).round().to(torch.uint8)


def labels(data: Dataset, root: Path, name: str) -> list[int]:
    split = data.split(root, name)
    found = [split[index, None].labels["class"] for index in range(len(split))]
    assert list(split.item_labels("class")) == found
    return [int(label) for label in found]


def refuses(data: Dataset, root: Path) -> str:
    """The one line that `describe` ends in."""
    with pytest.raises(DataError) as caught:
        data.describe(root)
    assert "\n" not in caught.value.message
    return caught.value.message


# --- what all have in common -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "write"), [(CIFAR10, write_cifar10), (CIFAR100, write_cifar100), (STL10, write_stl10), (SVHN, write_svhn)]
)
def test_grey_is_one_channel_the_luma(
    kind: Callable[..., ImageDataset], write: Callable[[Path], object], root: Path
) -> None:
    write(root / "here")
    colour, grey = kind(path="here"), kind(path="here", grey=True)
    assert (colour.describe(root).channels, grey.describe(root).channels) == (3, 1)
    x = colour.split(root, "test")[0, None].input.double()
    wanted = 0.299 * x[0] + 0.587 * x[1] + 0.114 * x[2]
    torch.testing.assert_close(grey.split(root, "test")[0, None].input.double(), wanted[None], atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ALL)
def test_missing_files_are_told_with_the_command_that_gets_them(
    kind: Callable[[], ImageDataset], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FashionMNIST, "folders", FashionMNIST.folders[:2])  # Debian's package may be installed
    data = kind()
    assert isinstance(data, Dataset)
    with pytest.raises(DataError, match=f"there is no {data.name} at") as caught:
        data.describe(root)
    hint = caught.value.hint or ""
    assert f"`infomax download {data.published} --root {root}` gets it" in hint
    assert "MiB" in hint or "GiB" in hint
    assert "`--data digits` needs none and runs right now" in hint
    assert data.downloads


def test_a_single_missing_file_is_named(root: Path) -> None:
    write_cifar10(root / "cifar-10-batches-py")
    (root / "cifar-10-batches-py" / "data_batch_3").unlink()
    assert "there is no data_batch_3 in" in refuses(CIFAR10(), root)


def test_files_elsewhere_are_found_by_path(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path / "else where", zipped=True)
    monkeypatch.chdir(tmp_path)
    for path in ("else where", str(tmp_path / "else where"), "../else where"):
        assert FashionMNIST(path=path).describe(root).sizes["test"] == 10


@pytest.mark.parametrize("fraction", [0.0, 0.25])
def test_validation_is_held_out_from_each_class_of_train(root: Path, fraction: float) -> None:
    write_mnist(root / "MNIST" / "raw", zipped=False, counts=(80, 10))
    data = MNIST(validation_fraction=fraction)
    sizes = data.describe(root).sizes
    if fraction == 0:
        assert sizes == {"train": 80, "test": 10}
        with pytest.raises(DataError, match="validation of mnist is empty: validation_fraction is 0"):
            data.split(root, "validation")
        return
    assert sizes == {"train": 60, "validation": 20, "test": 10}
    assert sorted(labels(data, root, "validation")) == sorted([*range(10)] * 2)
    ids = {name: {data.split(root, name)[i, None].id for i in range(sizes[name])} for name in ("train", "validation")}
    assert len(ids["train"] | ids["validation"]) == 80
    again = MNIST(validation_fraction=fraction, split_seed=3)
    assert {again.split(root, "validation")[i, None].id for i in range(20)} != ids["validation"]


def test_a_new_image_hardly_changes_what_is_held_out() -> None:
    names = [f"image {number}.png" for number in range(1000)]
    _, held = hold_out(keys_of(names), np.zeros(1000, dtype=np.int64), 0.1, 1)
    kept, more = hold_out(keys_of([*names, "new.png"]), np.zeros(1001, dtype=np.int64), 0.1, 1)
    assert len(held) == len(more) == 100
    assert len(set(held) ^ set(more)) <= 2
    assert sorted([*kept, *more]) == list(range(1001))


def test_few_images_are_not_all_held_out() -> None:
    classes = np.array([0, 1, 1, 2, 2, 2])
    _, held = hold_out(np.arange(6, dtype=np.uint64), classes, 0.99, 1)
    assert sorted(classes[held]) == [1, 2, 2]


@pytest.mark.parametrize(("size", "resize", "shape"), [(None, None, 28), (20, None, 20), (20, 24, 20), (40, None, 40)])
def test_evaluation_sees_exactly_the_grid_and_training_the_stored_image(
    root: Path, size: int | None, resize: int | None, shape: int
) -> None:
    images = write_mnist(root / "MNIST" / "raw", zipped=False)
    data = MNIST(size=size, resize=resize, validation_fraction=0)
    assert data.describe(root).grid == (shape, shape)
    split = data.split(root, "train")
    assert split[0, None].input.shape == (1, shape, shape)
    assert split[0, 4].input.shape == (1, 28, 28)
    middle = torch.from_numpy(images[0, 4:24, 4:24]).float() / 255
    if size == 20:
        assert torch.equal(split[0, None].input[0], middle) == (resize is None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size is 0"),
        ({"size": 32, "resize": 28}, "resize is 28, less than size, 32"),
        ({"validation_fraction": 1.0}, "validation_fraction is 1.0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CIFAR10(**options)  # type: ignore[arg-type]


def test_splits_and_labels_that_are_not_there(root: Path) -> None:
    data = Digits()
    with pytest.raises(DataError, match="digits has no split 'seen'"):
        data.split(root, "seen")
    with pytest.raises(DataError, match="no whole-item label 'speaker'; there are: class"):
        data.split(root, "train").item_labels("speaker")
    with pytest.raises(IndexError):
        data.split(root, "train")[10_000, None]


def test_a_worker_reads_what_this_process_reads_and_gets_no_images_by_pickle(root: Path) -> None:
    write_stl10(root / "stl10_binary")
    split = STL10(validation_fraction=0).split(root, "train")
    assert split[0, None].input.shape == (3, 96, 96)  # the file is mapped by now
    sent = pickle.dumps(split)
    assert len(sent) < 20_000
    received = pickle.loads(sent)
    for index in (3, 40):
        assert torch.equal(received[index, None].input, split[index, None].input)


# --- CIFAR -----------------------------------------------------------------------------------------------------------


def test_cifar10_reads_what_python_2_wrote(root: Path) -> None:
    images, classes, tested, test_classes = write_cifar10(root / "cifar-10-batches-py")
    data = CIFAR10(validation_fraction=0)
    spec = data.describe(root)
    assert (spec.channels, spec.grid, spec.axes, spec.rate) == (3, (32, 32), ("height", "width"), None)
    assert spec.sizes == {"train": 20, "test": 4}
    assert spec.labels["class"].names == tuple(f"class {number}" for number in range(10))
    assert torch.equal(stored(data, root, "train"), torch.from_numpy(images))
    assert torch.equal(stored(data, root, "test"), torch.from_numpy(tested))
    assert labels(data, root, "train") == classes
    assert labels(data, root, "test") == test_classes


def test_cifar100_has_the_fine_classes(root: Path) -> None:
    images, classes = write_cifar100(root / "cifar-100-python")
    data = CIFAR100(validation_fraction=0)
    assert data.describe(root).labels["class"].names[99] == "fine 99"
    assert labels(data, root, "train") == classes
    assert torch.equal(stored(data, root, "test"), torch.from_numpy(images))


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_batches_that_were_written_anew_by_python_3_are_read(root: Path, protocol: int) -> None:
    folder = root / "cifar-10-batches-py"
    images, *_ = write_cifar10(folder)
    batch = {"data": images[:4].reshape(4, -1), "labels": [0, 1, 2, 3]}
    (folder / "data_batch_1").write_bytes(pickle.dumps(batch, protocol=protocol))
    data = CIFAR10(validation_fraction=0)
    assert torch.equal(stored(data, root, "train"), torch.from_numpy(images))


class Hostile:
    """Unpickled by `pickle`, it leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.trace),)


def test_a_hostile_pickle_is_refused_and_nothing_of_it_is_run(root: Path, tmp_path: Path) -> None:
    folder, trace = root / "cifar-10-batches-py", tmp_path / "trace"
    write_cifar10(folder)
    hostile = pickle.dumps({"data": noise(4, 3072), "labels": [0, 1, 2, 3], "more": Hostile(trace)})
    (folder / "data_batch_2").write_bytes(hostile)
    message = refuses(CIFAR10(), root)
    assert "data_batch_2 is refused" in message
    assert "posix.mkdir" in message
    assert not trace.exists()
    pickle.loads(hostile)
    assert trace.exists()  # it would have


@pytest.mark.parametrize(
    "content",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'/etc/passwd'\ntR.",
        b"cnumpy.core.multiarray\nfromfile\n(S'/etc/passwd'\ntR.",
        b"cnumpy\nndarray\n((I9999999\ntR.",
        b"cnumpy\ndtype\n(S'O8'\ntR.",
        b"cos\nsystem\n.",
    ],
)
def test_pickles_that_ask_for_more_than_arrays_are_refused(root: Path, content: bytes) -> None:
    write_cifar10(root / "cifar-10-batches-py")
    (root / "cifar-10-batches-py" / "batches.meta").write_bytes(content)
    message = refuses(CIFAR10(), root)
    assert "batches.meta is refused" in message or "batches.meta is damaged" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-40], "is damaged, or no pickle"),
        (lambda content: b"", "is damaged, or no pickle"),
        (lambda content: b"\x00" * 100, "is damaged, or no pickle"),
        (lambda content: python2_pickle([1, 2]), "is none of CIFAR's files: it has no list called labels"),
        (lambda content: python2_pickle({"labels": [3, 11, 0, 0]}), "has the class 11; classes are 0 to 9"),
        (lambda content: python2_pickle({"labels": ["3"]}), "labels are no whole numbers"),
    ],
)
def test_a_damaged_batch_is_named(root: Path, change: Callable[[bytes], bytes], message: str) -> None:
    path = root / "cifar-10-batches-py" / "data_batch_4"
    write_cifar10(path.parent)
    path.write_bytes(change(path.read_bytes()))
    told = refuses(CIFAR10(), root)
    assert message in told
    assert "data_batch_4" in told


def test_a_batch_of_another_shape_is_named_when_images_are_needed(root: Path) -> None:
    path = root / "cifar-10-batches-py" / "test_batch"
    write_cifar10(path.parent)
    path.write_bytes(python2_pickle({"labels": [1, 2], "data": noise(2, 100)}))
    data = CIFAR10()
    assert data.describe(root).sizes["test"] == 2
    with pytest.raises(DataError, match=r"test_batch is damaged: its data is uint8 \(2, 100\)"):
        data.split(root, "test")


def test_describing_again_reads_no_batch(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar10(root / "cifar-10-batches-py")
    first = CIFAR10().describe(root)
    from infomax_plugins.datasets import cifar

    read: list[str] = []
    load = cifar.load_pickle
    monkeypatch.setattr(cifar, "load_pickle", lambda path: (read.append(path.name), load(path))[1])
    assert CIFAR10().describe(root) == first
    assert read == ["batches.meta"]


# --- STL-10 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("subset", "trained"), [("labelled", 20), ("unlabelled", 30), ("both", 50)])
def test_stl10_trains_on_the_subset_and_is_probed_on_the_labelled_images(root: Path, subset: str, trained: int) -> None:
    written = write_stl10(root / "stl10_binary")
    data = STL10(subset=subset, validation_fraction=0)  # type: ignore[arg-type]
    spec = data.describe(root)
    assert spec.sizes == {"train": trained, "test": 10, "labelled": 20}
    assert spec.grid == (96, 96)
    assert data.probe_splits == {"class": ("labelled", "test")}
    classes = [place % 10 for place in range(20)]
    expected = {
        "labelled": (classes, written["train"]),
        "unlabelled": ([-1] * 30, written["unlabeled"]),
        "both": (classes + [-1] * 30, np.concatenate([written["train"], written["unlabeled"]])),
    }[subset]
    assert labels(data, root, "train") == expected[0]
    assert torch.equal(stored(data, root, "train"), torch.from_numpy(expected[1]))
    assert labels(data, root, "labelled") == classes
    assert labels(data, root, "test") == [place % 10 for place in range(10)]
    assert torch.equal(stored(data, root, "test"), torch.from_numpy(written["test"]))


def test_labelled_images_alone_need_no_unlabelled_file(root: Path) -> None:
    write_stl10(root / "stl10_binary")
    (root / "stl10_binary" / "unlabeled_X.bin").unlink()
    assert STL10(subset="labelled", validation_fraction=0).describe(root).sizes["train"] == 20
    assert "there is no unlabeled_X.bin" in refuses(STL10(), root)


def test_stl10_validation_comes_from_labelled_and_unlabelled(root: Path) -> None:
    write_stl10(root / "stl10_binary", labelled=40, unlabelled=60)
    data = STL10(validation_fraction=0.25)
    assert data.describe(root).sizes == {"train": 75, "validation": 25, "test": 10, "labelled": 40}
    assert sorted(labels(data, root, "validation")) == [-1] * 15 + [*range(10)]


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("train_X.bin", lambda content: content[:-1], "train_X.bin is damaged, or cut short"),
        ("unlabeled_X.bin", lambda content: b"", "unlabeled_X.bin is damaged, or cut short"),
        ("test_y.bin", lambda content: content[:-1], "holds 10 images, and"),
        ("train_y.bin", lambda content: bytes(20), "train_y.bin has the class 0; classes are 1 to 10"),
    ],
)
def test_a_damaged_file_of_stl10_is_named(
    root: Path, file: str, change: Callable[[bytes], bytes], message: str
) -> None:
    write_stl10(root / "stl10_binary")
    path = root / "stl10_binary" / file
    path.write_bytes(change(path.read_bytes()))
    assert message in refuses(STL10(), root)


# --- SVHN ------------------------------------------------------------------------------------------------------------


def test_svhn_calls_the_digit_0_class_0(root: Path) -> None:
    images = write_svhn(root / "SVHN")
    data = SVHN(validation_fraction=0)
    assert data.describe(root).sizes == {"train": 20, "test": 20}
    assert labels(data, root, "train") == [place % 10 for place in range(20)]
    assert torch.equal(stored(data, root, "test"), torch.from_numpy(images))


def test_svhn_is_found_where_torchvision_puts_it(root: Path) -> None:
    write_svhn(root / "SVHN")
    assert SVHN().describe(root / "SVHN").sizes["test"] == 20


def test_a_damaged_file_of_svhn_is_named(root: Path) -> None:
    from scipy.io import savemat

    write_svhn(root / "SVHN")
    path = root / "SVHN" / "train_32x32.mat"
    content = path.read_bytes()
    for damaged in (content[:-30], content[: len(content) // 2], b"", b"no MATLAB"):
        path.write_bytes(damaged)
        message = refuses(SVHN(), root)
        assert "train_32x32.mat" in message
        assert "cut short" in message
    savemat(path, {"X": noise(28, 28, 1, 5)})
    assert "train_32x32.mat is none of SVHN's files, or cut short: it holds X (28, 28, 1, 5)" in refuses(SVHN(), root)


# --- MNIST and Fashion-MNIST -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [MNIST, FashionMNIST])
@pytest.mark.parametrize("zipped", [True, False])
def test_mnist_files_plain_or_gzipped(root: Path, kind: type[MNIST], zipped: bool) -> None:
    images = write_mnist(root / ("MNIST" if kind is MNIST else "FashionMNIST") / "raw", zipped=zipped)
    data = kind(validation_fraction=0)
    spec = data.describe(root)
    assert (spec.channels, spec.grid, spec.sizes) == (1, (28, 28), {"train": 20, "test": 10})
    assert spec.labels["class"].names[9] == ("9" if kind is MNIST else "Ankle boot")
    assert torch.equal(stored(data, root, "train")[:, 0], torch.from_numpy(images))
    assert labels(data, root, "test") == list(range(10))


def test_names_with_a_dot_are_known(root: Path) -> None:
    folder = root / "MNIST" / "raw"
    write_mnist(folder, zipped=False)
    for path in folder.iterdir():
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert MNIST().describe(root).sizes["test"] == 10


def _wrong(stem: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Changes a gzipped file that has that in its name, before it is compressed."""

    def apply(folder: Path) -> None:
        path = next(path for path in folder.iterdir() if stem in path.name)
        path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()))))

    return apply


def _cut(folder: Path) -> None:
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut, "train-images-idx3-ubyte.gz is damaged, or cut short"),
        (_wrong("train-images", lambda content: content[:-1]), "its header says 20 x 28 x 28 bytes, and 15,679 follow"),
        (_wrong("train-images", lambda content: content + b"x"), "its header says 20 x 28 x 28 bytes, and more follow"),
        (_wrong("t10k-images", lambda content: b"\1" + content[1:]), "is no idx file of bytes with 3 axes: it begins"),
        (_wrong("t10k-images", lambda content: b""), "is no idx file of bytes with 3 axes: it begins with nothing"),
        (_wrong("train-labels", lambda content: idx(noise(3, 28, 28))), "is no idx file of bytes with 1 axes"),
        (_wrong("train-labels", lambda content: idx(noise(19) % 10)), "says 20 images, and"),
        (_wrong("train-labels", lambda content: idx(noise(20))), "classes are 0 to 9"),
        (lambda folder: (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(b"<html>"), "is damaged, or cut short"),
        (lambda folder: (folder / "t10k-labels-idx1-ubyte.gz").unlink(), "there is no t10k-labels-idx1-ubyte in"),
    ],
)
def test_a_damaged_idx_file_ends_in_one_clear_line(root: Path, damage: Callable[[Path], None], message: str) -> None:
    write_mnist(root / "MNIST" / "raw", zipped=True)
    damage(root / "MNIST" / "raw")
    data = MNIST(validation_fraction=0)

    def read() -> None:
        data.describe(root)
        data.split(root, "train")  # of gzipped images only their header was read before

    with pytest.raises(DataError) as caught:
        read()
    assert message in caught.value.message
    assert "\n" not in caught.value.message


def test_a_plain_idx_file_that_is_cut_short_is_named(root: Path) -> None:
    write_mnist(root / "MNIST" / "raw", zipped=False)
    path = root / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-3])
    data = MNIST()
    data.describe(root)
    with pytest.raises(DataError, match="its header says 20 x 28 x 28 bytes, and 15,677 follow"):
        data.split(root, "train")


# --- digits ----------------------------------------------------------------------------------------------------------


def test_digits_are_real_and_need_no_files(root: Path) -> None:
    from sklearn.datasets import load_digits

    data = Digits()
    data.download(root)
    assert list(root.iterdir()) == []
    spec = data.describe(root)
    assert (spec.channels, spec.grid, sum(spec.sizes.values())) == (1, (8, 8), 1797)
    real = load_digits()
    seen: set[str] = set()
    for name, size in spec.sizes.items():
        split = data.split(root, name)
        for index in range(size):
            item = split[index, None]
            place = int(item.id.removeprefix("digits/"))
            assert torch.equal(item.input[0], torch.from_numpy(real.images[place] / 16).float())
            assert item.labels["class"] == real.target[place]
            seen.add(item.id)
    assert len(seen) == 1797


def test_each_digit_has_its_share_of_each_split(root: Path) -> None:
    data = Digits(test_fraction=0.25, validation_fraction=0.2)
    counts = {
        name: np.bincount(data.split(root, name).item_labels("class")) for name in ("train", "validation", "test")
    }
    total = sum(counts.values())
    assert np.abs(counts["test"] - 0.25 * total).max() < 1
    assert np.abs(counts["validation"] - 0.2 * (total - counts["test"])).max() < 1
    again = Digits(test_fraction=0.25, validation_fraction=0.2).split(root, "test")
    assert [again[i, None].id for i in range(20)] == [data.split(root, "test")[i, None].id for i in range(20)]


def test_digits_can_be_enlarged(root: Path) -> None:
    data = Digits(size=32)
    assert data.describe(root).grid == (32, 32)
    image = data.split(root, "test")[0, None].input
    assert image.shape == (1, 32, 32)
    assert 0 <= image.min() <= image.max() <= 1


def test_without_a_test_split_digits_say_why(root: Path) -> None:
    data = Digits(test_fraction=0.0)
    assert "test" not in data.describe(root).sizes
    with pytest.raises(InfomaxError, match="test_fraction is 0"):
        data.split(root, "test")


def test_nothing_is_logged_where_nothing_is_wrong(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        Digits().split(root, "train")[0, None]
    assert caplog.records == []
