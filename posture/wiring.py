"""What the posture room brings."""

TABLES = "posture.models"
HANDLERS: dict[str, tuple[str, ...]] = {"DeclarationAccepted": ("posture.jobs:on_declaration",)}
JOBS: dict[str, str] = {"posture.assess": "posture.jobs:run_assessment", "posture.rejudge": "posture.jobs:rejudge"}
RECURRING: dict[str, tuple[float, str]] = {"posture.expire": (300.0, "posture.jobs:expire")}  # seconds
VERBS: tuple[str, ...] = ("posture.verbs:ASSESS",)
ENFORCEMENT: tuple[str, ...] = ()
SIGNING: dict[str, str] = {}
INIT: tuple[str, ...] = ()
