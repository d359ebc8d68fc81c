"""The one permission table: which role may do what.

Endpoints and verbs state a permission, never a role. `PERSON_ONLY` permissions need a person's session besides: no token
and no certificate can approve a release from quarantine or a signature (design decision 15).
"""

from enum import StrEnum


class Role(StrEnum):
    """The audiences of lachan."""

    ANALYST = "analyst"
    APPROVER = "approver"
    MANUFACTURER = "manufacturer"
    PLATFORM = "platform"
    AUDITOR = "auditor"
    ADMIN = "admin"
    COLLECTOR = "collector"
    DEVICE = "device"


class Permission(StrEnum):
    """What can be allowed, ``room:act``."""

    DEVICES_READ = "devices:read"
    DEVICES_WRITE = "devices:write"
    CRITICALITY_WRITE = "criticality:write"
    TOKENS_WRITE = "tokens:write"
    USERS_WRITE = "users:write"
    EVENTS_READ = "events:read"
    LEDGER_READ = "ledger:read"
    TRUST_READ = "trust:read"
    METRICS_READ = "metrics:read"
    PKI_READ = "pki:read"
    PKI_SECRET = "pki:secret"
    PKI_SUSPEND = "pki:suspend"
    PKI_RELEASE = "pki:release"
    PKI_REVOKE = "pki:revoke"
    PKI_ANCHOR = "pki:anchor"
    OTA_READ = "ota:read"
    OTA_UPLOAD = "ota:upload"
    OTA_PROPOSE = "ota:propose"
    OTA_APPROVE = "ota:approve"
    OTA_PUBLISH = "ota:publish"
    OTA_HOLD = "ota:hold"
    LOGS_WRITE = "logs:write"
    LOGS_READ = "logs:read"
    RULES_READ = "rules:read"
    ALERTS_READ = "alerts:read"
    ALERTS_WRITE = "alerts:write"
    PLAYBOOKS_READ = "playbooks:read"
    PLAYBOOKS_WRITE = "playbooks:write"
    PLAYBOOKS_MODE = "playbooks:mode"
    RUNS_READ = "runs:read"
    RUNS_APPROVE = "runs:approve"
    CONTAIN = "contain:write"
    CONTAIN_RELEASE = "contain:release"
    KILL_SWITCH = "contain:kill-switch"
    POSTURE_READ = "posture:read"
    POSTURE_RUN = "posture:run"
    POSTURE_DECLARE = "posture:declare"
    ENGAGEMENT_APPROVE = "engagement:approve"
    SELF = "self:use"


P = Permission
PERSON_ONLY = frozenset({P.OTA_APPROVE, P.RUNS_APPROVE, P.CONTAIN_RELEASE, P.ENGAGEMENT_APPROVE})
_READS = frozenset(p for p in P if p.value.endswith(":read"))

ROLE_PERMISSIONS: dict[Role, frozenset[Permission]] = {
    Role.ANALYST: (_READS - {P.METRICS_READ}) | {P.ALERTS_WRITE, P.CONTAIN, P.PKI_SUSPEND, P.POSTURE_RUN, P.OTA_HOLD},
    Role.APPROVER: (_READS - {P.METRICS_READ})
    | {
        P.RUNS_APPROVE,
        P.CONTAIN_RELEASE,
        P.OTA_APPROVE,
        P.ENGAGEMENT_APPROVE,
        P.PKI_RELEASE,
        P.OTA_HOLD,
    },
    Role.MANUFACTURER: frozenset(
        {
            P.DEVICES_READ,
            P.DEVICES_WRITE,
            P.EVENTS_READ,
            P.TRUST_READ,
            P.PKI_READ,
            P.PKI_SECRET,
            P.OTA_READ,
        }
        | {P.OTA_UPLOAD, P.POSTURE_READ, P.POSTURE_DECLARE}
    ),
    Role.PLATFORM: (_READS - {P.LOGS_READ})
    | {
        P.DEVICES_WRITE,
        P.PKI_SECRET,
        P.PKI_SUSPEND,
        P.OTA_UPLOAD,
        P.OTA_PROPOSE,
        P.OTA_PUBLISH,
        P.OTA_HOLD,
        P.LOGS_WRITE,
    },
    Role.AUDITOR: _READS,
    Role.ADMIN: frozenset(P) - {P.SELF} - PERSON_ONLY,
    Role.COLLECTOR: frozenset({P.LOGS_WRITE}),
    Role.DEVICE: frozenset({P.SELF, P.LOGS_WRITE}),
}
