"""A view of trust, loaded as a door loads its own (`lachan.trust_view`)."""

from lachan.database import Database
from lachan.trust_view import View


def view_of(db: Database) -> View:
    """What a door that began now would know."""
    eye, view = db.glances(), View()
    try:
        for _ in view.load(eye):
            pass
        view.look(eye)
    finally:
        eye.close()
    return view
