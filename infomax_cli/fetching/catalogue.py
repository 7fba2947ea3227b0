"""What can be downloaded: names, files, where they are, how large they are, their checksums, and what becomes of them.

Checksums and sizes of archives are those that torchaudio, Keras and TensorFlow Datasets publish; what they unpack to is
about right, and for the room on disk alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from infomax_cli.errors import DataError, UsageError
from infomax_cli.paths import root_option
from infomax_cli.wording import describe_bytes, suggest


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file to be had at any of `urls`, which all hold the same bytes.

    `digest` is ``sha256:...``, ``md5:...`` or ``git:...``. Without it, only `size` and whoever reads the file can tell
    a wrong one. ``gdrive:ID`` is a file on Google Drive, fetched by gdown. What `name` ends in says how it is
    unpacked: .zip, .tar, .tar.gz, .tgz, .tar.bz2, .tar.xz; .gz, .bz2 and .xz hold a single file; others stay as they
    are. `or_else` is taken where this file cannot be had.
    """

    name: str
    urls: tuple[str, ...]
    size: int | None = None
    digest: str | None = None
    or_else: RemoteFile | None = None

    def alternatives(self) -> Iterator[RemoteFile]:
        """This file, and what may take its place, in order."""
        yield self
        if self.or_else is not None:
            yield from self.or_else.alternatives()


