"""Try factory passwords, three at most in one run, and stop at the first that works.

Only where the device itself asked for HTTP Basic (RFC 7617) or Digest (RFC 7616) authentication. Not on a device whose
declaration names a lock-out, unless the engagement says so; and no further once the device answers 429 or 423, or hangs
up. A pair works when the page is given for it (2xx), and two controls are refused (401, 403): no password at all, and one
made up on the spot. A device that gives its page to anybody, or sends everybody elsewhere, shows nothing about its
factory password. What is recorded is the *id* of the pair, never a password. Limits: no login forms, ONVIF, RTSP, telnet or SSH yet.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Iterable, Mapping

from lachan import patterns
from lachan.errors import LachanError
from posture.probes import web
from posture.probes.observation import Observation, Outcome, Where, observe
from posture.probes.probe import FrontPage, Inputs, Probe
from posture.probes.target import ProbeTarget, failure

METHOD = "default-login"
TRIES = 3
REFUSED = frozenset({401, 403})
MOST = 4096  # characters of a challenge that are read
NAME = "cred.default_http"
_PARAMETER = patterns.compile(r'([\w-]+)\s*=\s*(?:"([^"]*)"|([^\s,"]+))')
_UNPRINTABLE = patterns.compile(r"[^\x20-\x7e]")
_HASHES = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}


def look(inputs: Inputs) -> list[Observation]:
    """Try the pairs on the first page that asks for a login; over TLS rather than without."""
    target = inputs.target
    if not inputs.pages:
        return []  # nothing was looked at: the run says why
    asking = sorted((page for page in inputs.pages if _challenge(page)), key=lambda page: page.scheme != "https")
    if not asking:
        return [observe(NAME, Outcome.SILENT, "no_login_seen", "asks for no HTTP login", address=target.host)]
    page = asking[0]
    if target.lockout and not target.try_lockout:
        text = "its declaration names a lock-out, and the engagement does not allow for that"
        return [observe(NAME, Outcome.NOT_TRIED, "lockout_declared", text, port=page.port)]
    try:
        return [_attempts(target, page, _ordered(inputs.pairs, target.vendor))]
    except (LachanError, OSError) as error:
        return [failure(NAME, error, port=page.port)]


def _attempts(target: ProbeTarget, page: FrontPage, pairs: list[Mapping[str, str]]) -> Observation:
    where: Where = {"port": page.port, "address": page.answer.address}
    for tried, pair in enumerate(pairs[:TRIES], start=1):
        headers = {"Authorization": authorization(_challenge(page), user=pair["user"], password=pair["password"])}
        answer = web.get(target, web.url(target, page.scheme, page.port), headers, method=METHOD)
        if answer.status in (423, 429):
            text = f"answered {answer.status} to try {tried}; stopped"
            return observe(NAME, Outcome.SILENT, "lockout_met", text, **where)
        if 200 <= answer.status < 300:
            if (other := _other_cause(target, page, pair["user"])) is not None:
                return observe(NAME, Outcome.SILENT, "login_not_told_apart", other, **where)
            text = (
                f"let factory pair {pair['id']} in (try {tried} of {TRIES}), and neither nobody nor a made-up password"
            )
            return observe(NAME, Outcome.CONTRADICTS, "default_login_accepted", text, **where)
        if answer.status < 400:
            text = f"answered {answer.status} to try {tried}, which neither lets in nor refuses; stopped"
            return observe(NAME, Outcome.SILENT, "login_not_told_apart", text, **where)
        page = FrontPage(page.scheme, page.port, answer) if answer.status == 401 else page  # a new nonce
    text = f"refused {min(TRIES, len(pairs))} factory pairs; there are many more"
    return observe(NAME, Outcome.SILENT, "default_login_refused", text, **where)


def _other_cause(target: ProbeTarget, page: FrontPage, user: str) -> str | None:
    """Tell what else than the password may have let somebody in; None when both controls are refused."""
    url = web.url(target, page.scheme, page.port)
    bare = web.get(target, url, {}, method=METHOD)
    asking = FrontPage(page.scheme, page.port, bare)  # a new nonce, which no answer has used up
    if bare.status not in REFUSED or not (challenge := _challenge(asking)):
        return f"answers {bare.status} without a password, too"
    headers = {"Authorization": authorization(challenge, user=user, password=secrets.token_hex(8))}
    made_up = web.get(target, url, headers, method=METHOD)
    return None if made_up.status in REFUSED else f"answers {made_up.status} to a made-up password, too"


def _ordered(pairs: Iterable[Mapping[str, str]], vendor: str) -> list[Mapping[str, str]]:
    """Those of the device's vendor first, then the general ones; never another vendor's."""
    own = [pair for pair in pairs if pair.get("vendor", "").lower() == vendor.lower() != ""]
    return own + [pair for pair in pairs if "vendor" not in pair]


def _challenge(page: FrontPage) -> str:
    """Give the challenge to answer: Digest before Basic, stronger hashes first; empty when neither is offered."""
    digests = [c for c in page.challenges if c.lower().startswith("digest ")]
    known = [c for c in digests if _parameters(c).get("algorithm", "MD5").upper().removesuffix("-SESS") in _HASHES]
    known.sort(key=lambda c: _parameters(c).get("algorithm", "MD5").upper().startswith("MD5"))
    basic = [c for c in page.challenges if c.lower().startswith("basic")]
    return (known + basic)[0] if known or basic else ""


def authorization(challenge: str, *, user: str, password: str) -> str:
    """Give the ``Authorization`` value that answers a Basic or Digest challenge for ``GET /``."""
    if challenge.lower().startswith("basic"):
        return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    given = _parameters(challenge)
    algorithm = given.get("algorithm", "MD5")
    digest = _HASHES[algorithm.upper().removesuffix("-SESS")]

    def hexed(text: str) -> str:
        return hashlib.new(digest, text.encode(), usedforsecurity=False).hexdigest()

    realm, nonce, cnonce = given.get("realm", ""), given.get("nonce", ""), secrets.token_hex(8)
    first = hexed(f"{user}:{realm}:{password}")
    if algorithm.upper().endswith("-SESS"):
        first = hexed(f"{first}:{nonce}:{cnonce}")
    second = hexed("GET:/")
    fields = f'username="{user}", realm="{realm}", nonce="{nonce}", uri="/", algorithm={algorithm}'
    if "opaque" in given:
        fields += f', opaque="{given["opaque"]}"'
    if "auth" in [part.strip() for part in given.get("qop", "").split(",")]:
        response = hexed(f"{first}:{nonce}:00000001:{cnonce}:auth:{second}")
        return f'Digest {fields}, qop=auth, nc=00000001, cnonce="{cnonce}", response="{response}"'
    return f'Digest {fields}, response="{hexed(f"{first}:{nonce}:{second}")}"'


def _parameters(challenge: str) -> dict[str, str]:
    """Give the parameters of one challenge, names in lower case (RFC 9110 11.2); control characters are dropped."""
    found = _PARAMETER.finditer(challenge[:MOST])
    return {(one[1] or "").lower(): _UNPRINTABLE.sub("", one[2] or one[3] or "") for one in found}


PROBE = Probe(METHOD, (NAME,), look)
