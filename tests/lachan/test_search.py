"""Searching the registry: however people spell a name, on both databases, by an index, each page in order."""

from unicodedata import normalize

import pytest
import sqlalchemy as sa

from lachan import devices
from lachan.devices import NewDevice, search
from lachan.identity import Principal, Role, system
from lachan.runtime import Runtime
from tests.conftest import person

WHO = system("t")
CAMERAS = (
    {"name": "cam-1", "ward": "Phường Ba Đình", "place": "Ngõ 5 Phố Huế", "serial_number": "AN-0001", "address": "10.0.0.7"},
    {"name": "cam-2", "ward": "PHƯỜNG CẦU GIẤY", "model": "Mắt 201", "serial_number": "AN-0002"},
    {"name": "cam-3", "ward": "Bãi Định", "site": "Hoàn Kiếm", "serial_number": "100/200-3", "place": "Cổng 50%_B", "address": "2001:db8::7"},
)  # fmt: skip


def fill(rt: Runtime, *more: dict[str, str]) -> None:
    with rt.db.write() as c:
        for one in (*CAMERAS, *more):
            fields = {"vendor": "Acme", "model": "A1", "site": "hk", **one}
            devices.register(c, NewDevice(**fields), actor=WHO)


def names(rt: Runtime, asked: str, principal: Principal = WHO, **more: object) -> list[str]:
    with rt.db.read() as c:
        return [d.name for d in devices.find(c, principal=principal, filters={"q": asked}, **more)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "asked", ["ba dinh", "BA ĐÌNH", "Ba Đình", normalize("NFD", "Ba Đình"), "  ba   đình ", "ba\x00đình", "hường ba"]
)
def test_a_ward_is_found_however_it_is_spelt(rt: Runtime, asked: str) -> None:
    fill(rt)
    assert names(rt, asked) == ["cam-1"]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("0002", ["cam-2"]), ("an-000", ["cam-1", "cam-2"]), ("AN-0001", ["cam-1"]), ("10.0.0", ["cam-1"]),
        ("2001:DB8", ["cam-3"]), ("mat 2", ["cam-2"]), ("hoan kiem", ["cam-3"]), ("pho hue", ["cam-1"]),
        ("0/200-", ["cam-3"]), ("50%_b", ["cam-3"]), ("50__b", []), ("c%m", []), ("c_m", []), ('"cam"', []), ("cam-1 OR cam-2", []), ("am*", []),
        ("ca", ["cam-1", "cam-2", "cam-3"]), ("5", ["cam-1", "cam-3"]), ("zq", []), ("", ["cam-1", "cam-2", "cam-3"]),
        ("an 0001", []), ("anj0001", []), ("10 0 0", []), ("baj", []), ("cam-1an-0001", []), ("cam-1\nan-0001", []), ("\u0301", ["cam-1", "cam-2", "cam-3"]),
    ],
)  # fmt: skip
def test_a_piece_is_letters_and_never_a_language(rt: Runtime, asked: str, found: list[str]) -> None:
    fill(rt)
    assert names(rt, asked) == found


def test_a_manufacturer_finds_its_own_and_pages_follow_names(rt: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(
        rt, *({"name": f"gate-{n}", "vendor": "Other" if n % 2 else "Acme", "serial_number": f"G{n}"} for n in range(9))
    )
    for few in (search.FEW, 3):  # by the index, and in the order of names
        monkeypatch.setattr(search, "FEW", few)
        maker = person("maker", Role.MANUFACTURER, vendor="Other")
        assert names(rt, "gate", maker) == ["gate-1", "gate-3", "gate-5", "gate-7"]
        assert names(rt, "gate", limit=4) == ["gate-0", "gate-1", "gate-2", "gate-3"]
        assert names(rt, "gate", limit=9, after="gate-5") == ["gate-6", "gate-7", "gate-8"]


def test_what_changes_or_goes_is_searched_as_it_is(rt: Runtime) -> None:
    fill(rt)
    table = devices.devices
    with rt.db.write() as c:
        text = search.folded({"name": "cam-1", "ward": "Tây Hồ"})
        c.execute(table.update().where(table.c.name == "cam-1").values(ward="Tây Hồ", folded=text))
        c.execute(table.delete().where(table.c.name == "cam-2"))
        c.execute(table.update().where(table.c.name == "cam-3").values(state="retired"))
    assert (names(rt, "ba dinh"), names(rt, "tay ho"), names(rt, "cau giay")) == ([], ["cam-1"], [])
    assert names(rt, "bai dinh") == ["cam-3"]


def test_what_a_rolled_back_unit_registered_is_not_found(rt: Runtime) -> None:
    with rt.db.write() as c:
        inner = c.begin_nested()
        devices.register(c, NewDevice(**{"vendor": "A", "model": "A1", "site": "hk", **CAMERAS[0]}), actor=WHO)
        inner.rollback()
    assert names(rt, "ba dinh") == []


def test_the_search_goes_by_an_index(rt: Runtime) -> None:
    fill(rt)
    with rt.db.read() as c:
        asked = search.candidates(rt.db.dialect, devices.devices, "ba dinh")
        text = asked.compile(rt.db.engine, compile_kwargs={"literal_binds": True}).string
        if rt.db.dialect == "sqlite":
            plan = " ".join(row[3] for row in c.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}"))
            assert "VIRTUAL TABLE INDEX" in plan
            return
        c.exec_driver_sql("SET LOCAL enable_seqscan = off")
        plan = " ".join(row[0] for row in c.exec_driver_sql(f"EXPLAIN {text}"))
        assert "ix_devices_folded" in plan


def test_a_word_and_a_letter_read_no_district(rt: Runtime) -> None:
    """Every model here begins with the letter; the trigrams of each word alone would name all of the district."""
    wards = [{"ward": f"Phường Hoàn Kiếm {'M' if n == 7 else 'K'}", "model": f"M{n}"} for n in range(60)]
    fill(rt, *({"name": f"dome-{n}", "serial_number": f"D{n}", **one} for n, one in enumerate(wards)))
    assert names(rt, "Hoàn Kiếm M") == ["dome-7"]
    if rt.db.dialect == "sqlite":
        return
    with rt.db.read() as c:
        asked = search.candidates(rt.db.dialect, devices.devices, "hoan kiem m")
        text = asked.compile(rt.db.engine, compile_kwargs={"literal_binds": True}).string
        c.exec_driver_sql("SET LOCAL enable_seqscan = off")
        plan = "\n".join(row[0] for row in c.exec_driver_sql(f"EXPLAIN (ANALYZE) {text}"))
        assert "Bitmap Index Scan on ix_devices_folded" in plan
        assert "Removed by Index Recheck" not in plan


def test_what_many_have_is_read_in_the_order_of_names(rt: Runtime) -> None:
    fill(rt)
    if rt.db.dialect != "sqlite":
        return
    with rt.db.read() as c:
        table = devices.devices
        broad = search.narrowed(c, sa.select(table).where(table.c.name > ""), table, "ca")
        text = broad.compile(rt.db.engine, compile_kwargs={"literal_binds": True}).string
        plan = " ".join(row[3] for row in c.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}"))
    assert "ix_devices_name_folded" in plan
    assert "TEMP B-TREE" not in plan