@dataclass(frozen=True, kw_only=True)
class Subset:
    """A folder of data, and the files that it is made of.

    `folder` is relative to the data root. `inside` is the folder within the archives that becomes it ("" is all that
    they hold); files beside that folder, such as a README, come to lie beside `folder`. `unpacked` is about how many
    bytes it has. `count` is how many files with which ending it has, where that is known: `(".flac", 2703)`. `check` is
    shown the folder before it appears under its name, and raises `DataError` where something is wrong with it.
    """

    folder: str
    files: tuple[RemoteFile, ...]
    inside: str = ""
    unpacked: int | None = None
    count: tuple[str, int] | None = None
    check: Callable[[Path], None] | None = None

    @property
    def size(self) -> int | None:
        """Bytes to download; None where a file does not say."""
        sizes = [file.size for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size is not None)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A dataset that can be downloaded. `default` are the subsets that come unasked; `then` is a command that trains on
    it, without ``infomax``, where no recipe of its own does."""

    name: str
    about: str
    subsets: Mapping[str, Subset]
    default: tuple[str, ...] = ()
    page: str = ""
    then: str = ""

    def command(self, root: Path, *subsets: str) -> str:
        """What to type to get it."""
        chosen = f" --subset {','.join(subsets)}" if subsets and len(self.subsets) > 1 else ""
        return f"infomax download {self.name}{chosen}{root_option(root)}"

    def choose(self, names: Iterable[str]) -> dict[str, Subset]:
        """Subsets by name, several set apart by commas, ``all`` of them, or none for the default."""
        wanted = [name.strip() for names in names for name in names.split(",") if name.strip()] or list(self.default)
        if "all" in wanted or not wanted:
            wanted = list(self.subsets)
        for name in wanted:
            if name not in self.subsets:
                raise UsageError(
                    f"--subset {name}: {self.name} has no such subset", suggest(name, [*self.subsets, "all"])
                )
        return {name: self.subsets[name] for name in self.subsets if name in wanted}

    def how_to_get(self, root: Path, *subsets: str) -> str:
        """For a hint: the command, and how large it is."""
        size = sum(subset.size or 0 for subset in self.choose(subsets).values())
        return f"`{self.command(root, *subsets)}` gets it" + (f" ({describe_bytes(size)})" if size else "")


# --- speech ----------------------------------------------------------------------------------------------------------

_OPENSLR = tuple(f"https://{host}/resources/12" for host in ("www.openslr.org", "us.openslr.org", "openslr.elda.org"))


def _librispeech(name: str, utterances: int, size: int, sha256: str) -> Subset:
    file = f"{name}.tar.gz"
    return Subset(
        folder=f"LibriSpeech/{name}",
        inside=f"LibriSpeech/{name}",
        files=(
            RemoteFile(
                name=file, urls=tuple(f"{base}/{file}" for base in _OPENSLR), size=size, digest=f"sha256:{sha256}"
            ),
        ),
        unpacked=size * 103 // 100,
        count=(".flac", utterances),
    )


_LIBRISPEECH = (  # subset, utterances, bytes and SHA-256 of the archive
    ("dev-clean", 2703, 337926286, "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3"),
    ("dev-other", 2864, 314305928, "12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365"),
    ("test-clean", 2620, 346663984, "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23"),
    ("test-other", 2939, 328757843, "d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29"),
    ("train-clean-100", 28539, 6387309499, "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2"),
    ("train-clean-360", 104014, 23049477885, "146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf"),
    ("train-other-500", 148688, 30593501606, "ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2"),
)

LIBRISPEECH = Entry(
    name="librispeech",
    about="read English speech, 1,000 hours (Panayotov et al. 2015)",
    page="https://www.openslr.org/12",
    default=("train-clean-100",),
    then="train gim",
    subsets={row[0]: _librispeech(*row) for row in _LIBRISPEECH},
)


_UTTERANCE = re.compile(rb"\d+-\d+-\d+")


def check_labels(folder: Path) -> None:
    """Whether the split and the phones of van den Oord et al. are what they should be, whoever they came from."""
    for name in ("train_split.txt", "test_split.txt"):
        ids = (folder / name).read_bytes().split() if (folder / name).is_file() else []
        if not ids or not all(map(_UTTERANCE.fullmatch, ids)):
            raise DataError(f"{name} is no list of utterances", "its lines should read like 103-1240-0000")
    phones = folder / "converted_aligned_phones.txt"
    if not phones.is_file():
        raise DataError("there is no converted_aligned_phones.txt among the files")
    with phones.open("rb") as file:
        for number, line in enumerate(file, 1):
            utterance, _, classes = line.strip().partition(b" ")
            if not _UTTERANCE.fullmatch(utterance) or not classes.replace(b" ", b"").isdigit():
                raise DataError(
                    f"converted_aligned_phones.txt, line {number}, is no utterance with its phones",
                    "a line should read like 103-1240-0000 0 0 14 14 3",
                )


# The authors' files are on Google Drive. s3prl keeps a copy, known here by its commit and by the ids that git gave it.
_S3PRL = "https://raw.githubusercontent.com/s3prl/s3prl/51b1ec4b1b95962ccb8eaa1e26029df542ba0776"


def _labels(name: str, drive: str, size: int | None, digest: str, *others: RemoteFile) -> RemoteFile:
    """The copy, else another form of it, else the authors' own file, which only `check_labels` can tell from others."""
    last = RemoteFile(name=name, urls=(f"gdrive:{drive}",))
    for other in others:
        last = replace(other, or_else=last)
    url = f"{_S3PRL}/data/cpc_phone/{name}"
    return RemoteFile(name=name, urls=(url,), size=size, digest=digest, or_else=last)


LABELS = Entry(
    name="librispeech-labels",
    about="phones of train-clean-100, one in 10 ms, and the split (van den Oord et al. 2018)",
    page="https://github.com/loeweX/Greedy_InfoMax",
    then="probe phone",
    subsets={
        "all": Subset(
            folder="LibriSpeech100_labels_split",
            files=(
                _labels(
                    "train_split.txt",
                    "1ubREoLQu47_ZDn39YWv1wvVPe2ZlIZAb",
                    370218,
                    "sha256:c37e1c4831552fad4c9595526166fc0ff0481eed8e02622c3c5d73386cd8b62d",
                ),
                _labels(
                    "test_split.txt",
                    "1vSHmncPsRY7VWWAd_BtoWs9-fQ5cBrEB",
                    92589,
                    "sha256:a961da3bdcd86ae56ba186e07c36e20ba6e2532f985b2b77811e9df93605770c",
                ),
                _labels(
                    "converted_aligned_phones.zip",
                    "1bLuDkapGBERG_VYPS7fNZl5GXsQ9z3p2",
                    None,
                    "git:0363b0fb4741c7427351e1c0f19eb1e1cdd18086",
                    RemoteFile(
                        name="converted_aligned_phones.txt",
                        urls=(f"{_S3PRL}/benchmark/downstream/phone_linear/data/converted_aligned_phones.txt",),
                        digest="git:d66ab549a9ff96931d0d0bc982cc0be56117fe98",
                    ),
                ),
            ),
            unpacked=100_000_000,
            check=check_labels,
        )
    },
)


