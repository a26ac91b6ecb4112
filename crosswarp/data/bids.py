"""Names of results after BIDS, the Brain Imaging Data Structure, where images have such names.

References:
    https://bids-specification.readthedocs.io, "Derivatives"; transforms as in BEP 014.
"""

from __future__ import annotations

import json
import os
import re

NAME = re.compile(r"(?P<entities>sub-[0-9A-Za-z]+(_[a-z]+-[0-9A-Za-z+]+)*)_(?P<suffix>[0-9A-Za-z]+)\.")
VERSION = "1.10.0"
KINDS = {  # what a result is -> the end of its name; {from} and {to} are the two images
    "transform": "_from-{moving}_to-{fixed}_mode-image_xfm",
    "inverse": "_from-{fixed}_to-{moving}_mode-image_xfm",
    "displacement": "_from-{moving}_to-{fixed}_mode-image_desc-displacement_xfm",
    "quality": "_from-{moving}_to-{fixed}_mode-image_xfm",  # .json: what is told of the transform
    "picture": "_from-{moving}_to-{fixed}_desc-quality_xfm",
    "warped": "_space-{fixed}_desc-warped_{suffix}",
    "warped_seg": "_space-{fixed}_desc-warped_dseg",
    "moving_seg": "_from-{moving}_to-{fixed}_desc-moving_dseg",
    "fixed_seg": "_from-{moving}_to-{fixed}_desc-fixed_dseg",
}


def bids_place(moving: str, fixed: str) -> str | None:
    """Where the results of a pair go and what their names begin with; None for images of other names.

    Args:
        moving: path of an image. It is named after BIDS where it is ``sub-<label>_..._<suffix>.*`` and lies
            within a folder ``sub-<label>``, once ``.``, ``..`` and ``//`` are resolved: places never lead
            out of the output folder, and equal ones are spelt alike.
        fixed: path of the other one, of any name.

    Returns:
        such as ``sub-01/ses-1/xray/sub-01_ses-1|xray|sub02dxa``, to be given to :func:`bids_name`.
    """
    moving = os.path.normpath(moving)
    found = NAME.match(os.path.basename(moving))
    folders = os.path.dirname(moving).replace(os.sep, "/").split("/")
    if not found:
        return None
    entities = found["entities"].split("_")
    if entities[0] not in folders:
        return None
    within = folders[folders.index(entities[0]) :]
    other = NAME.match(os.path.basename(fixed))
    if other:
        shared = {each for each in entities if each.startswith(("sub-", "ses-"))}
        told = [each for each in other["entities"].split("_") if each not in shared]
        target = "".join(re.sub("[^0-9A-Za-z]", "", each) for each in [*told, other["suffix"]])
    else:
        target = re.sub("[^0-9A-Za-z]", "", os.path.basename(fixed).partition(".")[0]) or "fixed"
    return "/".join([*within, "|".join([found["entities"], found["suffix"], target])])


def bids_name(place: str, kind: str) -> str:
    """The path of a result, without suffix, within the output folder.

    Args:
        place: of :func:`bids_place`.
        kind: one of `KINDS`; another becomes a description.
    """
    base, moving, fixed = place.rsplit("|", 2)  # folders may have such a sign, too
    end = KINDS.get(kind, "_from-{moving}_to-{fixed}_desc-" + re.sub("[^0-9A-Za-z]", "", kind) + "_xfm")
    if fixed == moving:
        fixed = f"{fixed}2"  # two images of one person and suffix: from one to a second
    return base + end.format(moving=moving, fixed=fixed, suffix=moving)


def dataset_description(version: str) -> str:
    """The ``dataset_description.json`` of results, as text."""
    content = {
        "Name": "Registrations by crosswarp",
        "BIDSVersion": VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "crosswarp", "Version": version}],
    }
    return json.dumps(content, indent=2) + "\n"
