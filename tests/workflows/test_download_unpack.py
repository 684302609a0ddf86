"""Archives that are hostile, damaged or both: refused or right, nothing outside, nothing left."""

import errno
import io
import random
import stat
import struct
import warnings
import zipfile
from pathlib import Path

import pytest
from messages import refused

from cxrignite.errors import CxrIgniteError, DataError
from cxrignite.workflows.download import unpack as unpacking
from cxrignite.workflows.download.catalogue import PublicData
from cxrignite.workflows.download.unpack import unpack

FOLDERS = ("train/NORMAL", "train/PNEUMONIA", "test/NORMAL", "test/PNEUMONIA")
DATA = PublicData(
    name="tiny",
    url="http://nowhere",
    archive_name="tiny.zip",
    size=0,  # unpacking looks at what is in it
    sha256="0" * 64,
    folder="chest_xray",
    num_images=dict.fromkeys(FOLDERS, 2),
    max_unpacked_bytes=100_000,
    licence="CC BY 4.0",
    citation="Somebody (2018)",
    doi="10.1/tiny",
)
CENTRAL = b"PK\x01\x02"
# Where a central header keeps what, and how wide it is.
FLAGS, METHOD, CRC, CACHED, SIZE, MODE = (
    (8, "H"),
    (10, "H"),
    (16, "I"),
    (20, "I"),
    (24, "I"),
    (38, "I"),
)


def image_bytes(name):
    return random.Random(name).randbytes(700)


RECORDS = {
    f"{folder}/IM-000{each}-0001.jpeg": image_bytes(f"{folder}{each}")
    for folder in FOLDERS
    for each in (1, 2)
}


def build(*more, instead=None, leave_out=(), method=zipfile.ZIP_DEFLATED):
    """An archive of all images, and of `(name or ZipInfo, bytes)` behind them."""
    entries = [("chest_xray/train/", b""), ("chest_xray/.DS_Store", b"litter")]
    for name, content in RECORDS.items():
        if name not in leave_out:
            entries.append((f"chest_xray/{name}", (instead or {}).get(name, content)))
    entries.append(("__MACOSX/chest_xray/train/NORMAL/._IM-0001-0001.jpeg", b"litter"))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a name that stands twice
        for entry, content in (*entries, *more):
            # By a name alone it would have the time of now, and each run other archives.
            info = zipfile.ZipInfo(entry) if isinstance(entry, str) else entry
            archive.writestr(info, content, method)
    return buffer.getvalue()


def patched(body, field, value, entry=2):
    """An archive whose list says something else of one of its entries."""
    place = -1
    for _ in range(entry + 1):
        place = body.index(CENTRAL, place + 1)
    changed = bytearray(body)
    struct.pack_into(f"<{field[1]}", changed, place + field[0], value)
    return bytes(changed)


def entry_of_mode(name, kind):
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = (kind | 0o777) << 16
    return info


def renamed(name):
    """An archive one of whose images has another name, of the same length, in both places."""
    old = b"chest_xray/test/NORMAL/IM-0001-0001.jpeg"
    assert len(name) == len(old)
    return build().replace(old, name)


