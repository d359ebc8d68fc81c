"""Prints the rows that authorisation.csv lacks, as the permission table would have them: ``python -m tests.api.rows``.

A proposal to be read, not a truth: the table in the file is what the tests hold the permissions against.
"""

import tempfile
from pathlib import Path

from api import routing
from api.people import routes
from api.people.app import build
from lachan.identity.permissions import ROLE_PERMISSIONS, Permission
from lachan.runtime import Runtime
from lachan.settings import Settings
from tests.api.test_authorisation import ROLES, table

COLUMNS = ("analyst", "approver", "manufacturer", "platform", "auditor", "admin", "collector")


def main() -> None:
    """Prints one line per operation without a row."""
    assert set(COLUMNS) == {str(role) for role in ROLES}
    with tempfile.TemporaryDirectory() as folder:
        rt = Runtime.open(Settings.load(Path(folder)))
        for route in routing.api_routes(build(rt)):
            asked = {Permission(name) for name in routing.permissions(route)}
            for operation in sorted(f"{method} {route.path}" for method in route.methods or ()):
                if operation in table():
                    continue
                may = {str(role): asked <= granted for role, granted in ROLE_PERMISSIONS.items()}
                cells = ["open" if operation in routes.OPEN else "yes" if may[name] else "no" for name in COLUMNS]
                other = "none" if operation in routes.OPEN else "hidden?" if may["manufacturer"] else "-"
                print(",".join([operation, *cells, other]))
        rt.close()


if __name__ == "__main__":
    main()