def _archive(url: str, size: int, sha256: str, *mirrors: str) -> RemoteFile:
    return RemoteFile(name=url.rpartition("/")[2], urls=(url, *mirrors), size=size, digest=f"sha256:{sha256}")


def _single(name: str, about: str, page: str, subset: Subset, then: str = "") -> Entry:
    """A dataset that comes whole."""
    return Entry(name=name, about=about, page=page, subsets={"all": subset}, then=then)


SPEECH_COMMANDS = _single(
    "speechcommands",
    "35 words, a second each, 105,829 recordings (Warden 2018, version 0.02)",
    "https://arxiv.org/abs/1804.03209",
    Subset(
        folder="SpeechCommands/speech_commands_v0.02",
        files=(
            _archive(
                "https://storage.googleapis.com/download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
                2428923189,
                "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
                "http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
            ),
        ),
        unpacked=3_400_000_000,
    ),
    "train gim --data folder data.path=SpeechCommands/speech_commands_v0.02 data.crop=16000 "
    "data.label_from=parent data.label_name=word",
)

LJSPEECH = _single(
    "ljspeech",
    "one speaker reading English, 24 hours at 22,050 Hz (Ito and Johnson 2017)",
    "https://keithito.com/LJ-Speech-Dataset",
    Subset(
        folder="LJSpeech-1.1",
        inside="LJSpeech-1.1",
        files=(
            _archive(
                "https://data.keithito.com/data/speech/LJSpeech-1.1.tar.bz2",
                2748572632,
                "be1a30453f28eb8dd26af4101ae40cbf2c50413b1bb21936cbcdc6fae3de8aa5",
            ),
        ),
        unpacked=3_830_000_000,
        count=(".wav", 13100),
    ),
    "train gim --data folder data.path=LJSpeech-1.1/wavs",
)

VCTK = _single(
    "vctk",
    "110 speakers of English, 44 hours at 48,000 Hz (Yamagishi et al. 2019, version 0.92)",
    "https://datashare.ed.ac.uk/handle/10283/3443",
    Subset(
        folder="VCTK-Corpus-0.92",
        files=(
            _archive(
                "https://datashare.is.ed.ac.uk/bitstream/handle/10283/3443/VCTK-Corpus-0.92.zip",
                11747302977,
                "f96258be9fdc2cbff6559541aae7ea4f59df3fcaf5cf963aae5ca647357e359c",
                "https://datashare.ed.ac.uk/bitstream/handle/10283/3443/VCTK-Corpus-0.92.zip",
            ),
        ),
        unpacked=12_000_000_000,
    ),
    "train gim --data folder data.path=VCTK-Corpus-0.92/wav48_silence_trimmed data.label_from=parent "
    "data.label_name=speaker",
)

# --- images ----------------------------------------------------------------------------------------------------------

