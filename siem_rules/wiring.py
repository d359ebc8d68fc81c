"""What the room `siem_rules` brings: a table of contents, plain data."""

TABLES = "siem_rules.models"
HANDLERS: dict[str, tuple[str, ...]] = {}
JOBS: dict[str, str] = {}
RECURRING: dict[str, tuple[float, str]] = {}
VERBS: tuple[str, ...] = ()
ENFORCEMENT: tuple[str, ...] = ()
