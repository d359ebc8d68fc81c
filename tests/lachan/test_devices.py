"""The registry: good rows are kept, bad ones come back with row and reason, vendors do not see each other."""

from pathlib import Path

import pytest

from lachan import devices
from lachan.devices import Criticality, NewDevice
from lachan.errors import Forbidden, NotFound
from lachan.identity import Principal, Role, system
from lachan.runtime import Runtime
from lachan.work import outbox
from tests.conftest import person

ROW = {"name": "cam-1", "vendor": "Acme", "model": "A1", "serial_number": "S1", "site": "hk-01"}


def test_import_keeps_the_good_rows_and_returns_the_bad_ones(rt: Runtime, tmp_path: Path) -> None:
    file = tmp_path / "devices.csv"
    file.write_text(
        "name,vendor,model,serial_number,site,ward\n"
        "cam-1,Acme,A1,S1,hk-01,Hoàn Kiếm\n"
        "CAM 2,Acme,A1,S2,hk-01,\n"
        "cam-3,Acme,A1,S1,hk-01,\n"
        "cam-4,Acme,A1,S4,hk-01,,extra\n"
        "cam-5,Acme,A1,S5,hk-01,\n"
    )
    with rt.db.write() as c:
        result = devices.import_rows(c, devices.parse_file(file), actor=system("t"))
        names = [e.name for e in outbox.read(c)]
        assert devices.by_name(c, "cam-1").ward == "Hoàn Kiếm"
    assert len(result.accepted) == 2
    assert [bad.row for bad in result.rejected] == [3, 4, 5]
    assert "name" in result.rejected[0].reason
    assert "registered" in result.rejected[1].reason
    assert "cells" in result.rejected[2].reason
    assert names == ["DevicesImported"]


def test_import_reads_ndjson_and_survives_a_broken_line(rt: Runtime, tmp_path: Path) -> None:
    file = tmp_path / "devices.ndjson"
    file.write_text('{"name":"cam-1","vendor":"A","model":"m","serial_number":"1","site":"s"}\n{broken\n[1]\n')
    with rt.db.write() as c:
        result = devices.import_rows(c, devices.parse_file(file), actor=system("t"))
    assert len(result.accepted) == 1
    assert [bad.row for bad in result.rejected] == [2, 3]


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
