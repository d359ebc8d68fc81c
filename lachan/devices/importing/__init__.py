"""Many devices from one file: the whole file is validated first, then its good rows are applied in chunks (ADR 0027).

Steps: `reading` makes rows of the file; `checking` finds every fault of every row; `staging` does both and leaves good and
bad rows in the blob store, with one row in the database; `applying` registers a chunk after the other, each in a unit of
work of its own; `report` shows what was refused.
"""

from lachan.devices.importing.applying import apply, find, get
from lachan.devices.importing.checking import BadRow
from lachan.devices.importing.models import Import, ImportState
from lachan.devices.importing.reading import BadFile
from lachan.devices.importing.report import as_csv, rejected
from lachan.devices.importing.staging import KeyReused, begin

__all__ = [
    "BadFile",
    "BadRow",
    "Import",
    "ImportState",
    "KeyReused",
    "apply",
    "as_csv",
    "begin",
    "find",
    "get",
    "rejected",
]
