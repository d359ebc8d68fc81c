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
    assert "IMP-1" in reasons[4] or "serial" in reasons[4]
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
        return [fact["data"]["rejected"] for fact in facts if fact["data"]["accepted"] == 2]

    assert until(told, what="the import stands in the ledger") == [5]

    again = town.city.lachan("device", "import", str(file), expect=1)  # sent twice: nothing twice
    assert again["accepted"] == 0
