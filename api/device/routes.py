"""What the device door offers: modules with routes, and which of their operations differ from the rule.

The rule: an operation needs a verified device whose trust decision is allow or limited. The exceptions stand here,
written ``METHOD /path`` as the route is; the door does not start when one names no route.
"""

ROUTES: tuple[str, ...] = (
    "api.device.own",
    "api.device.est",
    "api.device.bulk",
    "api.device.firmware",
)

# Reached without a certificate. Each of these authenticates in its own way or tells nothing that is not public.
OPEN: frozenset[str] = frozenset(
    f"{operation.split()[0]} /.well-known/est{label}/{operation.split()[1]}"
    for operation in ("GET cacerts", "GET csrattrs", "POST simpleenroll", "POST fullcmc", "POST serverkeygen")
    for label in ("", "/{label}")
)

# Refused while the decision is `limited` (containment level degrade, or a failed assessment).
WITHHELD_WHEN_LIMITED: frozenset[str] = frozenset()

# Still answered while the decision is `quarantine`; `deny` has none. Empty: the refusal itself tells the reasons, and a
# certificate on hold is refused anyway.
REMEDIES: frozenset[str] = frozenset()
