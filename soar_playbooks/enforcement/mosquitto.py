"""Mosquitto as an enforcement point: the dynamic-security role ``quarantine`` on the one client of the device.

Steps of `MosquittoPoint.apply`: make our role if the broker has none; ``addClientRole`` with the highest priority, which
disconnects the live client; read the client back as evidence. ``disableClient`` would not do: with certificate listeners
the client is back within a second (mosquitto #2999). Shared roles are never edited: that would disconnect every member.
Quarantine leaves ``remediation/#``, isolate and evict leave nothing, degrade and observe are not the broker's business.
A broker that restarts with an older state file is seen by ``observe`` and driven again. Limits: the client's name is the
device's name; a client that the broker does not know is refused by it anyway, and is watched until it appears; one
connection per call.
"""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as mqtt
import sqlalchemy as sa
from paho.mqtt.enums import CallbackAPIVersion

from lachan import clock
from lachan.devices import devices
from lachan.enforcement import Evidence, Level, PointLook, Target
from lachan.ids import new_id
from soar_playbooks.errors import PointUnavailable
from soar_playbooks.models import enforcements
from soar_playbooks.settings import SoarSettings

if TYPE_CHECKING:
    from lachan.runtime import Runtime
    from lachan.settings import Settings

NAME = "mosquitto"
PRIORITY = 100
TIMEOUT = 5.0  # seconds for one command
CONTROL = "$CONTROL/dynamic-security/v1"
ROLES: dict[Level, str] = {Level.QUARANTINE: "quarantine", Level.ISOLATE: "isolate", Level.EVICT: "isolate"}
_LEVELS: dict[str, Level] = {"quarantine": Level.QUARANTINE, "isolate": Level.ISOLATE}
_KINDS = ("publishClientSend", "publishClientReceive", "subscribePattern")
_OPEN = [{"acltype": kind, "topic": "remediation/#", "priority": 100, "allow": True} for kind in _KINDS]
_SHUT = [{"acltype": kind, "topic": "#", "priority": 50, "allow": False} for kind in _KINDS]
ACLS: dict[str, list[dict[str, Any]]] = {"quarantine": _OPEN + _SHUT, "isolate": _SHUT}


def point(rt: Runtime) -> MosquittoPoint | None:
    """Make the point, if the settings name a broker."""
    return MosquittoPoint(rt.settings) if SoarSettings.of(rt.settings).mosquitto_host else None


