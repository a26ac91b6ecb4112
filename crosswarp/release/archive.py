"""A zip that nobody vouches for, read entry by entry and within bounds."""

from __future__ import annotations

import re
import stat
import zipfile
from collections import Counter
from hashlib import sha256
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import IO

from ..disk import explained

MAX_FILES = 1000
MAX_WEIGHTS = 2 * 2**30  # bytes, of one file of weights
LARGEST = 8 * 2**20  # bytes, of any other file
LARGEST_TEXT = 2**20
MAX_JSON = 4 * 2**20  # bytes of all JSON together; parsed it takes tens of times its size
MAX_TOTAL = 64 * 2**20  # of all but weights together
MAX_ARCHIVE = MAX_WEIGHTS + MAX_TOTAL
MAX_RATIO = 100  # text compresses tenfold; deflate can do a thousandfold
MAX_RATIO_OF_WEIGHTS = 10  # trained ones hardly compress
SMALL = 2**20  # what an entry may unpack to at any ratio

# letters that every system takes for themselves, and no name that Windows takes for a device
PART = re.compile(r"(?!(?i:con|prn|aux|nul|com\d|lpt\d)(\.|$))[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}(?<!\.)")


def is_text(path: str) -> bool:
    """Whether a file must be text, by its name."""
    return PurePosixPath(path).suffix not in (".pt", ".png")


class Archive:
    """An open zip.

    Args:
        file: the zip.

    Attributes:
        faults: what makes it unsafe to read or unpack; where there are any, only they may be used.
        folder: the one folder in it.
        files: by path in that folder, its entries.
        digest: SHA-256 of the zip.
        digests: of the files that were read, by path.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.faults: list[str] = []
        self.folder, self.digest = "", ""
        self.files: dict[str, zipfile.ZipInfo] = {}
        self.digests: dict[str, str] = {}
        size = file.seek(0, 2)
        if size > MAX_ARCHIVE:
            self.faults.append(f"is larger than {MAX_ARCHIVE // 2**20} MiB")
            return
        file.seek(0)
        digest = sha256()
        while block := file.read(2**20):
            digest.update(block)
        self.digest = digest.hexdigest()
        file.seek(0)
        self.zip = zipfile.ZipFile(file)
        members = self.zip.infolist()
        self.faults += [fault for member in members for fault in member_faults(member)]
        self.faults += whole_faults(members, size)
        if not self.faults:
            self.folder = PurePosixPath(members[0].filename).parts[0]
            self.files = {
                member.filename.partition("/")[2]: member for member in members if not member.is_dir()
            }

    def read(self, path: str) -> bytes:
        """A file's content."""
        content = self.zip.read(self.files[path])
        self.digests[path] = sha256(content).hexdigest()
        return content

    def extract(self, folder: Path) -> Path:
        """Unpack the files, all or none; returns the bundle's folder, which must not be there yet.

        Raises:
            ValueError: where a file is not what was read before.
            DiskError: where the disk is full or may not be written to.
        """
        bundle = folder / self.folder
        with explained(bundle, folder / f"{self.folder}.partial"):
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(prefix=f".{self.folder}_", dir=folder) as partial:
                for path, member in self.files.items():
                    content = self.zip.read(member)
                    if self.digests.get(path, sha256(content).hexdigest()) != sha256(content).hexdigest():
                        raise ValueError(f"{path} changed while it was verified.")
                    target = Path(partial, self.folder, path)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(content)
                Path(partial, self.folder).rename(bundle)
        return bundle


def member_faults(member: zipfile.ZipInfo) -> list[str]:
    """What makes an entry unsafe to unpack."""
    faults = []
    shown, kind = repr(member.filename), stat.S_IFMT(member.external_attr >> 16)
    # the name in the archive itself: zipfile cuts it at a NUL
    name = member.orig_filename.removesuffix("/")
    if name.startswith("/") or ".." in name.split("/"):
        faults.append(f"{shown}: leads out of the folder that it is unpacked to")
    elif not all(PART.fullmatch(part) for part in name.split("/")):
        faults.append(f"{shown}: a name that some systems read as another path, or refuse")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or (kind == stat.S_IFDIR and not member.is_dir()):
        faults.append(f"{shown}: a link or device instead of a file")
    if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        faults.append(f"{shown}: encrypted, or compressed in a way that not all programs read")
    weights = PurePosixPath(name).suffix == ".pt"
    ratio = MAX_RATIO_OF_WEIGHTS if weights else MAX_RATIO
    if member.file_size > max(SMALL, ratio * member.compress_size):
        faults.append(
            f"{shown}: unpacks to {member.file_size // max(member.compress_size, 1)} times its size"
        )
    largest = MAX_WEIGHTS if weights else LARGEST_TEXT if is_text(name) else LARGEST
    if member.file_size > largest:
        kind_of = "weights" if weights else "a text" if is_text(name) else "a file"
        faults.append(f"{shown}: {kind_of} of more than {largest // 2**20} MiB")
    if member.is_dir() and member.file_size:
        faults.append(f"{shown}: a folder with content")
    return faults


def whole_faults(members: list[zipfile.ZipInfo], archive_size: int) -> list[str]:
    """What makes the entries unsafe to unpack together.

    Args:
        members: all entries.
        archive_size: bytes of the zip.
    """
    names = [member.filename for member in members if not member.is_dir()]
    if not names:
        return ["is empty"]
    faults = []
    seen = Counter(member.filename.removesuffix("/").casefold() for member in members)
    faults += [
        f"{name!r}: stands there twice; which one is unpacked depends on the program"
        for name, count in seen.items()
        if count > 1
    ]
    folders = {str(parent).casefold() for name in names for parent in PurePosixPath(name).parents}
    strange = [member.filename for member in members if member.is_dir()]
    faults += [
        f"{name!r}: an empty folder" for name in strange if name.removesuffix("/").casefold() not in folders
    ]
    faults += [f"{name!r}: a file and a folder at once" for name in names if name.casefold() in folders]
    rest = sum(member.file_size for member in members if not member.filename.endswith(".pt"))
    text = sum(member.file_size for member in members if member.filename.lower().endswith("json"))
    if len(members) > MAX_FILES or rest > MAX_TOTAL:
        faults.append(
            f"unpacks to more than {MAX_FILES} files or {MAX_TOTAL // 2**20} MiB beside the weights"
        )
    if sum(member.file_size for member in members) > MAX_ARCHIVE:
        faults.append(f"unpacks to more than {MAX_ARCHIVE // 2**20} MiB")
    if text > MAX_JSON:
        faults.append(f"has more than {MAX_JSON // 2**20} MiB of JSON")
    if sum(member.compress_size for member in members) > archive_size:
        faults.append("its entries overlap, so it unpacks to more than it holds")
    tops = sorted({name.partition("/")[0] for name in (member.filename for member in members)})
    if len(tops) != 1 or any("/" not in name for name in names):
        faults.append(f"expected one folder named as the bundle, got {', '.join(tops)}")
    return faults
