"""What a device shows over HTTP to somebody who did not sign in.

Steps on one port: the front page; an address that cannot exist, as a control; then the addresses of
``criteria/paths.yaml``. A device that answers the control with 200 answers everything so, and is accused of nothing.
Redirects are evidence, never followed. Nothing is changed on the device: only GET is sent.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping

from lachan import patterns
from lachan.errors import LachanError
from lachan.net.answer import HttpAnswer
from lachan.net.fetch import http_get
from lachan.net.sockets import ConnectFailed
from posture.probes import tls
from posture.probes.observation import Observation, Outcome, Where, observe
from posture.probes.probe import FrontPage, Inputs, Probe
from posture.probes.target import ProbeTarget, failure

METHOD = "http"
NAMES = (
    "http.banner", "http.auth_scheme", "http.basic_over_cleartext", "net.plaintext_services", "http.backup_file",
    "http.unauth_config_read",
)  # fmt: skip
_LISTING = patterns.compile(rb"(?i)<title>\s*(?:index of|directory listing for) /")
_VERSION = patterns.compile(r"/\d|\d\.\d")


def url(target: ProbeTarget, scheme: str, port: int, path: str = "/") -> str:
    """Give the URL of a path on the target."""
    host = f"[{target.host}]" if ":" in target.host else target.host
    return f"{scheme}://{host}:{port}{path}"


def get(
    target: ProbeTarget, page: str, headers: Mapping[str, str] | None = None, *, method: str = METHOD
) -> HttpAnswer:
    """GET one URL of the target, unverified where it is TLS."""
    context = tls.unverified() if page.startswith("https:") else None
    answer = http_get(target.scope, page, timeout=target.left(), method=method, headers=headers, context=context)
    target.take(len(answer.body) + sum(len(name) + len(value) for name, value in answer.headers))
    return answer


def look(inputs: Inputs) -> list[Observation]:
    """Fetch the front page of each quiet port, for the probes that come after, and look on from it."""
    found: list[Observation] = []
    for number in inputs.quiet:
        try:
            scheme = "https" if number in inputs.encrypted else "http"
            inputs.pages.append(front(inputs.target, number, scheme=scheme))
        except (LachanError, OSError) as error:
            if not isinstance(error, ConnectFailed) or error.reason not in ("protocol", "timeout", "unreachable"):
                found.append(failure("http.banner", error, port=number))
    for page in inputs.pages:
        found += probe(inputs.target, page, inputs.paths)
    return found


def front(target: ProbeTarget, port: int, *, scheme: str) -> FrontPage:
    """Fetch the front page.

    Raises:
        SocketRefused: outside the engagement.
        ConnectFailed: no HTTP there.
        TimeoutError: the time box is used up.
    """
    return FrontPage(scheme, port, get(target, url(target, scheme, port)))


def probe(target: ProbeTarget, page: FrontPage, paths: Iterable[Mapping[str, str]]) -> list[Observation]:
    """Look at one HTTP port, from its front page on."""
    found = [_banner(target, page), *_authentication(target, page), *_plain(target, page)]
    try:
        found += _addresses(target, page, paths)
    except (LachanError, OSError) as error:
        found += [failure(name, error, port=page.port) for name in ("http.backup_file", "http.unauth_config_read")]
    return found


def _banner(target: ProbeTarget, page: FrontPage) -> Observation:
    said = "; ".join(filter(None, (page.answer.header("server"), page.answer.header("x-powered-by"))))
    where: Where = {"port": page.port, "address": page.answer.address, "raw": _head(page.answer)}
    if _VERSION.search(said):
        return observe(
            "http.banner", Outcome.CONTRADICTS, "version_disclosed", f"tells its version: {said[:100]}", **where
        )
    return observe("http.banner", Outcome.SILENT, "nothing_found", "names no version", **where)


def _authentication(target: ProbeTarget, page: FrontPage) -> list[Observation]:
    where: Where = {"port": page.port, "address": page.answer.address, "raw": _head(page.answer)}
    names = ("http.auth_scheme", "http.basic_over_cleartext")
    if not page.challenges:
        return [observe(name, Outcome.SILENT, "no_login_seen", "asks for no HTTP login", **where) for name in names]
    schemes = sorted({challenge.split()[0].lower() for challenge in page.challenges})
    clear = page.scheme == "http"
    if "basic" in schemes and clear:
        code, detail = "basic_over_cleartext", "takes passwords by Basic authentication without TLS"
        return [observe(name, Outcome.CONTRADICTS, code, detail, **where) for name in names]
    if "digest" in schemes and clear and not any("sha-256" in c.lower() for c in page.challenges):
        first = observe(
            names[0], Outcome.CONTRADICTS, "digest_md5", "offers Digest with MD5 only, without TLS", **where
        )
    else:
        first = observe(names[0], Outcome.CONFIRMS, "login_scheme_sound", f"asks by {', '.join(schemes)}", **where)
    return [first, observe(names[1], Outcome.SILENT, "nothing_found", "no Basic login without TLS here", **where)]


def _plain(target: ProbeTarget, page: FrontPage) -> list[Observation]:
    if page.scheme != "http":
        return []
    where: Where = {"port": page.port, "address": page.answer.address, "raw": _head(page.answer)}
    status, location = page.answer.status, page.answer.header("location")
    if 300 <= status < 400 and location.lower().startswith("https://"):
        text = "sends every visitor on to HTTPS (not followed)"
        return [observe("net.plaintext_services", Outcome.SILENT, "redirects_to_tls", text, **where)]
    text = f"answers {status} over HTTP without TLS"
    if status in (200, 401):
        return [observe("net.plaintext_services", Outcome.CONTRADICTS, "plain_http_admin", text, **where)]
    return [observe("net.plaintext_services", Outcome.SILENT, "nothing_found", text, **where)]


def _addresses(target: ProbeTarget, page: FrontPage, paths: Iterable[Mapping[str, str]]) -> list[Observation]:
    control = get(target, url(target, page.scheme, page.port, f"/{secrets.token_hex(8)}"))
    where: Where = {"port": page.port, "address": page.answer.address}
    names = {"backup": "http.backup_file", "listing": "http.backup_file", "config": "http.unauth_config_read"}
    if control.status == 200:
        text = "answers every address with 200, so no single answer proves anything"
        return [observe(name, Outcome.SILENT, "catch_all", text, **where) for name in sorted(set(names.values()))]
    hits: dict[str, Observation] = {}
    fetched = ((dict(entry), get(target, url(target, page.scheme, page.port, entry["path"]))) for entry in paths)
    pages = [({"path": "/", "kind": "listing"}, page.answer), *fetched]
    for entry, answer in pages:
        name = names[entry["kind"]]
        if name not in hits and _given(entry, answer):
            code = {"backup": "backup_file", "listing": "directory_listing", "config": "configuration_open"}[
                entry["kind"]
            ]
            text = f"hands out {entry['path']} without a login"
            hits[name] = observe(
                name, Outcome.CONTRADICTS, code, text, port=page.port, address=answer.address,
                raw=_head(answer) + _text(answer),
            )  # fmt: skip
    text = f"none of {len(pages)} addresses is open"
    return [
        hits.get(name) or observe(name, Outcome.SILENT, "nothing_found", text, **where)
        for name in sorted(set(names.values()))
    ]


def _given(entry: Mapping[str, str], answer: HttpAnswer) -> bool:
    if answer.status != 200 or not answer.body:
        return False
    if entry["kind"] == "listing":
        return bool(_LISTING.search(answer.body))
    return entry.get("marker", "").encode() in answer.body


def _head(answer: HttpAnswer) -> str:
    return f"HTTP {answer.status}\n" + "".join(f"{name}: {value}\n" for name, value in answer.headers)


def _text(answer: HttpAnswer) -> str:
    return "\n" + answer.body[:2048].decode("utf-8", "replace")


PROBE = Probe(METHOD, NAMES, look)
