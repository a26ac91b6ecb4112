"""Verification of packaged bundles that nobody vouches for: all is read and compared, nothing is executed.

A zip is held to a list of what is allowed: the files of a bundle, components and functions that neither run
nor fetch what their arguments say, a small grammar of expressions, places within the folder it is used in.
The code in ``scripts/`` is compared with this library; where it differs, that is listed, and whoever runs it
trusts its author.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import IO

from ..errors import Notice, reason
from ..wording import printable
from .archive import Archive
from .contents import MODEL_INFO, SCHEMA, Contents, Inspection

__all__ = ["MODEL_INFO", "SCHEMA", "BundleError", "inspect", "unpack"]


class BundleError(ValueError):
    """A bundle that is refused, with all its faults."""


def unpack(path: str | Path, folder: str | Path, trust: bool = False) -> Path:
    """Verify a packaged bundle and unpack it.

    Where its code is not this library's, a warning says so: it is what MONAI and MONAI Label would run.

    Args:
        path: the zip.
        folder: where to unpack it to.
        trust: unpack it whatever it holds, as long as it stays in the folder.

    Returns:
        the bundle's folder, ``folder/<name>``.

    Raises:
        BundleError: (a ``ValueError``) naming every fault; nothing is unpacked.
        FileExistsError: where the bundle's folder exists already.
        DiskError: where it cannot be written, for want of room or permission; nothing of it is left.
    """
    with open(path, "rb") as file:
        inspection = Inspection(str(path))
        archive = examine(file, inspection, deep=not trust)
        if inspection.faults or archive is None:
            raise BundleError(inspection.report())
        if inspection.code:
            warnings.warn(f"{printable(str(path), 500)}: {'; '.join(inspection.code)}", Notice, stacklevel=2)
        bundle = Path(folder) / archive.folder
        if bundle.exists():
            raise FileExistsError(f"{bundle} exists already: unpack {path} elsewhere, or remove it.")
        return archive.extract(Path(folder))


def inspect(zipped: bytes | IO[bytes], path: str) -> Inspection:
    """Check a packaged bundle without running anything of it.

    Args:
        zipped: the zip, in memory or open.
        path: what to call it.

    Returns:
        all that was found. What is not safe to read is not read further.
    """
    inspection = Inspection(path)
    examine(io.BytesIO(zipped) if isinstance(zipped, bytes) else zipped, inspection)
    return inspection


def examine(file: IO[bytes], inspection: Inspection, deep: bool = True) -> Archive | None:
    """Note what is found in a zip.

    Args:
        file: the zip.
        inspection: takes what is found.
        deep: look into its files.

    Returns:
        the zip, where it can be read.
    """
    try:
        archive = Archive(file)
        inspection.digest, inspection.name = archive.digest, archive.folder
        inspection.num_files = len(archive.files)
        inspection.num_bytes = sum(member.file_size for member in archive.files.values())
        inspection.faults += archive.faults
        if deep and not archive.faults:
            Contents(archive, inspection).check()
        return archive
    except Exception as error:  # whatever zipfile and zlib raise for what is broken
        inspection.faults.append(f"cannot be read, it is corrupt, truncated or no zip: {reason(error)}")
        return None
