"""Seals new events (being written)."""

from lachan.runtime import Runtime


def seal(rt: Runtime) -> None:
    """Seal what is new."""
