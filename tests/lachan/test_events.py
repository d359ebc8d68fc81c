"""The vocabulary grows by optional fields, and what another version wrote is readable."""

import csv
from dataclasses import dataclass
from pathlib import Path

import pytest

from lachan.events import Event, HumanPaged, SignedIn, UnknownFact
from lachan.identity import system
from lachan.runtime import Runtime
from lachan.work import outbox

VOCABULARY = Path(__file__).with_name("event_vocabulary.csv")


def test_no_kind_is_lost_and_none_asks_for_more() -> None:
    """Each line is a kind and the fields that its oldest stored rows have; a new kind adds a line, no line changes."""
    with VOCABULARY.open(encoding="utf-8") as lines:
        promised = {name: set(fields.split()) for name, fields in csv.reader(lines)}
    kinds = {name: kind for name, kind in Event.KINDS.items() if kind.__module__ == "lachan.events"}
    assert promised.keys() == kinds.keys()
    for name, kind in kinds.items():
        assert kind.required() == promised[name], name


def test_a_fact_of_another_version_stops_nobody(rt: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    with rt.db.write() as connection:
        outbox.append(connection, SignedIn(user="an"), actor=system("x"))
        outbox.append(connection, HumanPaged(reason="of a later version"), actor=system("x"))
    kinds = dict(Event.KINDS)
    del kinds["HumanPaged"]

    @dataclass(frozen=True, kw_only=True)
    class Asks(Event):
        user: str
        how: str

    kinds["SignedIn"] = Asks
    monkeypatch.setattr(Event, "KINDS", kinds)
    with rt.db.read() as connection:
        asks, unknown = (stored.event for stored in outbox.read(connection))
    assert asks == UnknownFact(name="SignedIn", data={"device_id": None, "user": "an"})
    assert isinstance(unknown, UnknownFact)
    assert (unknown.name, unknown.data["reason"]) == ("HumanPaged", "of a later version")
