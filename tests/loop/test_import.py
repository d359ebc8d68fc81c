"""Registering devices by ``lachan device import``: good rows are kept, bad ones come back with row and reason."""

import csv
from pathlib import Path

from tests.loop.conftest import Town
from tests.support.wait import until

ROWS = """\
name,vendor,model,serial_number,site,ward,owner,address
import-1,acme,A1,IMP-1,imported,Cửa Nam,UBND phường Cửa Nam,192.0.2.10
Import 2,acme,A1,IMP-2,imported,Cửa Nam,,
import-3,acme,A1,IMP-1,imported,Cửa Nam,,
import-1,acme,A1,IMP-4,imported,Cửa Nam,,
import-5,acme,A1,,imported,Cửa Nam,,
=cmd|calc,acme,A1,IMP-6,imported,Cửa Nam,,
import-7,acme,A1,IMP-7,imported,Cửa Nam,,
"""


def test_good_rows_are_kept_and_bad_ones_come_back(town: Town, tmp_path: Path) -> None:
    file = tmp_path / "devices.csv"
    file.write_text(ROWS, "utf-8")
    report = town.city.lachan("device", "import", str(file), expect=1)  # some rows were refused
    assert report["accepted"] == 2
    reasons = {bad["row"]: bad["reason"] for bad in report["rejected"]}
    assert set(reasons) == {3, 4, 5, 6, 7}
    assert reasons[3].startswith("name:")
    assert "IMP-1" in reasons[4] and "row 2" in reasons[4]
    assert "import-1" in reasons[5]
    assert reasons[6].startswith("serial_number:")

    listed = town.story.admin.get("/api/v1/devices?site=imported&limit=50")["items"]
    assert {d["name"] for d in listed if d["site"] == "imported"} == {"import-1", "import-7"}
    (device,) = (d for d in listed if d["name"] == "import-1")
    assert (device["ward"], device["owner"], device["criticality"]) == ("Cửa Nam", "UBND phường Cửa Nam", "unknown")

    with (tmp_path / "devices.csv.rejected.csv").open(encoding="utf-8", newline="") as back:
        rejected = list(csv.DictReader(back))
    assert [int(row["row"]) for row in rejected] == [3, 4, 5, 6, 7]
    assert all(row["reason"] for row in rejected)
    assert rejected[4]["name"] == "'=cmd|calc"  # a spreadsheet would run it

    def told() -> list[int]:
        facts = town.story.events("DevicesImported")
        mine = [fact["data"] for fact in facts if fact["data"]["import_id"] == report["id"]]
        return [fact["rejected"] for fact in mine] if len(mine) == 2 else []

    assert until(told, what="both facts of the import stand in the ledger") == [0, 5]  # its one chunk, and the whole

    again = town.city.lachan("device", "import", str(file), expect=1)  # sent twice: nothing twice
    assert again["accepted"] == 0


def test_a_file_sent_to_the_people_door_is_applied_by_the_work_role(town: Town) -> None:
    rows = "".join(f"http-{n},acme,A1,HTTP-{n},imported-2\n" for n in range(1500))
    text = "name,vendor,model,serial_number,site\n" + rows
    answer = town.story.admin.ask("POST", "/api/v1/devices/import", content=text, headers={"Content-Type": "text/csv"})
    place = f"/api/v1/imports/{answer['id']}"

    def done() -> dict[str, object] | None:
        found = town.story.admin.get(place)
        return found if found["state"] == "done" else None

    assert until(done, timeout=60, what="the last chunk is applied")["accepted"] == 1500