class MosquittoPoint:
    """See the module's text; errors of every method: `PointUnavailable` when the broker does not answer."""

    name = NAME

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def plan(self, rt: Runtime, target: Target, level: Level) -> list[str]:
        """Tell what `apply` would do, in words."""
        role = ROLES.get(level)
        if role is None:
            return [f"client {target.name}: no role of ours ({level} is not the broker's business)"]
        return [f"client {target.name}: add role {role} with priority {PRIORITY}; its live session is closed"]

    def apply(self, rt: Runtime, target: Target, level: Level, *, intent: str) -> Evidence:
        """Give the client the role of the level, and no other role of ours."""
        wanted = ROLES.get(level)
        with _Admin.connected(self._settings) as admin:
            roles = admin.roles_of(target.name)
            if roles is None:
                return _unknown(target)
            commands = []
            if wanted is not None and wanted not in roles:
                admin.ensure_role(wanted)
                commands += [
                    {"command": "addClientRole", "username": target.name, "rolename": wanted, "priority": PRIORITY}
                ]
            commands += [_remove(target.name, role) for role in ACLS if role in roles and role != wanted]
            responses = admin.call(*commands) if commands else []
            return self._evidence(admin, target, wanted, _said(intent, responses))

    def verify(self, rt: Runtime, target: Target, level: Level) -> Evidence:
        """Read the client's roles back from the broker."""
        with _Admin.connected(self._settings) as admin:
            return self._evidence(admin, target, ROLES.get(level), {})

    def release(self, rt: Runtime, target: Target, *, intent: str) -> Evidence:
        """Take our roles from the client; it reconnects with those that it always had."""
        with _Admin.connected(self._settings) as admin:
            roles: set[str] = admin.roles_of(target.name) or set()
            commands = [_remove(target.name, role) for role in ACLS if role in roles]
            responses = admin.call(*commands) if commands else []
            return self._evidence(admin, target, None, _said(intent, responses))

    def look(self, rt: Runtime, wanted: Sequence[tuple[Target, Level | None]], *, cursor: str, most: int) -> PointLook:
        """Ask for the roles of some clients, and for the broker's next clients: two commands' answers of bounded length."""
        offset = int(cursor or 0)
        with _Admin.connected(self._settings) as admin:
            roles = admin.roles_of_many([target.name for target, _ in wanted])
            page = admin.clients(count=most, offset=offset)
        found: dict[str, Level] = {}
        for (target, level), known in zip(wanted, roles, strict=True):
            seen = _contained(known, level)
            if seen is not None:
                found[target.device_id] = seen
        others = {name: held for name, held in page.items() if held & set(ACLS)}
        with rt.db.read() as connection:
            for device_id, name in connection.execute(
                sa.select(devices.c.id, devices.c.name).where(devices.c.name.in_(others))
            ):
                found.setdefault(device_id, _strongest(others[name] & set(ACLS)))
        return PointLook(found, str(offset + most) if len(page) == most else "")

    def observe(self, rt: Runtime) -> dict[str, Level]:
        """Find every device that has one of our roles now; a client that the broker does not know counts as contained."""
        with _Admin.connected(self._settings) as admin:
            clients = admin.clients()
        query = sa.select(devices.c.id, devices.c.name, enforcements.c.wanted).outerjoin(
            enforcements, sa.and_(enforcements.c.device_id == devices.c.id, enforcements.c.point == NAME)
        )
        found: dict[str, Level] = {}
        with rt.db.read() as connection:
            wanted = enforcements.c.wanted.is_not(None)
            named = devices.c.name.in_([name for name, roles in clients.items() if roles & set(ACLS)])
            for device_id, name, level in connection.execute(query.where(sa.or_(wanted, named))):
                seen = _contained(clients.get(name), Level(level) if level else None)
                if seen is not None:
                    found[device_id] = seen
        return found

    def _evidence(self, admin: _Admin, target: Target, wanted: str | None, detail: dict[str, Any]) -> Evidence:
        roles: set[str] = admin.roles_of(target.name) or set()
        settled = roles & set(ACLS) == ({wanted} if wanted else set())
        seen = {**detail, "client": target.name, "roles": sorted(roles)}
        return Evidence(settled=settled, detail=seen, observed_at=clock.now())


