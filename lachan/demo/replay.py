"""Replaying a recording now: all times are moved by one constant, and the storm may go out before the rest."""

import json
from datetime import datetime
from pathlib import Path

from lachan.recording import shift

FOLDER = Path(__file__).parent / "recording"
ATTACK = FOLDER / "recording.bulk"
BENIGN = FOLDER / "benign.bulk"


def ending(recording: Path, end: datetime) -> list[bytes]:
    """Give the recording as pairs of action and document, moved so that its last line happened at ``end``."""
    body = recording.read_bytes()
    times = [datetime.fromisoformat(json.loads(line)["@timestamp"]) for line in body.splitlines()[1::2]]
    moved = shift(body, end - (max(times) - min(times))).splitlines(keepends=True)
    return [action + document for action, document in zip(moved[::2], moved[1::2], strict=True)]


def before(pairs: list[bytes], words: bytes) -> int:
    """Give the place of the first pair that has ``words``; the end when none has."""
    return next((place for place, pair in enumerate(pairs) if words in pair), len(pairs))
