"""The authorisation table: every operation of the three doors, with what becomes of who asks (design decision 18).

One row an operation, the columns of other doors empty. *people*: a column a role, and ``other_vendor``, as
`tests/api/test_authorisation.py` says. *device*: a column for each kind of certificate, as `tests/api/test_machine_endpoints.py`
says. *status*: why everybody may ask.
"""

import csv
from pathlib import Path

TABLE = Path(__file__).with_name("authorisation.csv")
DOORS = ("people", "device", "status")


def rows(door: str) -> dict[str, dict[str, str]]:
    """Give a door's operations, each with its cells; those of other doors' columns are left out."""
    with TABLE.open(newline="") as file:
        table = list(csv.DictReader(file))
    assert {row["door"] for row in table} == set(DOORS)
    found = [row for row in table if row["door"] == door]
    assert len({row["operation"] for row in found}) == len(found)
    return {row["operation"]: {name: cell for name, cell in row.items() if cell} for row in found}
