"""What the status door offers: modules with routes. All are public, plain HTTP, and signed by what they carry."""

ROUTES: tuple[str, ...] = ("api.status.pki",)
