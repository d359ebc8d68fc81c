"""What the posture room brings."""

from lachan.wiring import Room

WIRING = Room(
    tables="posture.models",
    handlers={"DeclarationAccepted": ("posture.jobs:on_declaration",)},
    jobs={"posture.assess": "posture.jobs:run_assessment", "posture.rejudge": "posture.jobs:rejudge"},
    recurring={"posture.expire": (300.0, "posture.jobs:expire")},  # seconds
    verbs=("posture.verbs:ASSESS",),
)