CIFAR10 = _single(
    "cifar10",
    "60,000 photographs of 32 by 32, ten classes (Krizhevsky 2009)",
    "https://www.cs.toronto.edu/~kriz/cifar.html",
    Subset(
        folder="cifar-10-batches-py",
        inside="cifar-10-batches-py",
        files=(
            _archive(
                "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
                170498071,
                "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            ),
        ),
        unpacked=186_300_000,
    ),
)

CIFAR100 = _single(
    "cifar100",
    "60,000 photographs of 32 by 32, a hundred classes (Krizhevsky 2009)",
    "https://www.cs.toronto.edu/~kriz/cifar.html",
    Subset(
        folder="cifar-100-python",
        inside="cifar-100-python",
        files=(
            _archive(
                "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
                169001437,
                "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
            ),
        ),
        unpacked=186_400_000,
    ),
)

STL10 = _single(
    "stl10",
    "113,000 photographs of 96 by 96, of which 13,000 in ten classes (Coates et al. 2011)",
    "https://cs.stanford.edu/~acoates/stl10",
    Subset(
        folder="stl10_binary",
        inside="stl10_binary",
        files=(
            _archive(
                "https://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
                2640397119,
                "f31fd99273a1acb8609c8db427cebb1de3f71de77758cdc0e22956e1289b9866",
                "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
            ),
        ),
        unpacked=3_124_300_000,
    ),
)


def _idx(folder: str, bases: tuple[str, ...], files: tuple[tuple[str, int, str], ...]) -> Subset:
    """Pictures and classes of MNIST's kind; all of them unpack to the same size."""
    return Subset(
        folder=folder,
        files=tuple(_archive(f"{bases[0]}/{name}", size, sha256, *(f"{base}/{name}" for base in bases[1:]))
                    for name, size, sha256 in files),
        unpacked=54_950_048,
    )  # fmt: skip


MNIST = _single(
    "mnist",
    "70,000 handwritten digits, grey, 28 by 28 (LeCun et al. 1998)",
    "http://yann.lecun.com/exdb/mnist",
    _idx(
        "MNIST/raw",
        ("https://storage.googleapis.com/cvdf-datasets/mnist", "https://ossci-datasets.s3.amazonaws.com/mnist"),
        (
            (
                "train-images-idx3-ubyte.gz",
                9912422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            (
                "train-labels-idx1-ubyte.gz",
                28881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
            (
                "t10k-images-idx3-ubyte.gz",
                1648877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            ("t10k-labels-idx1-ubyte.gz", 4542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
        ),
    ),
)

FASHION_MNIST = _single(
    "fashion-mnist",
    "70,000 grey pictures of clothes, 28 by 28, ten classes (Xiao et al. 2017)",
    "https://github.com/zalandoresearch/fashion-mnist",
    _idx(
        "FashionMNIST/raw",
        (
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        ),
        (
            (
                "train-images-idx3-ubyte.gz",
                26421880,
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            ),
            (
                "train-labels-idx1-ubyte.gz",
                29515,
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            ),
            (
                "t10k-images-idx3-ubyte.gz",
                4422102,
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            ),
            ("t10k-labels-idx1-ubyte.gz", 5148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
        ),
    ),
)

SVHN = _single(
    "svhn",
    "99,289 house numbers photographed from the street, 32 by 32, ten digits (Netzer et al. 2011)",
    "http://ufldl.stanford.edu/housenumbers",
    Subset(
        folder="SVHN",
        files=(
            _archive(
                "http://ufldl.stanford.edu/housenumbers/train_32x32.mat",
                182040794,
                "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
            ),
            _archive(
                "http://ufldl.stanford.edu/housenumbers/test_32x32.mat",
                64275384,
                "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
            ),
        ),
        unpacked=182040794 + 64275384,
    ),
)

CATALOGUE: Mapping[str, Entry] = {
    entry.name: entry
    for entry in (
        *(LIBRISPEECH, LABELS, SPEECH_COMMANDS, LJSPEECH, VCTK),
        *(CIFAR10, CIFAR100, STL10, SVHN, MNIST, FASHION_MNIST),
    )
}

EMBEDDED: Mapping[str, str] = {
    "syllables": "spoken syllables by synthetic voices, made in seconds",
    "digits": "1,797 handwritten digits, 8 by 8",
}
"""Datasets that come with infomax: they need no download, and run right now."""

NOT_FOR_DOWNLOAD: Mapping[str, str] = {
    "folder": "your own recordings; data.path= names them",
    "imagefolder": "your own images; data.path= names them",
    "deboer": "its authors give it by git: https://github.com/fdenoodt/Artificial-Speech-Dataset",
}
"""Datasets of files that `infomax download` does not get."""


def entry_of(dataset: str) -> Entry | None:
    """What is to be downloaded for the dataset of this name, if anything."""
    return CATALOGUE.get(dataset) or CATALOGUE.get(dataset.replace("_", "-"))