class Playground:
    """A folder to unpack in, inside one where everything that leaks would show."""

    def __init__(self, root: Path) -> None:
        self.root, self.into = root, root / "deep" / "data"
        self.into.mkdir(parents=True)
        self.archive = self.into / "tiny.zip"
        (root / "precious.jpeg").write_bytes(b"precious")
        self.target = self.into / "chest_xray"
        self.before = self.others()

    def others(self):
        return {
            path.relative_to(self.root): path.read_bytes() if path.is_file() else None
            for path in self.root.rglob("*")
            if path != self.archive and self.target not in (path, *path.parents)
        }

    def unpack(self, body):
        """Whether it was unpacked; if not it was refused, and neither leaves anything else."""
        self.archive.write_bytes(body)
        refusal = None
        try:
            unpack(self.archive, DATA, self.target)
        except DataError as error:
            refusal = str(error)
        if refusal is not None:
            assert refusal.startswith(str(self.archive))
            assert len(refusal.splitlines()) == 1
            assert not self.target.exists()
        else:
            found = {
                path.relative_to(self.target).as_posix(): path.read_bytes()
                for path in self.target.rglob("*")
                if path.is_file()
            }
            del found["origin.json"]
            assert found == RECORDS
            assert not any(path.is_symlink() for path in self.target.rglob("*"))
            for path in sorted(self.target.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            self.target.rmdir()
        assert self.others() == self.before
        return refusal is None


@pytest.fixture
def playground(tmp_path):
    return Playground(tmp_path)


def test_a_right_archive_is_unpacked_without_the_litter_of_macos(playground):
    assert playground.unpack(build())


NAMES = [
    *(
        "../evil.jpeg",
        "../../evil.jpeg",
        "/evil.jpeg",
        "//host/evil.jpeg",
        "C:/evil.jpeg",
        "C:evil.jpeg",
    ),
    *("chest_xray/../../evil.jpeg", "chest_xray/train/NORMAL/../../../../evil.jpeg"),
    *("chest_xray/train/NORMAL/..\\..\\evil.jpeg", "chest_xray\\train\\NORMAL\\evil.jpeg"),
    *("chest_xray/train/NORMAL/C:evil.jpeg", "chest_xray/train/NORMAL/evil.jpeg:stream.jpeg"),
    *("chest_xray/train/NORMAL//evil.jpeg", "chest_xray/train/./NORMAL/evil.jpeg"),
    *("chest_xray/train/NORMAL/.evil.jpeg", "chest_xray/train/NORMAL/...jpeg"),
    *("chest_xray/train/NORMAL/evil.sh", "chest_xray/train/NORMAL/evil.jpeg.py", "evil.py"),
    *("chest_xray/train/NORMAL/evil", "chest_xray/train/NORMAL/.jpeg", "chest_xray/origin.json"),
    *("chest_xray/train/NORMAL/e\nvil.jpeg", "chest_xray/train/NORMAL/\x1b[2Jevil.jpeg"),
    *("chest_xray/train/NORMAL/\u0435vil.jpeg", "chest_xray/train/NORMAL/evil\u202egpj.jpeg"),
    *("chest_xray/train/NORMAL/IM-0001-0001.jpeg/evil.jpeg", "chest_xray/val/NORMAL/evil.jpeg"),
    *("other/train/NORMAL/evil.jpeg", "train/NORMAL/evil.jpeg", "chest_xray/evil.jpeg"),
    *("chest_xray/train/../", "chest_xray/more/", "../", "/", "chest_xray/train/NORMAL"),
    f"chest_xray/train/NORMAL/{'e' * 300}.jpeg",
]
TWICE = ["IM-0001-0001.jpeg", "im-0001-0001.JPEG", "IM-0001-0001.JPEG", "iM-0001-0001.jpeg"]
KINDS = [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK, stat.S_IFDIR]
LINKS = [
    ("chest_xray/train/NORMAL/IM-0009-0001.jpeg", b"/etc/passwd"),
    ("chest_xray/train/NORMAL/IM-0009-0001.jpeg", b"../../../../precious.jpeg"),
    ("chest_xray/train/", b"/tmp"),
    ("chest_xray/", b"../.."),
]
RECORD = "test/NORMAL/IM-0001-0001.jpeg"
BOMB = build(instead={RECORD: bytes(90_000)})


def crafted():
    """Each is to be refused."""
    for name in NAMES:
        yield f"name {name!a:.60}", build((name, b"evil"))
        yield f"alone {name!a:.60}", build((name, b"evil"), leave_out=[RECORD])
    for name in TWICE:
        again = (f"chest_xray/train/NORMAL/{name}", b"again")
        # As many images as there should be: the name alone is wrong.
        yield f"twice {name}", build(again, leave_out=["train/NORMAL/IM-0002-0001.jpeg"])
    for kind in KINDS:
        yield (
            f"mode {kind:o}",
            build((entry_of_mode(f"chest_xray/{RECORD}", kind), b"x"), leave_out=[RECORD]),
        )
    for name, content in LINKS:
        yield f"link {name}", build((entry_of_mode(name, stat.S_IFLNK), content))
    yield "nul in a name", renamed(b"chest_xray/test/NORMAL/IM-0001.jpeg\x00jpeg")
    yield "an image is missing", build(leave_out=[RECORD])
    yield "an image more", build(("chest_xray/test/NORMAL/IM-0003-0001.jpeg", b"more"))
    yield "a bomb by its ratio", BOMB
    yield "a bomb that claims little", patched(BOMB, SIZE, 700, entry=6)
    yield (
        "a bomb by its sum",
        build(instead={name: random.Random(1).randbytes(20_000) for name in RECORDS}),
    )
    yield "claims more than there is", patched(build(), SIZE, 5000)
    yield "claims less than there is", patched(build(), SIZE, 10)
    yield "claims nothing", patched(build(), SIZE, 0)
    yield "claims 4 GB", patched(build(), SIZE, 2**32 - 2)
    yield "another checksum", patched(build(), CRC, 1)
    yield "less is cached", patched(build(), CACHED, 3)
    for flag in (0x1, 0x41, 0x2000):
        yield f"encrypted {flag:x}", patched(build(), FLAGS, flag)
    for method in (1, 9, 12, 14, 93, 99):
        yield f"method {method}", patched(build(), METHOD, method)
    yield "bzip2", build(method=zipfile.ZIP_BZIP2)
    yield "LZMA", build(method=zipfile.ZIP_LZMA)
    yield "link by the list alone", patched(build(), MODE, (stat.S_IFLNK | 0o777) << 16)
    yield "empty", b""
    yield "no archive", b"<html>login</html>"
    yield "no entries", b"PK\x05\x06" + bytes(18)


def damaged(number):
    """Each is to be refused or right."""
    yield "more is cached than there is", patched(build(), CACHED, 2**31)
    draw = random.Random(7)
    whole = build()
    for each in range(number - 1):
        body = bytearray(whole)
        place = draw.randrange(len(body))
        how = ("cut", "byte", "bit", "zeros", "moved")[each % 5]
        if how == "cut":
            del body[place:]
        elif how == "byte":
            body[place] = draw.randrange(256)
        elif how == "bit":
            body[place] ^= 1 << draw.randrange(8)
        elif how == "zeros":
            body[place : place + 30] = bytes(len(body[place : place + 30]))
        else:
            body[place : place + 8] = body[place : place + 8][::-1]
        yield f"{how} at {place}", bytes(body)


CRAFTED = list(crafted())


def test_there_are_two_hundred_mutations():
    assert len(CRAFTED) + 120 >= 200
    assert len({body for _, body in CRAFTED}) == len(CRAFTED)


@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in CRAFTED])
def test_a_hostile_archive_is_refused_and_nothing_is_left(body, playground):
    assert not playground.unpack(body)


