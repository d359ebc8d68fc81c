"""What the people door offers: the modules with its routes.

Every operation depends on ``api.people.access.may(permission)``, but for those in `OPEN`; the door does not start
when one has neither. `RULES` says who may call what, and the authorisation test holds every route against it.
"""

ROUTES: tuple[str, ...] = (
    "api.people.session",
    "api.people.v1.devices",
    "api.people.v1.imports",
    "api.people.v1.certificates",
    "api.people.v1.trust",
    "api.people.v1.events",
    "api.people.v1.ledger",
    "api.people.v1.tokens",
    "api.people.v1.users",
    "api.people.v1.artifacts",
    "api.people.v1.releases",
    "api.people.v1.posture",
    "api.people.health",
    "api.people.v1.bulk",
    "api.people.v1.alerts",
    "api.people.v1.rules",
    "api.people.v1.playbooks",
    "api.people.v1.runs",
    "api.people.v1.containment",
    "api.people.console.sign_in",
    "api.people.console.overview",
    "api.people.console.fleet",
    "api.people.console.device",
    "api.people.console.alerts",
    "api.people.console.runs",
    "api.people.console.containments",
    "api.people.console.posture",
    "api.people.console.firmware",
    "api.people.console.authorities",
    "api.people.console.ledger",
)

# Reached without signing in.
OPEN: frozenset[str] = frozenset(
    {
        "POST /api/v1/session",
        "GET /api/v1/session",
        "DELETE /api/v1/session",
        "GET /livez",
        "GET /readyz",
        "GET /sign-in",
        "POST /sign-in",
        "POST /sign-out",
        "GET /static/{name}",
    }
)
