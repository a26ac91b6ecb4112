"""Which images of a datalist are looked at where not all are."""

from __future__ import annotations

from collections import Counter

from crosswarp.runs.training_images import spread


def records(people, visits):
    return [
        {"subject": f"p{person:02}", "image": f"{visit}"}
        for person in range(people)
        for visit in range(visits)
    ]


def test_as_many_people_as_can_be_take_part_and_equally():
    found = spread(records(4, 7), 24)  # every second record would be of two people
    assert Counter(each["subject"] for each in found) == dict.fromkeys(["p00", "p01", "p02", "p03"], 6)
    few = spread(records(4, 7), 8)
    assert [each["image"] for each in few] == ["0", "3"] * 4, "spread over what there is of a person"


def test_of_many_people_some_are_taken_from_all_over():
    assert [each["subject"] for each in spread(records(10, 3), 5)] == ["p00", "p02", "p04", "p06", "p08"]


def test_people_with_little_leave_room_to_the_others():
    mixed = [*records(2, 1), *[{"subject": "many", "image": str(number)} for number in range(9)]]
    found = spread(mixed, 6)
    assert Counter(each["subject"] for each in found) == {"p00": 1, "p01": 1, "many": 4}
    assert spread(mixed, 11) == mixed and spread([], 4) == []
