"""``lachan pki``: status, one-time secrets, suspend, release, revoke, CRL, lint.

Runs on the server, as whoever owns the data folder; the signer must run for ``crl`` and for what changes certificates to
reach the CRL at once. ``lachan pki init`` is ``lachan init``: the one ceremony that makes the root (its key goes into the
offline folder and leaves the machine), the issuing authority, and the installation that they belong to.
"""

from __future__ import annotations

import argparse
import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lachan import cliutil, clock, devices, verbs
from lachan.program import init
from lachan.runtime import Runtime
from pki import crl, issuing, service, setup
from pki.errors import NoCertificate
from pki.states import Reason


def main(argv: list[str]) -> int:
    """Run one ``pki`` command; returns its exit code."""
    if argv[:1] == ["init"]:
        return init.main(argv[1:], command="pki init")
    words = _parser().parse_args(argv)
    with cliutil.opened(words.data) as rt:
        run: Callable[[Runtime, argparse.Namespace], None] = words.run
        run(rt, words)
    return cliutil.OK


def _parser() -> argparse.ArgumentParser:
    made = cliutil.parser("pki", "authorities, one-time secrets, certificates")
    verbs_ = made.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, about: str, run: Callable[[Runtime, argparse.Namespace], None]) -> argparse.ArgumentParser:
        found = verbs_.add_parser(name, help=about, description=about)
        cliutil.common(found, suppress=True)
        found.set_defaults(run=run)
        return found

    verbs_.add_parser("init", help="make root and issuing authority, and the installation they belong to")
    status = command("status", "the authorities, or a device's certificates", _status)
    status.add_argument("--device", metavar="NAME", help="whose certificates")
    secret = verbs_.add_parser("secret", help="one-time enrolment secrets").add_subparsers(required=True)
    issue = secret.add_parser("issue", help="make one; it is shown once", description="make a one-time secret")
    cliutil.common(issue, suppress=True)
    issue.add_argument("device", metavar="DEVICE")
    issue.add_argument("--profile", default="camera", help="certificate profile (default: camera)")
    issue.set_defaults(run=_secret)
    for name, about in (("suspend", "put certificates on hold"), ("release", "lift a hold that was asked for here")):
        verb = command(name, about, _verb)
        verb.add_argument("--reason", default="", help="one sentence for people")
        _target(verb, name)
    revoke = command("revoke", "revoke certificates for good", _verb)
    revoke.add_argument("--reason", default="unspecified", choices=[str(reason) for reason in Reason])
    _target(revoke, "revoke")
    command("crl", "publish the next revocation list now", _crl)
    root = command(
        "root-crl", "renew the root's revocation list; needs the offline folder with the root's key", _root_crl
    )
    root.add_argument(
        "folder", type=Path, help="the offline folder that lachan init made; take it away again afterwards"
    )
    command("lint", "hold all profiles against the linter, for the signer to accept them", _lint)
    return made


def _target(verb: argparse.ArgumentParser, name: str) -> None:
    verb.add_argument("device", metavar="DEVICE")
    verb.add_argument("--serial", metavar="HEX", help="only this certificate; by default all of the device's")
    verb.set_defaults(verb=f"pki.{name}")


def _status(rt: Runtime, words: argparse.Namespace) -> None:
    if words.device:
        with rt.db.read() as connection:
            device = devices.by_name(connection, words.device)
        rows = service.certificates_of(rt, cliutil.operator(), device.id)
        shown = [{name: getattr(row, name) for name in _COLUMNS} for row in rows]
        cliutil.show(shown, as_json=words.json)
        return
    found = service.hierarchy(rt.db)
    services = [
        service.service_certificate(rt.db, authority.service(profile.name))
        for authority, profile in issuing.services(found.authorities)
    ]
    rows_: list[dict[str, Any]] = [
        {
            "subject": certificate.subject.rfc4514_string(),
            "serial_number": f"{certificate.serial_number:x}",
            "not_after": clock.iso(certificate.not_valid_after_utc),
        }
        for certificate in (found.root, *found.chain[:-1], *services)
    ]
    try:
        crl = service.latest(rt, "issuing")
        current: dict[str, Any] | None = {"number": crl.number, "next_update": clock.iso(crl.next_update)}
    except NoCertificate:
        current = None
    if words.json:
        cliutil.show({"certificates": rows_, "crl": current}, as_json=True)
    else:
        cliutil.table(rows_)
        print(f"CRL: {current['number']}, next update {current['next_update']}" if current else "CRL: none yet")


def _root_crl(rt: Runtime, words: argparse.Namespace) -> None:
    root = setup.bring_root(words.folder, service.hierarchy(rt.db).root)
    number = rt.db.run(lambda connection: setup.renew_root_crl(connection, root, actor=cliutil.operator()))
    found = service.latest(rt, "root")
    cliutil.show({"number": number, "next_update": clock.iso(found.next_update)}, as_json=words.json)


_COLUMNS = ("serial_number", "profile", "state", "reason", "not_after")


def _secret(rt: Runtime, words: argparse.Namespace) -> None:
    with rt.db.write() as connection:
        device = devices.by_name(connection, words.device)
        made = service.issue_secret(rt, connection, cliutil.operator(), device.id, words.profile)
    shown = {
        "device": made.device,
        "secret": made.secret,
        "profile": made.profile,
        "expires_at": clock.iso(made.expires_at),
        "url": f"{rt.settings.device_url}/.well-known/est/simpleenroll",
    }
    cliutil.show(shown, as_json=words.json)


def _verb(rt: Runtime, words: argparse.Namespace) -> None:
    with rt.db.write() as connection:
        device = devices.by_name(connection, words.device)
        parameters = {"device_id": device.id, "serial_number": words.serial, "reason": words.reason}
        done = verbs.call(rt, connection, cliutil.operator(), words.verb, parameters)
    cliutil.show(done, as_json=words.json, text="\n".join(done["certificates"]) or "nothing to change")


def _crl(rt: Runtime, words: argparse.Namespace) -> None:
    made = service.publish(rt)
    shown = {
        "number": made.number,
        "this_update": clock.iso(made.this_update),
        "next_update": clock.iso(made.next_update),
        "crl": base64.b64encode(crl.content(rt, made)).decode(),
    }
    cliutil.show(shown, as_json=words.json, text=f"CRL {made.number}, next update {shown['next_update']}")


def _lint(rt: Runtime, words: argparse.Namespace) -> None:
    from pki import authorities, lint, profiles

    lint.approve(authorities.folder(rt.settings), profiles.load())
    shown = [{"profile": name, "title": profile.title} for name, profile in profiles.load().items()]
    cliutil.show(shown, as_json=words.json)
