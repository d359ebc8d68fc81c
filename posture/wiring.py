"""What the posture room brings."""

from lachan.wiring import Every, Lane, Room, Work

WIRING = Room(
    tables="posture.models",
    handlers={"DeclarationAccepted": (Work("posture.jobs:on_declaration", lane=Lane.ORDINARY, deadline=60.0),)},
    jobs={
        "posture.assess": Work("posture.jobs:run_assessment", lane=Lane.SLOW, deadline=600.0),
        "posture.rejudge": Work("posture.jobs:rejudge", lane=Lane.ORDINARY, deadline=60.0),
    },
    recurring={"posture.expire": Every(300.0, "posture.jobs:expire", lane=Lane.ORDINARY, deadline=60.0)},  # seconds
    verbs=("posture.verbs:ASSESS",),
)
