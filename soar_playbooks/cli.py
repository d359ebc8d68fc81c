"""``lachan playbooks``, ``runs``, ``contain`` and ``release``.

``playbooks keygen`` and ``sign`` work on an operator's own machine, without any installation: the server never sees the
private key. The others run on the server as whoever owns the data folder, which is an administrator. Limits: nobody
approves or releases from a shell; those commands show what waits and who agreed, and name the door where persons decide.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lachan import cliutil, clock, devices
from lachan.enforcement import Level
from lachan.errors import Invalid
from lachan.files import write_new
from lachan.runtime import Runtime
from soar_playbooks import playbooks as library
from soar_playbooks import receivers, schemas, service
from soar_playbooks.cacao import jss, reader
from soar_playbooks.containment import approvals
from soar_playbooks.errors import PlaybookInvalid
from soar_playbooks.settings import SoarSettings

Run = Callable[[Runtime, argparse.Namespace], None]


def playbooks(argv: list[str]) -> int:
    """Do ``lachan playbooks …`` and give the exit code."""
    made = cliutil.parser("playbooks", "sign, load, list playbooks; propose or enforce")
    command = _commands(made)
    keygen = command("keygen", "make a signer's key pair (on the operator's own machine)", None)
    keygen.add_argument("folder", type=Path, help="where operator.key (encrypted if LACHAN_KEY_PASSPHRASE) goes")
    keygen.set_defaults(offline=_keygen)
    sign = command("sign", "sign a playbook with the operator's key file", None)
    sign.add_argument("file", type=Path)
    sign.add_argument("--key", type=Path, required=True, help="PEM file of the ECC P-256 private key")
    sign.add_argument("--out", type=Path, help="where the signed file goes (default: FILE with .signed.json)")
    sign.add_argument("--signee", default="", help="who signs (default: your system name)")
    sign.add_argument("--days", type=int, help="after which nothing starts by it any more (default: no end)")
    sign.set_defaults(offline=_sign)
    load = command("load", "load signed playbooks", _load)
    load.add_argument("file", type=Path, nargs="+")
    command("list", "loaded playbooks", _list)
    mode = command("mode", "what a playbook may do by itself", _mode)
    mode.add_argument("playbook", help="id or exact name")
    mode.add_argument("mode", choices=[str(name) for name in library.Mode])
    trust = command("trust", "put a signer on the trust list, or show the list", _trust)
    trust.add_argument("pem", type=Path, nargs="?", help="PEM file of the public key")
    trust.add_argument("--name", default="", help="whose key it is")
    distrust = command("distrust", "take a signer off the trust list for good", _distrust)
    distrust.add_argument("thumbprint")
    webhook = command("webhook", "what is known of the webhook's receiver", _webhook)
    webhook.add_argument(
        "--resume", action="store_true", help="send to it again, and first what it missed while it was gone"
    )
    words = made.parse_args(argv)
    if getattr(words, "offline", None) is not None:
        words.offline(words)
        return cliutil.OK
    return _run(words)


def runs(argv: list[str]) -> int:
    """Do ``lachan runs …`` and give the exit code."""
    made = cliutil.parser("runs", "playbook runs, step by step")
    command = _commands(made)
    listing = command("list", "runs, newest first", _runs)
    listing.add_argument("--state", default="", choices=["", "ready", "running", "waiting", "ended"])
    show = command("show", "one run with its journal", _run_show)
    show.add_argument("run_id", metavar="RUN")
    return _run(made.parse_args(argv))


def contain(argv: list[str]) -> int:
    """Do ``lachan contain …`` and give the exit code."""
    made = cliutil.parser("contain", "contain a device; the kill switch")
    command = _commands(made)
    propose = command("propose", "propose to contain a device; another person must approve", _propose)
    propose.add_argument("device", help="name of the device")
    propose.add_argument("--level", choices=[str(level) for level in Level], default=str(Level.QUARANTINE))
    propose.add_argument("--reason", required=True)
    listing = command("list", "containments, newest first", _containments)
    listing.add_argument("--state", default="open", choices=["open", "waiting", "active", "ended", "rejected"])
    show = command("show", "one containment with decisions and evidence", _containment_show)
    show.add_argument("containment")
    plan = command("plan", "what a level would change at each enforcement point", _plan)
    plan.add_argument("device")
    plan.add_argument("--level", choices=[str(level) for level in Level], default=str(Level.QUARANTINE))
    switch = command("kill-switch", "stop all automatic containment, or allow it again", _kill_switch)
    switch.add_argument("state", choices=["on", "off", "show"])
    switch.add_argument("--reason", default="")
    return _run(made.parse_args(argv))


def release(argv: list[str]) -> int:
    """Do ``lachan release``: show what is contained and who agreed to its release; give the exit code."""
    made = cliutil.parser("release", "what waits for release, and who agreed (persons release at the console)")
    made.add_argument("containment", nargs="?", help="only this one")
    made.set_defaults(run=_releases)
    return _run(made.parse_args(argv))


def _commands(made: argparse.ArgumentParser) -> Callable[[str, str, Run | None], argparse.ArgumentParser]:
    group = made.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, about: str, run: Run | None) -> argparse.ArgumentParser:
        found = group.add_parser(name, help=about, description=about)
        cliutil.common(found, suppress=True)
        found.set_defaults(run=run)
        return found

    return command


def _run(words: argparse.Namespace) -> int:
    with cliutil.opened(words.data) as rt:
        words.run(rt, words)
    return cliutil.OK


# on the operator's machine


def _keygen(words: argparse.Namespace) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    words.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    private, public = words.folder / "operator.key", words.folder / "operator.pem"
    write_key(private, key)
    public.write_text(jss.public_pem(key.public_key()))
    made = {"private": str(private), "public": str(public), "thumbprint": jss.thumbprint(key.public_key())}
    cliutil.show(made, as_json=words.json)


def write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """Write a private key, mode 0600, encrypted if ``LACHAN_KEY_PASSPHRASE`` is set; never over an existing file.

    Raises:
        Invalid: the file exists.
    """
    passphrase = os.environ.get("LACHAN_KEY_PASSPHRASE", "")
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        encryption = serialization.BestAvailableEncryption(passphrase.encode())
    form = serialization.PrivateFormat.PKCS8
    try:
        write_new(path, key.private_bytes(serialization.Encoding.PEM, form, encryption))
    except FileExistsError as error:
        raise Invalid(f"{path} exists; a key is never overwritten.", file=str(path)) from error


def _sign(words: argparse.Namespace) -> None:
    text = _text(words.file)
    reader.read(text, file=str(words.file))
    end = None if words.days is None else clock.now() + timedelta(days=words.days)
    signee = words.signee or getpass.getuser()
    signed = jss.sign(json.loads(text), read_key(words.key), signee=signee, valid_until=end)
    out = words.out or words.file.with_name(words.file.name.removesuffix(".json") + ".signed.json")
    out.write_text(json.dumps(signed, ensure_ascii=False, indent=2) + "\n")
    cliutil.show({"signed": str(out), "signer": signed["signatures"][0]["thumbprint"]}, as_json=words.json)


def read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read the operator's private key; an encrypted one is opened with ``LACHAN_KEY_PASSPHRASE``.

    Raises:
        Invalid: the file is no such key, or the passphrase does not open it.
    """
    passphrase = os.environ.get("LACHAN_KEY_PASSPHRASE", "").encode() or None
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), passphrase)
    except (OSError, ValueError, TypeError) as error:
        raise Invalid(f"{path}: {error}", file=str(path)) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Invalid(f"{path}: a signer's key is ECC P-256.", file=str(path))
    return key


