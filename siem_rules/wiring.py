"""What detection brings to the house: its detector is a role of its own and takes no jobs."""

from lachan.wiring import Room

WIRING = Room(
    tables="siem_rules.models",
    settings="siem_rules.settings:SiemSettings",
    health={"detector": "siem_rules.health:check"},
)