class _Admin:
    """One connection as the dynamic-security administrator."""

    def __init__(self, client: mqtt.Client) -> None:
        self._client = client
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[str] = queue.SimpleQueue()
        client.on_connect = self._on_connect
        client.on_subscribe = lambda *_: self._ready.put("")
        client.on_message = lambda _client, _data, message: self._answers.put(json.loads(message.payload))

    @classmethod
    @contextmanager
    def connected(cls, settings: Settings) -> Iterator[_Admin]:
        """Connect, subscribe to the answers, and leave at the end.

        Raises:
            PointUnavailable: no connection, or the broker refuses the administrator.
        """
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"lachan-{new_id()}", protocol=mqtt.MQTTv5)
        file = SoarSettings.of(settings).mosquitto_password_file
        password = file.read_text().strip() if file else None
        client.username_pw_set(SoarSettings.of(settings).mosquitto_user, password)
        admin = cls(client)
        try:
            client.connect(
                SoarSettings.of(settings).mosquitto_host, SoarSettings.of(settings).mosquitto_port, keepalive=30
            )
        except OSError as error:
            raise PointUnavailable(f"Mosquitto at {SoarSettings.of(settings).mosquitto_host}: {error}") from error
        client.loop_start()
        try:
            admin.wait_ready()
            yield admin
        finally:
            client.disconnect()
            client.loop_stop()

    def wait_ready(self) -> None:
        """Wait until the answers' topic is subscribed."""
        problem = _get(self._ready, "the broker does not let the administrator in")
        if problem:
            raise PointUnavailable(f"Mosquitto refuses the administrator: {problem}")

    def call(self, *commands: dict[str, Any]) -> list[dict[str, Any]]:
        """Send commands; the broker's responses.

        Raises:
            PointUnavailable: no answer in time.
        """
        mark = new_id()
        marked = [{**command, "correlationData": mark} for command in commands]
        self._client.publish(CONTROL, json.dumps({"commands": marked}), qos=1)
        while True:
            answer = _get(self._answers, "the broker does not answer")
            responses: list[dict[str, Any]] = answer.get("responses", [])
            if all(response.get("correlationData") == mark for response in responses):
                return [{k: v for k, v in response.items() if k != "correlationData"} for response in responses]

    def roles_of(self, username: str) -> set[str] | None:
        """Read the roles of a client; None if the broker does not know it."""
        (response,) = self.call({"command": "getClient", "username": username})
        if "error" in response:
            if "not found" in str(response["error"]).lower():
                return None
            raise PointUnavailable(f"Mosquitto: {response['error']}")
        return {role["rolename"] for role in response["data"]["client"].get("roles", ())}

    def ensure_role(self, role: str) -> None:
        """Make our role once; one that exists is not touched (that would disconnect its members)."""
        (response,) = self.call({"command": "getRole", "rolename": role})
        if "error" in response:
            self.call({"command": "createRole", "rolename": role, "acls": ACLS[role]})

    def roles_of_many(self, usernames: Sequence[str]) -> list[set[str] | None]:
        """Read the roles of clients, all in one message; None for those that the broker does not know."""
        if not usernames:
            return []
        found: list[set[str] | None] = []
        for response in self.call(*({"command": "getClient", "username": name} for name in usernames)):
            if "error" not in response:
                found.append({role["rolename"] for role in response["data"]["client"].get("roles", ())})
            elif "not found" in str(response["error"]).lower():
                found.append(None)
            else:
                raise PointUnavailable(f"Mosquitto: {response['error']}")
        return found

    def clients(self, *, count: int = -1, offset: int = 0) -> dict[str, set[str]]:
        """Read the clients that the broker knows, or some of them, with their roles."""
        (response,) = self.call({"command": "listClients", "verbose": True, "count": count, "offset": offset})
        if "error" in response:
            raise PointUnavailable(f"Mosquitto: {response['error']}")
        found: list[Mapping[str, Any]] = response["data"]["clients"]
        return {
            str(client["username"]): {str(role["rolename"]) for role in client.get("roles", ())} for client in found
        }

    def _on_connect(self, client: mqtt.Client, _data: object, _flags: object, reason: Any, _properties: object) -> None:
        if reason.is_failure:
            self._ready.put(str(reason))
        else:
            client.subscribe(f"{CONTROL}/response", qos=1)


def _contained(roles: set[str] | None, wanted: Level | None) -> Level | None:
    """Tell what a client's roles amount to; one that the broker does not know is refused by it: as contained as wanted."""
    if roles is None:
        return wanted if wanted in ROLES else None
    ours = roles & set(ACLS)
    if not ours:
        return None
    return wanted if wanted is not None and ours == {ROLES.get(wanted)} else _strongest(ours)


def _strongest(ours: set[str]) -> Level:
    return max((_LEVELS[role] for role in ours), key=lambda found: found.rank)


def _get(source: queue.SimpleQueue[Any], problem: str) -> Any:
    try:
        return source.get(timeout=TIMEOUT)
    except queue.Empty:
        raise PointUnavailable(f"Mosquitto: {problem} within {TIMEOUT:g} s") from None


def _remove(username: str, role: str) -> dict[str, Any]:
    return {"command": "removeClientRole", "username": username, "rolename": role}


def _said(intent: str, responses: list[dict[str, Any]]) -> dict[str, Any]:
    """Keep what the broker answered, under the intent that made it act; nothing if there was nothing to do."""
    return {"intent": intent, **({"broker": responses, "acted_for": intent} if responses else {})}


def _unknown(target: Target) -> Evidence:
    detail = {"client": target.name, "broker": "does not know this client and refuses it"}
    return Evidence(settled=True, detail=detail, observed_at=clock.now())