def test_a_damaged_archive_is_refused_or_right(playground):
    outcomes = [playground.unpack(body) for _, body in damaged(120)]
    assert outcomes.count(False) > 90


@pytest.mark.slow
def test_two_thousand_damaged_archives_are_refused_or_right(playground):
    outcomes = [playground.unpack(body) for _, body in damaged(2_000)]
    assert outcomes.count(False) > 1_600


def test_a_bomb_is_refused_before_anything_is_written(playground, monkeypatch):
    def reached(*_):
        raise AssertionError("it began to write")

    monkeypatch.setattr(unpacking, "_unpack", reached)
    assert not playground.unpack(BOMB)


def test_a_disk_that_fills_up_leaves_nothing_and_names_path_and_room(playground, monkeypatch):
    real = Path.open

    def full(path, mode="r", *args, **settings):
        if "x" in mode and path.name == "IM-0002-0001.jpeg":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, mode, *args, **settings)

    playground.archive.write_bytes(build())
    monkeypatch.setattr(Path, "open", full)
    with refused(CxrIgniteError, playground.target, "bytes free", "No space left") as caught:
        unpack(playground.archive, DATA, playground.target)
    assert caught.value.exit_code == 1
    assert playground.others() == playground.before


def test_a_stop_while_unpacking_leaves_nothing(playground, monkeypatch):
    def stopped(*_):
        yield b"some"
        raise KeyboardInterrupt

    playground.archive.write_bytes(build())
    monkeypatch.setattr(unpacking, "_inflate", stopped)
    with pytest.raises(KeyboardInterrupt):
        unpack(playground.archive, DATA, playground.target)
    assert playground.others() == playground.before
    assert not playground.target.exists()


def test_what_is_at_the_target_is_not_replaced(playground):
    (playground.target / "mine").mkdir(parents=True)
    playground.archive.write_bytes(build())
    with refused(CxrIgniteError, playground.target, "bytes free"):
        unpack(playground.archive, DATA, playground.target)
    assert [path.name for path in playground.target.iterdir()] == ["mine"]
    assert playground.others() == playground.before
