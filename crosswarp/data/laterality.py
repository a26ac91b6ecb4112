"""What DICOM says of a picture besides its place in space: the side of the body, and its directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..wording import printable

SIDE_TAGS = ("ImageLaterality", "Laterality")
DIRECTION_TAGS = ("PatientOrientation", "ViewPosition", "AnatomicalOrientationType")
SIDES = {"L": "left", "R": "right"}
# Directions in mm in RAS of a picture's plane that stand for those of the body, plane by plane. As where
# slices of space become 2D images, feet stand for back; sagittal pictures have the front on their left.
PLANES = {
    frozenset(("LR", "HF")): {"L": (-1, 0), "R": (1, 0), "F": (0, -1), "H": (0, 1)},
    frozenset(("AP", "HF")): {"P": (-1, 0), "A": (1, 0), "F": (0, -1), "H": (0, 1)},
    frozenset(("LR", "AP")): {"L": (-1, 0), "R": (1, 0), "P": (0, -1), "A": (0, 1)},
}
BODY_AXES = {letter: axis for axis in ("LR", "AP", "HF") for letter in axis}
SEEN_AXIS = {"AP": "LR", "PA": "LR", "LL": "AP", "RL": "AP"}  # which view shows which axis of the body


def stated_side(header: Any) -> tuple[str | None, str]:
    """The side of the body that a header states, and what speaks against it.

    Args:
        header: DICOM, by keyword: ImageLaterality (0020,0062), Laterality (0020,0060).

    Returns:
        ``left``, ``right`` or None: where the tags say nothing, something else (both sides, unpaired) or
            contradict each other; and a note on a contradiction, else "".
    """
    stated = {tag: value for tag in SIDE_TAGS if (value := str(header.get(tag) or "").strip().upper())}
    if len(set(stated.values())) > 1:
        tags = " and ".join(f"{tag} {printable(value, 16)}" for tag, value in stated.items())
        return None, f"its header states {tags}, so its side is not known"
    return SIDES.get(next(iter(stated.values()), "")), ""


def stated_directions(header: Any) -> tuple[np.ndarray | None, str]:
    """The in-plane directions of a picture by PatientOrientation (0020,0020), of a projection for instance.

    Of a direction in several letters the first counts, which is the principal one.

    Args:
        header: DICOM, by keyword: PatientOrientation, ViewPosition (0018,5101) and
            AnatomicalOrientationType (0010,2210).

    Returns:
        directions of the array's axes x and y in mm in RAS of the picture's plane, as columns ``[2, 2]``,
            such that x to the left and y to the feet are the canonical axes "LP"; None where the tags say
            nothing or contradict each other, or the patient has four feet; and a note on a contradiction.

    References:
        DICOM PS3.3, C.7.6.1.1.1 (Patient Orientation) and C.8.7.1.1.1 (View Position).
    """
    value = header.get("PatientOrientation") or ""
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    letters = [str(each).strip().upper()[:1] for each in values]
    if not any(letters) or str(header.get("AnatomicalOrientationType") or "").strip().upper() == "QUADRUPED":
        return None, ""
    written = printable("\\".join(str(each)[:8] for each in values[:4]))
    remedy = "so it is taken as it is stored"
    axes = frozenset(BODY_AXES.get(letter, "") for letter in letters)
    if len(letters) != 2 or axes not in PLANES:
        return None, f"its PatientOrientation {written} names no two axes of the body, {remedy}"
    view = str(header.get("ViewPosition") or "").strip().upper()
    if view in SEEN_AXIS and SEEN_AXIS[view] not in axes:
        return None, f"its header states PatientOrientation {written} and ViewPosition {view}, {remedy}"
    return np.array([PLANES[axes][letter] for letter in letters], np.float64).T, ""
