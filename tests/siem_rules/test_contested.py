"""What a manufacturer registers takes nobody's evidence and hides nobody's; an operator's word does, and collisions are told."""

import io

import orjson
import pytest

from lachan import clock, devices, trust
from lachan.devices import Criticality, NewDevice, contested, importing
from lachan.errors import Forbidden, Invalid
from lachan.identity import Principal, PrincipalKind, Role, system
from lachan.runtime import Runtime
from lachan.work import outbox
from siem_rules.binding import Registry
from tests.conftest import person
from tests.siem_rules.support import collector, detect, documents, send
from tests.siem_rules.test_framing import about, facts
from tests.siem_rules.test_framing_contained import answer, enforcing, settle  # noqa: F401

SITE = "ward-7"
ADDRESS = "10.77.0.12"
MAKER, OTHER = (person(name, Role.MANUFACTURER, vendor=name) for name in ("evilcorp", "honest"))


def made(
    rt: Runtime, name: str, by: Principal, *, vendor: str, address: str | None = None, site: str = SITE
) -> Principal:
    """Register a device as somebody does."""
    new = NewDevice(name=name, vendor=vendor, model="M", serial_number=name, site=site, address=address)
    found = rt.db.run(lambda c: devices.register(c, new, actor=by))
    if found.criticality is Criticality.UNKNOWN:
        admin = person("an", Role.ADMIN)
        rt.db.run(lambda c: devices.set_criticality(c, found.id, Criticality.NORMAL, actor=admin))
    return Principal(
        kind=PrincipalKind.DEVICE, id=found.id, name=name, roles=frozenset({Role.DEVICE}), vendor=vendor, site=site
    )


def seen(rt: Runtime, who: Principal, address: str) -> None:
    """A device used its certificate from an address."""
    rt.db.run(lambda c: devices.touch_seen(c, {who.id: (clock.now(), address)}))


def bound(rt: Runtime) -> list[str | None]:
    """Whom the alerts speak of."""
    detect(rt)
    return [fact.device_id for fact in facts(rt)]


def told(rt: Runtime, name: str = "IdentityContested") -> list[object]:
    with rt.db.read() as c:
        return [stored.event for stored in outbox.read(c, names=(name,), limit=100)]


OPERATOR = system("t")


@pytest.mark.parametrize("first", ["decoys first", "victim first"])
def test_decoys_of_a_manufacturer_hide_nobody(enforcing: Runtime, first: str) -> None:  # noqa: F811
    """It registers a hundred devices of its own at the victim's address, before or after the victim."""
    rt = enforcing

    def decoys() -> None:
        for n in range(100):
            made(rt, f"decoy-{n}", MAKER, vendor="evilcorp", address=ADDRESS)

    if first == "decoys first":
        decoys()
    victim = made(rt, "cam-b", OPERATOR, vendor="honest", address=ADDRESS)
    neighbour = made(rt, "cam-c", OPERATOR, vendor="honest", address="10.77.0.13")
    if first == "victim first":
        decoys()
    send(rt, collector("gw"), documents(about(ADDRESS)))
    settle(rt)
    assert answer(rt, victim) is trust.Answer.QUARANTINE
    assert answer(rt, neighbour) is trust.Answer.ALLOW
    assert told(rt)
    assert len(told(rt, "HumanPaged")) <= 2, "a flood of decoys is one page for each who writes"
    assert told(rt, "HumanPaged")


def test_what_a_manufacturer_says_of_addresses_binds_nobody(open_rt: Runtime) -> None:
    made(open_rt, "cam-b", OTHER, vendor="honest", address=ADDRESS)
    send(open_rt, collector("gw"), documents(about(ADDRESS)))
    assert bound(open_rt) == [None]


def test_an_operators_word_binds_what_a_manufacturer_registered(open_rt: Runtime) -> None:
    camera = made(open_rt, "cam-b", OTHER, vendor="honest", address=ADDRESS)
    with pytest.raises(Forbidden):
        open_rt.db.run(lambda c: devices.place(c, camera.id, actor=OTHER, address=ADDRESS))
    with pytest.raises(Invalid):
        open_rt.db.run(lambda c: devices.place(c, camera.id, actor=OPERATOR, address="no address"))
    found = open_rt.db.run(lambda c: devices.place(c, camera.id, actor=OPERATOR, address="10.77.0.99"))
    assert (found.vouched, found.address, found.site) == (True, "10.77.0.99", SITE)
    send(open_rt, collector("gw"), documents(about("10.77.0.99")))
    assert bound(open_rt) == [camera.id]
    changed = [(fact.field_name, fact.before, fact.after) for fact in told(open_rt, "DeviceChanged")]  # type: ignore[attr-defined]
    assert ("address", ADDRESS, "10.77.0.99") in changed and ("vouched", "manufacturer", "operator") in changed


def test_where_its_certificate_was_used_binds_a_device_and_an_operators_entry_goes_before_it(open_rt: Runtime) -> None:
    camera = made(open_rt, "cam-b", OTHER, vendor="honest")
    seen(open_rt, camera, ADDRESS)
    send(open_rt, collector("gw"), documents(about(ADDRESS)))
    assert bound(open_rt) == [camera.id]
    evil = made(open_rt, "decoy", MAKER, vendor="evilcorp", address="10.77.0.20")
    registry = Registry(open_rt.db)
    seen(open_rt, evil, "10.77.0.20")
    victim = made(open_rt, "cam-d", OPERATOR, vendor="honest", address="10.77.0.20")
    send(open_rt, collector("gw"), documents(about("10.77.0.20")))
    assert bound(open_rt)[1:] == [victim.id]
    assert {one.name for one in registry.resolve("10.77.0.20", SITE)} == {"cam-d", "decoy"}


