"""``lachan door anchor add|list|remove``: the manufacturers' authorities that the device door believes.

For fleets that carry certificates of their manufacturer's own authority. A manufacturer's certificates that break a strict rule of
RFC 5280 and cannot be changed any more need an exception at their anchor, by the rule's name; ``lachan doctor`` shows it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cryptography import x509

from api.device import anchors
from api.device.paths import WORDS
from lachan import cliutil, clock
from lachan.errors import Invalid


def main(argv: list[str]) -> int:
    """Run one ``door`` command; returns its exit code."""
    parser = cliutil.parser("door", "Manufacturers' authorities that the device door believes.")
    verbs = parser.add_subparsers(metavar="COMMAND", required=True)
    anchor = verbs.add_parser("anchor", help="add, list, remove").add_subparsers(dest="verb", required=True)
    add = anchor.add_parser("add", help="believe an authority for a manufacturer's devices")
    add.add_argument("file", type=Path, help="the authority's certificate, PEM or DER")
    add.add_argument("--vendor", required=True, help="the manufacturer, as the registry writes it")
    add.add_argument(
        "--except", dest="exceptions", action="append", default=[], choices=sorted(WORDS), metavar="RULE",
        help=f"a strict rule that its certificates may break (repeatable): {', '.join(sorted(WORDS))}",
    )  # fmt: skip
    listed = anchor.add_parser("list", help="who is believed")
    remove = anchor.add_parser("remove", help="believe it no longer")
    remove.add_argument("fingerprint", help="SHA-256, hex, as list gives it")
    for sub in (add, listed, remove):
        cliutil.common(sub, suppress=True)
    args = parser.parse_args(argv)
    with cliutil.opened(args.data) as rt:
        _run(rt, args)
    return cliutil.OK


def _run(rt: Any, args: argparse.Namespace) -> None:
    if args.verb == "list":
        with rt.db.read() as connection:
            found = anchors.every(connection)
        rows = [
            {
                "fingerprint": one.fingerprint, "vendor": one.anchor.vendor, "added_at": clock.iso(one.added_at),
                "not_after": clock.iso(one.anchor.certificate.not_valid_after_utc),
                "exceptions": " ".join(sorted(rule.word for rule in one.anchor.exceptions)),
            }
            for one in found
        ]  # fmt: skip
        cliutil.show(rows, as_json=args.json)
        return
    with rt.db.write() as connection:
        if args.verb == "remove":
            anchors.remove(connection, cliutil.operator(), fingerprint=args.fingerprint.lower())
            cliutil.show({"removed": args.fingerprint.lower()}, as_json=args.json)
            return
        exceptions = frozenset(WORDS[word] for word in args.exceptions)
        made = anchors.add(
            connection, cliutil.operator(), certificate=_read(args.file), vendor=args.vendor, exceptions=exceptions
        )
    cliutil.show({"fingerprint": made, "vendor": args.vendor}, as_json=args.json)


def _read(file: Path) -> x509.Certificate:
    """Read a certificate.

    Raises:
        Invalid: the file is not there, or holds no certificate.
    """
    try:
        octets = file.read_bytes()
        load = x509.load_pem_x509_certificate if b"-----BEGIN" in octets else x509.load_der_x509_certificate
        found = load(octets)
        _ = found.extensions, found.subject, found.issuer  # read when asked for: what cannot be read is no authority
        return found
    except OSError as error:
        raise Invalid(f"{file} cannot be read: {error.strerror}.", field="file") from None
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, x509.InvalidVersion):
        raise Invalid(f"{file} holds no certificate, neither PEM nor DER.", field="file") from None
