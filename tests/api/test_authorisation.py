"""Every operation of the people door × every role × own and other vendor, as authorisation.csv says (Must show 13).

The rows are compared with the app's routes: a new route without a row fails. Role columns: ``yes`` (past the door:
neither 401 nor 403), ``no`` (403; or 404 where the role may not know that the thing exists), ``open`` (no sign-in needed). What a manufacturer meets of other vendors:
``hidden`` (404, while its own is found), ``unseen`` (404, whosever it is), ``filtered`` (a list without it, while an
administrator's has it), ``body`` (404 or a refused row when a body names it), ``none`` (nothing here belongs to a
vendor), ``-`` (manufacturers have no access).
"""

import io
import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from api import routing
from api.people.app import build
from lachan import clock
from lachan.devices import importing
from lachan.events import AlertRaised
from lachan.identity import PERSON_ONLY, Role, system, tokens
from lachan.identity import models as identity_tables
from lachan.ids import new_id
from lachan.ledger.models import leaves
from lachan.runtime import Runtime
from lachan.work import outbox
from lachan.work.outbox import events
from ota_signing import models as ota
from posture import models as posture
from tests.api.support import Town
from tests.api.table import rows
from tests.conftest import person
from tests.posture.test_evaluate import GOOD

PEOPLE = (Role.ANALYST, Role.APPROVER, Role.MANUFACTURER, Role.AUDITOR, Role.ADMIN)
ROLES = (*PEOPLE, Role.PLATFORM, Role.COLLECTOR)
OWN, OTHER = "acme", "bolt"
BODIES: dict[str, Any] = {
    "POST /api/v1/engagements/{engagement_id}/stop": {"reason": "enough"},
    "POST /api/v1/devices/{device_id}/retire": {"reason": "replaced"},
    "POST /api/v1/devices/{device_id}/secret": {},
}


def table() -> dict[str, dict[str, str]]:
    return rows("people")


def of_vendors(kind: str) -> list[str]:
    return [operation for operation, row in table().items() if row["other_vendor"] == kind]


def test_every_operation_has_a_row(rt: Runtime) -> None:
    assert set(table()) == routing.operations(build(rt))


