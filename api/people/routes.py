"""What the people door offers: the modules with its routes.

Every operation depends on ``api.people.access.may(permission)``, but for those in `OPEN`; the door does not start
when one has neither. `RULES` says who may call what, and the authorisation test holds every route against it.
"""

ROUTES: tuple[str, ...] = (
    "api.people.session",
    "api.people.devices",
    "api.people.certificates",
    "api.people.trust",
    "api.people.events",
    "api.people.ledger",
    "api.people.tokens",
    "api.people.users",
    "api.people.artifacts",
    "api.people.releases",
    "api.people.posture",
    "api.people.health",
    "api.people.bulk",
    "api.people.alerts",
    "api.people.rules",
    "api.people.playbooks",
    "api.people.runs",
    "api.people.containment",
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