# on the server


def _load(rt: Runtime, words: argparse.Namespace) -> None:
    loaded = []
    for path in words.file:
        load = partial(library.load, principal=cliutil.operator(), text=_text(path), file=path.name)
        loaded.append(rt.db.run(load))
    rt.wake()
    cliutil.show([_shown(row) for row in loaded], as_json=words.json)


def _list(rt: Runtime, words: argparse.Namespace) -> None:
    with rt.db.read() as connection:
        cliutil.show([_shown(row) for row in library.listing(connection)], as_json=words.json)


def _mode(rt: Runtime, words: argparse.Namespace) -> None:
    mode, operator = library.Mode(words.mode), cliutil.operator()
    row = rt.db.run(lambda c: library.set_mode(c, operator, playbook_id=words.playbook, mode=mode))
    cliutil.show(_shown(row), as_json=words.json)


def _webhook(rt: Runtime, words: argparse.Namespace) -> None:
    url = SoarSettings.of(rt.settings).webhook_url
    if not url:
        raise Invalid("no webhook is configured; set webhook_url")
    if words.resume:
        missed = rt.db.run(lambda c: receivers.resume(c, url))
        rt.wake()
        cliutil.show({"url": url, "sent_again": len(missed)}, as_json=words.json)
        return
    with rt.db.read() as connection:
        known = receivers.state(connection, url)
    cliutil.show(
        {name: str(value or "") if name != "failures" else value for name, value in known.items()}, as_json=words.json
    )


