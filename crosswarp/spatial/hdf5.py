"""HDF5 files without the time at which they were written: the same content is the same file."""

from __future__ import annotations

import struct
from pathlib import Path

HEADER = b"OHDR"
TIMES = 0x20  # of a header's flags: four times of four bytes follow
ATTRIBUTE_PHASE = 0x10
MASK = 0xFFFFFFFF


def remove_times(path: str | Path) -> None:
    """Set the times in an HDF5 file's object headers to 0, which HDF5 and ITK write and nobody reads.

    What does not look like a header of version 2, its checksum included, is left as it is.

    Args:
        path: the file.

    References:
        HDF5 File Format Specification Version 3.0, IV.A.1.b.
    """
    content = bytearray(Path(path).read_bytes())
    place = content.find(HEADER)
    while place >= 0:
        _without_times(content, place)
        place = content.find(HEADER, place + 1)
    Path(path).write_bytes(content)


def _without_times(content: bytearray, start: int) -> None:
    if len(content) < start + 30 or content[start + 4] != 2 or not content[start + 5] & TIMES:
        return
    flags = content[start + 5]
    size_at = start + 6 + 16 + (4 if flags & ATTRIBUTE_PHASE else 0)
    width = 1 << (flags & 3)
    end = size_at + width + int.from_bytes(content[size_at : size_at + width], "little")
    if len(content) < end + 4 or struct.unpack_from("<I", content, end)[0] != lookup3(content[start:end]):
        return
    content[start + 6 : start + 22] = bytes(16)
    struct.pack_into("<I", content, end, lookup3(content[start:end]))


def lookup3(data: bytes | bytearray) -> int:
    """Bob Jenkins' hash ``lookup3``, with which HDF5 checks its headers; 32 bits."""
    a = b = c = (0xDEADBEEF + len(data)) & MASK
    if not data:
        return c
    words = struct.unpack(f"<{-(-len(data) // 12) * 3}I", bytes(data) + bytes(-len(data) % 12))
    for at in range(0, len(words) - 3, 3):
        a, b, c = (a + words[at]) & MASK, (b + words[at + 1]) & MASK, (c + words[at + 2]) & MASK
        for turn in (4, 6, 8, 16, 19, 4):
            a, b, c = b, (c + b) & MASK, (a - c ^ (c << turn | c >> (32 - turn))) & MASK
    a, b, c = (a + words[-3]) & MASK, (b + words[-2]) & MASK, (c + words[-1]) & MASK
    for turn in (14, 11, 25, 16, 4, 14, 24):
        a, b, c = b, ((c ^ b) - (b << turn | b >> (32 - turn))) & MASK, a
    return b