def test_two_of_equal_worth_bind_nobody(open_rt: Runtime) -> None:
    a, b = (made(open_rt, f"cam-{n}", OTHER, vendor="honest") for n in "ab")
    for one in (a, b):
        seen(open_rt, one, ADDRESS)  # behind one address translation
    for n in "cd":
        made(open_rt, f"cam-{n}", OPERATOR, vendor="honest", address="10.77.0.30")
    assert len(told(open_rt)) == 1, "the second was told of"
    send(open_rt, collector("gw"), documents(about(ADDRESS), about("10.77.0.30")))
    assert set(bound(open_rt)) == {None}


def test_a_manufacturers_name_takes_no_cameras_own_words(open_rt: Runtime) -> None:
    """Cameras ship with the head "camera"; somebody registers a device of that name, and all go on speaking of themselves."""
    camera = made(open_rt, "cam-b", OPERATOR, vendor="honest")
    made(open_rt, "camera", MAKER, vendor="evilcorp")
    line = about("") | {"host": {}}
    send(open_rt, camera, documents(line))
    assert bound(open_rt) == [camera.id]


def test_an_address_of_another_site_is_none_of_this_one(open_rt: Runtime) -> None:
    """A camera writes its own address into its head, which an operator has entered for another at another site."""
    camera = made(open_rt, "cam-b", OTHER, vendor="honest")
    made(open_rt, "cam-far", OPERATOR, vendor="honest", address=ADDRESS, site="far")
    line = {
        "@timestamp": clock.iso(clock.now()),
        "message": f"Nov 22 16:19:02 {ADDRESS} authpriv.info sh: XMHDIPC: applet not found",
    }
    send(open_rt, camera, documents(line))
    assert bound(open_rt) == [camera.id]


def test_an_import_tells_of_collisions_once_a_chunk(open_rt: Runtime) -> None:
    made(open_rt, "cam-b", OPERATOR, vendor="evilcorp", address=ADDRESS)
    rows = [
        {
            "name": f"d-{n}",
            "vendor": "evilcorp",
            "model": "M",
            "serial_number": f"D{n}",
            "site": SITE,
            "address": ADDRESS,
        }
        for n in range(30)
    ]
    file = io.BytesIO(b"\n".join(orjson.dumps(row) for row in rows))
    found, _ = importing.begin(open_rt, file, actor=MAKER, json_lines=True, due=False)
    while found.state is not importing.ImportState.DONE:
        found = importing.apply(open_rt, found.id)
    assert found.accepted == 30
    (fact,) = told(open_rt)
    assert (fact.address, fact.site) == (ADDRESS, SITE)  # type: ignore[attr-defined]
    with open_rt.db.read() as c:
        assert not devices.by_name(c, "d-7").vouched


@pytest.mark.parametrize(
    ("entered", "said"),
    [
        ("2001:DB8:0:0::7", "2001:db8::7"), ("2001:db8::7", "2001:0DB8:0000::0007"), ("[2001:db8::7]", "2001:db8::7"),
        ("10.77.0.50", "::ffff:10.77.0.50"), ("NVR-1.City.Example.", "nvr-1.city.example"), ("cam.example", "CAM.EXAMPLE"),
    ],
)  # fmt: skip
def test_an_address_is_the_same_however_it_is_spelt(open_rt: Runtime, entered: str, said: str) -> None:
    camera = made(open_rt, "cam-b", OPERATOR, vendor="honest", address=entered)
    made(open_rt, "decoy", MAKER, vendor="evilcorp", address=said if "ffff" not in said else entered)
    assert told(open_rt), "the same address in another spelling is contested"
    send(open_rt, collector("gw"), documents(about(said)))
    assert bound(open_rt) == [camera.id]


def test_a_name_has_no_case(open_rt: Runtime) -> None:
    camera = made(open_rt, "cam-b", OPERATOR, vendor="honest")
    send(open_rt, collector("gw"), documents(about("CAM-B")))
    send(open_rt, camera, documents(about("Cam-B")))
    assert set(bound(open_rt)) == {camera.id}


def test_others_are_found_by_their_address_and_not_by_their_site(open_rt: Runtime) -> None:
    """A chunk of an import has five hundred rows, a site thousands of devices."""
    for n in range(20):
        made(open_rt, f"cam-{n}", OPERATOR, vendor="honest", address=f"10.77.1.{n}")
    asked = orjson.dumps([{"id": "x", "address": "10.77.1.3", "site": SITE}]).decode()
    query = contested._others(open_rt.db.dialect)
    text = str(query.params(rows=asked).compile(open_rt.db.engine, compile_kwargs={"literal_binds": True}))
    with open_rt.db.read() as c:
        if open_rt.db.dialect == "sqlite":
            plan = " ".join(row[3] for row in c.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}"))
        else:
            c.exec_driver_sql("SET LOCAL enable_seqscan = off")
            plan = " ".join(row[0] for row in c.exec_driver_sql(f"EXPLAIN {text}"))
        assert "ix_devices_address" in plan and "ix_devices_site" not in plan
        assert "address=? AND site=?" in plan or "(address)::text = " in plan