def _trust(rt: Runtime, words: argparse.Namespace) -> None:
    if words.pem is not None:
        pem, name, operator = _text(words.pem), words.name or words.pem.name, cliutil.operator()
        rt.db.run(lambda c: library.trust_signer(c, operator, pem=pem, name=name))
    with rt.db.read() as connection:
        rows = library.signers(connection)
    columns = ("thumbprint", "name", "added_by", "added_at", "revoked_at")
    cliutil.show([{name: row[name] for name in columns} for row in rows], as_json=words.json)


def _distrust(rt: Runtime, words: argparse.Namespace) -> None:
    operator = cliutil.operator()
    rt.db.run(lambda c: library.revoke_signer(c, operator, thumbprint=words.thumbprint))
    cliutil.show({"revoked": words.thumbprint}, as_json=words.json)


def _runs(rt: Runtime, words: argparse.Namespace) -> None:
    columns = ("id", "playbook_name", "device_name", "mode", "state", "guard", "outcome", "created_at")
    with rt.db.read() as connection:
        rows = schemas.list_runs(connection, cliutil.operator(), limit=200, state=words.state)
    cliutil.show([{name: row[name] for name in columns} for row in rows], as_json=words.json)


def _run_show(rt: Runtime, words: argparse.Namespace) -> None:
    with rt.db.read() as connection:
        cliutil.show(schemas.show_run(connection, cliutil.operator(), words.run_id), as_json=words.json)


def _propose(rt: Runtime, words: argparse.Namespace) -> None:
    operator = cliutil.operator()
    with rt.db.read() as connection:
        device = devices.by_name(connection, words.device)
    containment_id = service.propose_containment(
        rt, operator, device_id=device.id, level=Level(words.level), reason=words.reason
    )
    with rt.db.read() as connection:
        shown = schemas.show_containment(rt, connection, operator, containment_id)
    cliutil.show(shown, as_json=words.json)


def _containments(rt: Runtime, words: argparse.Namespace) -> None:
    columns = ("id", "device_name", "state", "level", "wanted", "guard", "needed", "requested_by", "created_at")
    with rt.db.read() as connection:
        rows = schemas.list_containments(connection, cliutil.operator(), limit=200, state=words.state)
    cliutil.show([{name: row[name] for name in columns} for row in rows], as_json=words.json)


def _containment_show(rt: Runtime, words: argparse.Namespace) -> None:
    with rt.db.read() as connection:
        shown = schemas.show_containment(rt, connection, cliutil.operator(), words.containment)
    cliutil.show(shown, as_json=words.json)


def _plan(rt: Runtime, words: argparse.Namespace) -> None:
    with rt.db.read() as connection:
        device = devices.by_name(connection, words.device)
        found = schemas.plan(rt, connection, cliutil.operator(), device.id, Level(words.level))
    rows = [{"point": name, "change": change} for name, changes in found.items() for change in changes]
    cliutil.show(rows, as_json=words.json)


def _kill_switch(rt: Runtime, words: argparse.Namespace) -> None:
    if words.state != "show":
        service.set_kill_switch(rt, cliutil.operator(), active=words.state == "on", reason=words.reason)
    with rt.db.read() as connection:
        shown = approvals.kill_switch_state(connection)
    cliutil.show(asdict(shown), as_json=words.json)


def _releases(rt: Runtime, words: argparse.Namespace) -> None:
    operator = cliutil.operator()
    found: list[dict[str, Any]] = []
    with rt.db.read() as connection:
        rows = schemas.list_containments(connection, operator, limit=200, state="active")
        for row in rows:
            if words.containment in {None, row["id"]}:
                shown = schemas.show_containment(rt, connection, operator, row["id"])
                agreed = [d["person"] for d in shown["decisions"] if d["kind"] == "release"]
                found.append(
                    {
                        "containment": row["id"],
                        "device": row["device_name"],
                        "level": row["level"],
                        "agreed": ", ".join(agreed),
                        "needed": shown["releases_needed"],
                        "at": f"{rt.settings.people_url}/containments/{row['id']}",
                    }
                )
    cliutil.show(found, as_json=words.json)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlaybookInvalid(f"{path}: {error}", file=str(path), step="", line=1) from error


def _shown(row: library.Loaded) -> dict[str, Any]:
    return {"id": row.id, "name": row.name, "version": row.version, "mode": str(row.mode), "digest": row.digest}