class Things:
    """One thing of each kind for both vendors."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.ids: dict[str, dict[str, str]] = {vendor: self._of(vendor) for vendor in (OWN, OTHER)}
        self.secrets = [OTHER, f"cam-{OTHER}", *self.ids[OTHER].values()]
        self._seal()

    def _of(self, vendor: str) -> dict[str, str]:
        device, now = self.town.add_device(f"cam-{vendor}", vendor=vendor), clock.now()
        ids = {"device_id": device.id}
        for name in ("artifact_id", "release_id", "engagement_id", "assessment_id"):
            ids[name] = new_id()
        ids["import_id"] = self._imported(vendor)
        digest = ids["artifact_id"].replace("-", "") * 2
        with self.town.rt.db.write() as connection:
            connection.execute(
                ota.artifacts.insert().values(
                    id=ids["artifact_id"], vendor=vendor, name=f"fw-{vendor}", sha256=digest, length=1,
                    uploaded_by="test", uploaded_at=now,
                )
            )  # fmt: skip
            connection.execute(
                ota.releases.insert().values(
                    id=ids["release_id"], vendor=vendor, model="m1", version="1", artifact_id=ids["artifact_id"],
                    sha256=digest, length=1, approvals_needed=2, downgrade=False, proposer="x", proposer_id="x",
                    digest=digest, target_path=f"{vendor}/m1/1", slot=0, state="signed", signature=b"s", proposed_at=now,
                )
            )  # fmt: skip
            connection.execute(
                posture.engagements.insert().values(
                    id=ids["engagement_id"], state="requested", reason="r", networks=[], ports=[80], methods=["tls"],
                    targets=[{"device_id": device.id, "address": "192.0.2.1"}], not_before=now, not_after=now, rate=1.0,
                    burst=1, loopback=False, lockout=False, digest=digest, requested_by="person:x", requested_at=now,
                )
            )  # fmt: skip
            connection.execute(
                posture.declarations.insert().values(
                    id=new_id(), vendor=vendor, model="m1", digest=digest, document={"vendor": vendor},
                    uploaded_by="x", uploaded_at=now,
                )
            )  # fmt: skip
            if vendor == OWN:
                connection.execute(posture.catalogues.insert().values(hash="h", document={}, first_used_at=now))
            connection.execute(
                posture.assessments.insert().values(
                    id=ids["assessment_id"], device_id=device.id, actor="x", as_of=now.date(), started_at=now,
                    assessed_at=now, catalogue="h", merkle_root=digest, counts={}, rows=[], observations=[],
                )
            )  # fmt: skip
        return ids

    def _imported(self, vendor: str) -> str:
        row = f'{{"name":"imp-{vendor}","vendor":"{vendor}","model":"m1","serial_number":"{vendor}","site":"site-1"}}'
        maker = person(f"maker-{vendor}", Role.MANUFACTURER, vendor=vendor)
        file = io.BytesIO(f"{row}\n{row}\n".encode())  # the second one is refused
        return importing.begin(self.town.rt, file, actor=maker, due=False)[0].id

    def _seal(self) -> None:
        with self.town.rt.db.write() as connection:
            for place, row in enumerate(connection.execute(events.select().order_by(events.c.seq)).all()):
                connection.execute(leaves.insert().values(leaf_index=place, event_seq=row.seq, leaf_hash=row.leaf_hash))


def ask(
    client: httpx.Client, operation: str, ids: dict[str, str], headers: dict[str, str], **more: Any
) -> httpx.Response:
    method, path = operation.split(" ")
    path = re.sub(r"{(\w+)}", lambda found: ids.get(found[1], "0192a0a0-0000-7000-8000-000000000000"), path)
    if method != "GET" and not more:
        more = {"json": BODIES.get(operation, {})}
    return client.request(method, path, headers=headers, **more)


def past(answer: httpx.Response) -> bool:
    """Whether an answer comes from behind the door: no 401, no 403, no page that leads to the sign-in page."""
    to_sign_in = answer.status_code in (302, 303) and answer.headers["location"].startswith("/sign-in")
    return answer.status_code not in (401, 403) and not to_sign_in


def credentials(town: Town) -> dict[Role, dict[str, str]]:
    found = {}
    for role in ROLES:
        vendor = OWN if role is Role.MANUFACTURER else None
        if role in PEOPLE:
            found[role] = town.sign_in(str(role), role, vendor=vendor).headers
        else:
            site = "site-1" if role is Role.COLLECTOR else None
            found[role] = {"Authorization": f"Bearer {town.token(role, site=site)}"}
    return found


def test_every_role_meets_what_the_table_says(doors: Town) -> None:
    things, who, wrong = Things(doors), credentials(doors), []
    with doors.client("people") as client:
        for operation, row in table().items():
            if row["admin"] != "open":
                stranger = ask(client, operation, things.ids[OWN], {})
                assert not past(stranger), f"{operation} without signing in: {stranger.status_code}"
            for role, headers in who.items():
                if operation in ("DELETE /api/v1/session", "POST /sign-out"):
                    continue  # it would end the session of this test; test_people.py has it
                body = {"json": {}} if operation.endswith("/retire") else {}  # the device is still needed
                answer = ask(client, operation, things.ids[OWN], headers, **body)
                inside = past(answer)
                if operation.endswith("/stop") and role is Role.MANUFACTURER:
                    inside = answer.status_code != 404
                if inside is not (row[role] in ("yes", "open")):
                    wrong.append(f"{operation} as {role}: {answer.status_code}, wanted {row[role]}")
    assert not wrong, "\n".join(wrong)


def test_tokens_and_certificates_never_approve(doors: Town) -> None:
    """Approving needs a person's session: a token with every role there is, approver among them, is refused."""
    text = doors.token(Role.ADMIN)
    with doors.rt.db.write() as connection:
        mine = identity_tables.tokens.c.id == tokens.parse(text)[0]
        everything = [str(role) for role in Role]
        connection.execute(identity_tables.tokens.update().where(mine).values(roles=everything))
    with doors.client("people") as client:
        for route in routing.api_routes(build(doors.rt)):
            if routing.permissions(route) & {str(permission) for permission in PERSON_ONLY}:
                for method in route.methods or ():
                    answer = ask(client, f"{method} {route.path}", {}, {"Authorization": f"Bearer {text}"})
                    assert (answer.status_code, answer.json()["code"]) == (403, "person-needed"), route.path


