"""Splitting people, not images, into training, validation and test, over both modalities at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from numpy.random import Generator

from .entries import LEFT_OUT, Entries, Entry
from .people import SPLITS, name_key

Person = tuple[str, str]  # modality, where names count per modality, and the name's first spelling


def split_entries(
    entries: Entries, shared: bool, val_fraction: float, test_fraction: float, rng: Generator
) -> None:
    """Choose a split for each image that has none: that of its person, or one at random.

    Of the people with labelled source images some are for validation (at least one) and test, first those who
    have target labels, too. Of those with labelled target images, people are for the test until it has half
    of the target's people; of the others, some are for validation. All else trains. What a split cannot use
    is left out: unlabelled source images of people in validation or test.

    Args:
        entries: what to split; faults and notes are added.
        shared: whether equal names in both modalities are one person.
        val_fraction: share of people for validation.
        test_fraction: share of people with labelled source images for the test.
        rng: source of randomness.
    """
    people = _people(entries, shared)
    given = {people[id(each)]: SPLITS.get(each.split, each.split) for each in _all(entries) if each.split}
    open_entries = [each for each in _all(entries) if not each.split]
    for each in open_entries:
        each.split = given.get(people[id(each)], "")
    chosen = _choose(entries, people, val_fraction, test_fraction, rng)
    for each in open_entries:
        each.split = each.split or chosen.get(people[id(each)], "train")
    _fit_to_sections(entries, open_entries)


def _choose(
    entries: Entries,
    people: Mapping[int, Person],
    val_fraction: float,
    test_fraction: float,
    rng: Generator,
) -> dict[Person, str]:
    """A split for each person who has none and is not just for training."""
    source = [each for each in entries.source if not each.split]
    target = [each for each in entries.target if not each.split]
    tested = {people[id(each)] for each in target if each.label}
    labelled = _shuffled({people[id(each)] for each in source if each.label}, rng)
    if len(labelled) == 1 and not any(each.split == "val" for each in entries.source):
        entries.faults.append(
            f"all labelled source images are of one subject, {labelled[0][1]!r}; validation needs another "
            "(if there are more, set --subject-pattern)"
        )
    val = min(max(1, round(val_fraction * len(labelled))), max(len(labelled) - 1, 0))
    test = min(round(test_fraction * len(labelled)), max(len(labelled) - val - 1, 0))
    for_val = sorted(labelled, key=tested.__contains__)[:val]
    for_test = sorted(set(labelled) - set(for_val), key=lambda p: (p not in tested, labelled.index(p)))[:test]
    splits = (
        dict.fromkeys(labelled, "train") | dict.fromkeys(for_val, "val") | dict.fromkeys(for_test, "test")
    )

    everyone = {people[id(each)] for each in target}
    count = {name: sum(splits.get(person) == name for person in everyone) for name in ("val", "test")}
    room = max(len(everyone) // 2 - count["test"], 0)
    for_test = _shuffled(tested - splits.keys(), rng)[:room]
    rest = _shuffled(everyone - splits.keys() - set(for_test), rng)
    untested = len(everyone) - count["test"] - len(for_test)
    room = min(round(val_fraction * untested), max(untested - 1, 0)) - count["val"]
    return splits | dict.fromkeys(for_test, "test") | dict.fromkeys(rest[: max(room, 0)], "val")


def _fit_to_sections(entries: Entries, implied: Iterable[Entry]) -> None:
    """Name the section of each image, and leave out what its section cannot use."""
    chosen = {id(each) for each in implied}
    unlabelled = 0
    for each in entries.source:
        if each.split in ("val", "test") and not each.label and id(each) in chosen:
            each.split = LEFT_OUT  # of no use there, and training must not see the person
            unlabelled += 1
        elif each.split == "train":
            each.split = "train_labelled" if each.label else "train_unlabelled"
    for each in entries.target:
        if each.split in ("train", "train_labelled"):
            each.split = "train_unlabelled"
    if unlabelled:
        entries.notes.append(f"{unlabelled} source images without label, of people in val or test")
    unread = [each for each in entries.source if each.label and each.split == "train_unlabelled"]
    unread += [each for each in entries.target if each.label and each.split in ("train_unlabelled", "val")]
    if unread:
        entries.notes.append(
            f"{len(unread)} labels of images that train or validate without (the first: {unread[0].label})"
        )


def _people(entries: Entries, shared: bool) -> dict[int, Person]:
    """Who each image is of, by the identity of its entry."""
    spellings: dict[Person, str] = {}
    keys: dict[int, Person] = {}
    for modality in ("source", "target"):
        for each in entries.of(modality):
            key = keys[id(each)] = ("" if shared else modality, name_key(each.subject))
            spellings[key] = min(spellings.get(key, each.subject), each.subject)
    return {entry: (key[0], spellings[key]) for entry, key in keys.items()}


def _all(entries: Entries) -> list[Entry]:
    return entries.source + entries.target


def _shuffled(people: set[Person], rng: Generator) -> list[Person]:
    ordered = sorted(people)
    return [ordered[index] for index in rng.permutation(len(ordered))]
