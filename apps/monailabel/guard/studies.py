"""Which files of the server a request may name: those of the studies' folder, links followed."""

from __future__ import annotations

import glob
import re
from pathlib import Path
from typing import Any, BinaryIO

from .values import Refused, plain_name, shown

IMAGE_SUFFIXES: tuple[str, ...] = (".nii.gz", ".nii", ".nrrd", ".png", ".jpg", ".jpeg", ".tif", ".tiff")
LABEL_SUFFIXES = (*IMAGE_SUFFIXES, ".seg.nrrd")
HEADER_BYTES = 1 << 16
OTHER_FILE = re.compile(rb"(?im)^[ \t]*data[ \t]*file[ \t]*:")
NIFTI = [(0, number.to_bytes(4, order)) for number in (348, 540) for order in ("little", "big")]
TIFF = [(0, start) for start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")]
# how files begin, and from which byte on
BEGINNINGS = {
    ".nii.gz": [(0, b"\x1f\x8b")],
    ".nii": NIFTI,
    ".nrrd": [(0, b"NRRD000")],
    ".seg.nrrd": [(0, b"NRRD000")],
    ".png": [(0, b"\x89PNG\r\n\x1a\n")],
    ".jpg": [(0, b"\xff\xd8\xff")],
    ".jpeg": [(0, b"\xff\xd8\xff")],
    ".tif": TIFF,
    ".tiff": TIFF,
    ".dcm": [(128, b"DICM")],
}


def suffix_of(name: str, allowed: tuple[str, ...]) -> str:
    """The suffix of an uploaded file's name, the longest that fits, in lower case."""
    fitting = [suffix for suffix in allowed if name.lower().endswith(suffix)]
    if not fitting:
        raise Refused(f"expected a file of {', '.join(allowed)}, got {shown(name)}", 415)
    return max(fitting, key=len)


def check_content(file: BinaryIO, suffix: str) -> None:
    """Refuse an image that is of another format than its suffix says, which a reader might take it for.

    Also one whose header says that its voxels are in another file, which would be the server's.
    """
    head = file.read(HEADER_BYTES)
    file.seek(0)
    if not any(head[at:].startswith(start) for at, start in BEGINNINGS[suffix]):
        raise Refused(f"expected the content of a {suffix} file, got {shown(head[:16])}", 415)
    if suffix.endswith(".nrrd"):
        header, end, _ = head.replace(b"\r\n", b"\n").partition(b"\n\n")
        if not end:
            raise Refused(f"expected an NRRD header of less than {HEADER_BYTES} bytes, got a longer one")
        if OTHER_FILE.search(header):
            raise Refused("expected an image in one file, got an NRRD header that names another", 403)


class Studies:
    """The folder of the images.

    Args:
        folder: where they are; labels are in ``labels/<tag>`` of it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).resolve()

    def inside(self, path: Path) -> Path:
        """The path, unless it or what it links to is elsewhere."""
        if not path.resolve().is_relative_to(self.folder):
            raise Refused(
                f"{shown(str(path))} is, or links to, a file outside of the studies {self.folder}", 403
            )
        return path

    def image(self, value: Any) -> str:
        """The name of an image that is there: its file's without suffix."""
        name = plain_name(value)
        for suffix in IMAGE_SUFFIXES:
            if (file := self.folder / f"{name}{suffix}").is_file():
                self.inside(file)
                return name
        files = (path.name for path in self.folder.iterdir() if path.name.endswith(IMAGE_SUFFIXES))
        names = sorted({file[: -len(suffix_of(file, IMAGE_SUFFIXES))] for file in files})
        listed = ", ".join(map(shown, names[:20])) + (", ..." if len(names) > 20 else "")
        raise Refused(
            f"expected an image of the studies, got {shown(value)}; they have {listed or 'none'}", 404
        )

    def path(self, value: Any) -> str:
        """The path of an image or label file that is there."""
        if not isinstance(value, str) or not value.startswith("/") or not value.isprintable():
            raise Refused(f"expected the path of a file in the studies {self.folder}, got {shown(value)}")
        file = self.inside(Path(value))
        suffix_of(file.name, LABEL_SUFFIXES)
        if not file.is_file():
            raise Refused(f"expected a file of the studies, got {shown(value)}, which is none", 404)
        return str(file.resolve())

    def image_or_path(self, value: Any) -> str:
        """The name of an image, or the path of a file."""
        return self.path(value) if isinstance(value, str) and value.startswith("/") else self.image(value)

    def check_labels(self, image: str, tag: str) -> None:
        """Refuse an image's label of a tag that would be read or written elsewhere."""
        folder = self.inside(self.folder / "labels" / plain_name(tag))
        for file in folder.glob(f"{glob.escape(image)}.*"):
            self.inside(file)

    @staticmethod
    def check_working_folder(image: str) -> None:
        """Refuse the name of an image that MONAI Label would take for a file of the working folder."""
        if Path(image).exists():
            raise Refused(
                f"{shown(image)} is a file of the folder that the server was started in; start it elsewhere",
                409,
            )

    def check_new(self, image: str, suffix: str) -> None:
        """Refuse an image that would be written elsewhere."""
        self.check_working_folder(image)
        self.inside(self.folder / f"{plain_name(image)}{suffix}")

    def check_all(self) -> None:
        """Refuse where any image is elsewhere."""
        for path in self.folder.iterdir():
            self.inside(path)