def test_other_vendors_things_are_not_found(doors: Town) -> None:
    things, wrong = Things(doors), []
    headers = doors.sign_in("mia", Role.MANUFACTURER, vendor=OWN).headers
    with doors.client("people") as client:
        for operation in sorted(of_vendors("hidden") + of_vendors("unseen"), key=lambda name: name.endswith("/retire")):
            parameters = {"params": {"criterion": "CAM-1.1"}} if operation.endswith("/proof") else {}
            if not operation.startswith("GET"):
                parameters |= {"json": BODIES[operation]}
            foreign = ask(client, operation, things.ids[OTHER], headers, **parameters)
            own = ask(client, operation, things.ids[OWN], headers, **parameters)
            if foreign.status_code != 404 or any(word in foreign.text for word in (OTHER, f"cam-{OTHER}")):
                wrong.append(f"{operation} of another vendor: {foreign.status_code}")
            found = own.status_code not in (403, 404) or operation.endswith("/proof")
            if found is (operation in of_vendors("unseen")):
                wrong.append(f"{operation} of the own vendor: {own.status_code}")
    assert not wrong, "\n".join(wrong)


def test_lists_and_counts_show_the_own_vendor_only(doors: Town) -> None:
    things, wrong = Things(doors), []
    mine = doors.sign_in("mia", Role.MANUFACTURER, vendor=OWN).headers
    boss = doors.sign_in("boss", Role.ADMIN).headers
    with doors.client("people") as client:
        for operation in of_vendors("filtered"):
            seen, everything = ask(client, operation, {}, mine), ask(client, operation, {}, boss)
            assert (seen.status_code, everything.status_code) == (200, 200), operation
            if not any(secret in everything.text for secret in things.secrets):
                wrong.append(f"{operation}: the administrator's list shows nothing of {OTHER}, so this proves nothing")
            wrong += [f"{operation} shows {secret}" for secret in things.secrets if secret in seen.text]
    assert not wrong, "\n".join(wrong)


DEVICE = {"name": "new-1", "vendor": OTHER, "model": "m1", "serial_number": "s", "site": "site-1"}
NAMING: dict[str, Callable[[Things], dict[str, Any]]] = {
    "POST /api/v1/devices": lambda _: {"json": DEVICE},
    "POST /api/v1/devices/import": lambda _: {"content": json.dumps(DEVICE)},
    "POST /api/v1/artifacts": lambda _: {"params": {"vendor": OTHER}, "content": b"firmware"},
    "POST /api/v1/posture/declarations": lambda _: {"json": declaration(OTHER)},
}


def declaration(vendor: str) -> dict[str, Any]:
    """A declaration that would be taken from its own vendor."""
    return {**GOOD, "vendor": vendor}


def test_a_body_cannot_name_another_vendors_thing(doors: Town) -> None:
    things = Things(doors)
    headers = doors.sign_in("mia", Role.MANUFACTURER, vendor=OWN).headers
    with doors.client("people") as client:
        for operation in of_vendors("body"):
            answer = ask(client, operation, {}, headers, **NAMING[operation](things))
            if answer.status_code == 202:
                assert (answer.json()["rows"], answer.json()["rejected"]) == (1, 1), operation
            else:
                assert answer.status_code == 404, f"{operation}: {answer.status_code} {answer.text}"


def test_facts_about_the_own_device_hide_other_vendors_ids_inside(doors: Town) -> None:
    things = Things(doors)
    own, other = things.ids[OWN]["device_id"], things.ids[OTHER]["device_id"]
    fact = AlertRaised(
        device_id=own, alert_id="a", rule_id="r", rule_title=f"{other} attacks", severity="high",
        senders=(f"device:{other}", f"device:{own}"),
    )  # fmt: skip
    with doors.rt.db.write() as connection:
        event_id = outbox.append(connection, fact, actor=system(f"about-{other}"))
        row = connection.execute(events.select().where(events.c.id == event_id)).one()
        connection.execute(leaves.insert().values(leaf_index=99, event_seq=row.seq, leaf_hash=row.leaf_hash))
    mine = doors.sign_in("mia", Role.MANUFACTURER, vendor=OWN).headers
    boss = doors.sign_in("boss", Role.ADMIN).headers
    with doors.client("people") as client:
        for path in (f"/api/v1/devices/{own}/timeline", "/api/v1/events?limit=500"):
            seen, everything = client.get(path, headers=mine), client.get(path, headers=boss)
            assert other in everything.text and other not in seen.text, path
            assert "device:hidden" in seen.text and f"device:{own}" in seen.text, path


@pytest.mark.parametrize("role", [Role.MANUFACTURER, Role.COLLECTOR])
def test_vendors_and_sites_cannot_be_left_out(doors: Town, role: Role) -> None:
    boss = doors.sign_in("boss", Role.ADMIN).headers
    with doors.client("people") as client:
        answer = client.post("/api/v1/tokens", json={"name": "t", "roles": [role], "days": 1}, headers=boss)
    assert (answer.status_code, answer.json()["code"]) == (422, "bad-roles")
