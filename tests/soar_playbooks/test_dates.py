"""A playbook's signature honours its dates: nothing is loaded or started by it outside of them, and what began is ended."""

import json
from datetime import timedelta

import pytest

from lachan import clock
from lachan.runtime import Runtime
from soar_playbooks import playbooks
from soar_playbooks.cacao import jss
from soar_playbooks.containment import approvals
from soar_playbooks.errors import PlaybookInvalid, SignatureInvalid, SignatureOutOfDate
from soar_playbooks.models import runs
from soar_playbooks.playbooks import Mode
from tests.soar_playbooks.support import (
    ADMIN,
    AN,
    BINH,
    camera_document,
    decision,
    new_device,
    new_key,
    raise_alert,
    rows,
    told,
    trusted_key,
    work,
)


def loaded(rt: Runtime, **dates: timedelta) -> playbooks.Loaded:
    """Sign with dates that are so long from now, load, enforce."""
    moments = {name: clock.now() + distance for name, distance in dates.items()}
    text = json.dumps(jss.sign(camera_document(), trusted_key(rt), signee="x", **moments))
    with rt.db.write() as c:
        found = playbooks.load(c, ADMIN, text=text, file="x.cacao.json")
        return playbooks.set_mode(c, ADMIN, playbook_id=found.id, mode=Mode.ENFORCE)


@pytest.mark.parametrize(
    "dates",
    [
        {"valid_from": timedelta(hours=1)},
        {"valid_until": timedelta(seconds=-1)},
        {"valid_from": timedelta(hours=-2), "valid_until": timedelta(hours=-1)},
    ],
)
def test_outside_its_dates_it_is_not_loaded(rt: Runtime, dates: dict[str, timedelta]) -> None:
    with pytest.raises(SignatureOutOfDate) as caught:
        loaded(rt, **dates)
    assert caught.value.fields["file"] == "x.cacao.json"
    loaded(rt, valid_from=timedelta(hours=-1), valid_until=timedelta(hours=1))


def test_nothing_starts_by_it_afterwards_and_what_began_is_ended(rt: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded(rt, valid_until=timedelta(hours=1))
    first, second = new_device(rt), new_device(rt, "cam-2")
    raise_alert(rt, first)
    work(rt)
    assert decision(rt, first) == "quarantine"
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now + timedelta(hours=2))
    raise_alert(rt, second)
    work(rt)
    assert decision(rt, second) == "allow"
    assert told(rt, "PlaybookRefused")[0].reason.startswith("signature-out-of-date")
    assert len(rows(rt, runs)) == 1
    with rt.db.write() as c:
        (row,) = c.exec_driver_sql("SELECT id FROM containments").all()
        for who in (AN, BINH):
            approvals.release(rt, c, who, containment_id=row[0])
    work(rt)
    assert decision(rt, first) == "allow", "an end of its dates keeps nobody in"


@pytest.mark.parametrize("name", ["valid_from", "valid_until"])
@pytest.mark.parametrize("value", ["tomorrow", "2026-13-01T00:00:00Z", "2026-01-01T00:00:00", 7, None])
def test_a_date_that_cannot_be_read_is_refused(rt: Runtime, name: str, value: object) -> None:
    key = trusted_key(rt)
    document = jss.sign(camera_document(), key, signee="x")
    document["signatures"][0][name] = value
    again = jss.sign({**document, "signatures": []}, key, signee="x")
    again["signatures"][0][name] = value
    with pytest.raises((SignatureInvalid, PlaybookInvalid)), rt.db.write() as c:
        playbooks.load(c, ADMIN, text=json.dumps(again), file="x")
    with pytest.raises(SignatureInvalid):
        jss.check_dates({name: value}, at=clock.now())


def test_another_key_inside_than_the_thumbprint_names_is_refused() -> None:
    key, other = new_key(), new_key()
    document = jss.sign(camera_document(), key, signee="x")
    document["signatures"][0]["public_key"] = jss.public_pem(other.public_key())
    with pytest.raises(SignatureInvalid, match="another key"):
        jss.verify(document, key.public_key())
