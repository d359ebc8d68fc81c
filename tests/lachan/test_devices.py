"""The registry: each device once, vendors do not see each other, only administrators say how much depends on one."""

from unicodedata import normalize

import pytest

from lachan import devices
from lachan.devices import AlreadyRegistered, Criticality, NewDevice
from lachan.errors import Forbidden, NotFound
from lachan.identity import Principal, Role, system
from lachan.runtime import Runtime
from lachan.work import outbox
from tests.conftest import person

ROW = {"name": "cam-1", "vendor": "Acme", "model": "A1", "serial_number": "S1", "site": "hk-01"}


def decomposed(text: str) -> str:
    """The other spelling of accented letters (NFD), as some file systems and spreadsheets write it."""
    return normalize("NFD", text)


def test_a_name_has_one_spelling(rt: Runtime) -> None:
    with rt.db.write() as c:
        made = devices.register(c, NewDevice(**{**ROW, "vendor": decomposed("Công ty Mắt Thần")}), actor=system("t"))
        assert made.vendor == "Công ty Mắt Thần"
        with pytest.raises(AlreadyRegistered):
            devices.register(c, NewDevice(**{**ROW, "name": "cam-2", "vendor": "Công ty Mắt Thần"}), actor=system("t"))


def test_a_manufacturer_sees_and_registers_its_own_vendor_only(rt: Runtime) -> None:
    maker = person("maker", Role.MANUFACTURER, vendor="Acme")
    with rt.db.write() as c:
        mine = devices.register(c, NewDevice(**ROW), actor=maker)
        other = devices.register(c, NewDevice(**{**ROW, "name": "cam-9", "vendor": "Other"}), actor=system("t"))
        assert [d.name for d in devices.find(c, principal=maker)] == ["cam-1"]
        assert devices.get(c, mine.id, principal=maker).name == "cam-1"
        with pytest.raises(NotFound):
            devices.get(c, other.id, principal=maker)
        with pytest.raises(NotFound):
            devices.register(c, NewDevice(**{**ROW, "name": "cam-2", "vendor": "Other"}), actor=maker)


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.ADMIN])
def test_only_an_admin_changes_criticality_and_it_is_an_event(rt: Runtime, role: Role, admin: Principal) -> None:
    with rt.db.write() as c:
        device = devices.register(c, NewDevice(**ROW), actor=system("t"))
        assert device.criticality is Criticality.UNKNOWN
        with pytest.raises(Forbidden):
            devices.set_criticality(c, device.id, Criticality.NORMAL, actor=person("p", role))
        assert devices.set_criticality(c, device.id, Criticality.NORMAL, actor=admin).criticality is Criticality.NORMAL
        assert outbox.read(c, names=("DeviceChanged",))[0].event.after == "normal"


def test_search_treats_wildcards_as_letters(rt: Runtime) -> None:
    with rt.db.write() as c:
        devices.register(c, NewDevice(**ROW), actor=system("t"))
        assert devices.find(c, principal=system("t"), filters={"q": "cam"})
        assert not devices.find(c, principal=system("t"), filters={"q": "c%m"})
