"""A factory password is what lets in only when no password, and a made-up one, do not (decision 20: a verdict needs a control)."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from posture.probes.observation import Outcome
from tests.posture.cameras import BadCamera, BadHandler, Camera, digest_fits
from tests.posture.test_probes import look, target

LOGIN = "cred.default_http"


@pytest.fixture
def cameras() -> Iterator[Callable[[type[BadHandler]], Camera]]:
    found: list[Camera] = []

    def start(handler: type[BadHandler]) -> Camera:
        found.append(BadCamera.start(handler))
        return found[-1]

    yield start
    for camera in found:
        camera.stop()


class AnyPassword(BadHandler):
    """Asks for a login, and takes whatever comes."""

    def admitted(self, said: str) -> bool:
        return bool(said)


class OpensOnce(BadHandler):
    """Asks at first only: an address that was seen is let in without a password."""

    def admitted(self, said: str) -> bool:
        return len(self.server.requests) > 3  # type: ignore[attr-defined]


class SendsElsewhere(BadHandler):
    """Answers a login with a redirection to its form, whatever it is."""

    def do_GET(self) -> None:
        if self.path == "/" and self.headers.get("Authorization"):
            self.server.requests.append((self.requestline, "Basic"))  # type: ignore[attr-defined]
            self.answer(302, b"", Location="/login.html")
        else:
            super().do_GET()


class LocksMadeUp(BadHandler):
    """Takes the factory password and answers a wrong one with 429, for whatever reason."""

    def do_GET(self) -> None:
        said = self.headers.get("Authorization", "")
        if said and not self.admitted(said):
            self.answer(429, b"")
        else:
            super().do_GET()


class FactoryDigest(BadHandler):
    """Digest with a nonce that is good once, and the factory's password."""

    def challenge(self) -> str:
        self.server.nonce = getattr(self.server, "nonce", 0) + 1  # type: ignore[attr-defined]
        return f'Digest realm="camera", qop="auth", algorithm=SHA-256, nonce="n{self.server.nonce}"'  # type: ignore[attr-defined]

    def admitted(self, said: str) -> bool:
        return f'nonce="n{getattr(self.server, "nonce", 0)}"' in said and digest_fits(
            said, user="admin", password="admin"
        )


@pytest.mark.parametrize("handler", [AnyPassword, OpensOnce, SendsElsewhere, LocksMadeUp])
def test_what_lets_in_for_another_reason_shows_nothing(
    cameras: Callable[[type[BadHandler]], Camera], handler: type[BadHandler]
) -> None:
    camera: Any = cameras(handler)
    seen = look(target(camera.port))[LOGIN]
    assert (seen.outcome, seen.code) == (Outcome.SILENT, "login_not_told_apart"), seen


@pytest.mark.parametrize("handler", [BadHandler, FactoryDigest])
def test_a_factory_password_that_works_is_told(
    cameras: Callable[[type[BadHandler]], Camera], handler: type[BadHandler]
) -> None:
    camera: Any = cameras(handler)
    seen = look(target(camera.port))[LOGIN]
    assert (seen.outcome, seen.code) == (Outcome.CONTRADICTS, "default_login_accepted"), seen
    assert sum(1 for _, scheme in camera.requests if scheme) <= 4, "three tries and a made-up one at most"
