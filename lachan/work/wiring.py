"""What the queue of due work brings to the house."""

from lachan.wiring import Room

WIRING = Room(health={"work": "lachan.work.health:check"})
