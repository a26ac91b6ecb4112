"""People: one name is one person in both modalities, and a person is in one split."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from ..wording import shown
from .datalist import SECTIONS, Datalist, DatalistError

SPLITS = {"train_labelled": "train", "train_unlabelled": "train", "val": "val", "test": "test"}
PER_MODALITY = 'declare "subjects": "per_modality" in the datalist (prepare: --subjects per_modality)'


class Person(NamedTuple):
    """Who a record is of; equal for two records of one person.

    Attributes:
        modality: where equal names in two modalities are two people, the one that this name is of; else "".
        name: what the spellings of one name have in common, see :func:`name_key`.
    """

    modality: str
    name: str


class Appearance(NamedTuple):
    """A record of a person."""

    modality: str
    section: str
    record: dict[str, str]

    @property
    def split(self) -> str:
        """train, val or test."""
        return SPLITS[self.section]

    @property
    def place(self) -> str:
        """Split and modality, in words."""
        return f"{self.split} of {self.modality}"


def name_key(subject: str) -> str:
    """What the spellings of one name have in common.

    Upper case, blanks, Unicode forms and, in numbers, zeros in front and decimals do not count: ``P01`` and
    ``p01 `` are one, and ``007``, ``7`` and ``7.0``, which tables make of each other.
    """
    key = "".join(unicodedata.normalize("NFKC", subject).split()).casefold()
    number = re.fullmatch(r"0*(\d+)(\.0*)?", key)
    return number[1] if number else key


def appearances(datalist: Datalist) -> dict[Person, list[Appearance]]:
    """All people of a datalist, each with its records."""
    people: dict[Person, list[Appearance]] = defaultdict(list)
    for modality in (datalist.source, datalist.target):
        scope = modality.name if datalist.subjects == "per_modality" else ""
        for section in SECTIONS:
            for record in modality.records(section):
                person = Person(scope, name_key(record["subject"]))
                people[person].append(Appearance(modality.name, section, record))
    return people


def check_people(datalist: Datalist) -> None:
    """Check, without reading an image, that no person is in two splits.

    Raises:
        DatalistError: (a `ValueError`) naming every such person, and names that differ in spelling alone.
    """
    if faults := people_faults(datalist):
        raise DatalistError(datalist.path, faults)


def people_faults(datalist: Datalist) -> list[str]:
    """Everyone who is in two splits or has a name spelt in two ways, one line each."""
    faults = []
    for records in appearances(datalist).values():
        spellings = sorted({each.record["subject"] for each in records})
        places = " and ".join(sorted({each.place for each in records}))
        remedy = f"; for two people of one name, {PER_MODALITY}" * (len(_modalities(records)) > 1)
        if len(spellings) > 1:
            names = " and ".join(map(shown, spellings[:5]))
            faults.append(
                f"subjects {names} ({places}) are one name in two spellings; write it alike, or rename one "
                f"where they are two people{remedy}"
            )
            continue
        for modality in _modalities(records):
            splits = {each.split for each in records if each.modality == modality}
            if len(splits) > 1:
                inner = " and ".join(sorted(splits))
                faults.append(f"{modality}: subject {shown(spellings[0])} is in {inner}; keep it in one")
                break
        else:
            if len({each.split for each in records}) > 1:
                faults.append(
                    f"subject {shown(spellings[0])} is in {places}, which are one person's images in two "
                    f"splits; keep this person in one{remedy}"
                )
    return faults


def _modalities(records: Iterable[Appearance]) -> list[str]:
    return list(dict.fromkeys(each.modality for each in records))
