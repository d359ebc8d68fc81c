"""``lachan ota``: upload, propose, sign, publish, halt and look at firmware from the command line.

Approving is not offered here on purpose: it needs a person's own session (design decision 15).
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lachan import cliutil
from lachan.errors import Invalid
from ota_signing.schemas import ReleaseState

if TYPE_CHECKING:
    from lachan.runtime import Runtime

_SHORT = ("id", "vendor", "model", "version", "state", "approvals")


def main(argv: list[str]) -> int:
    """Run one sub-command; returns its exit code."""
    arguments = _parser().parse_args(argv)

    def run() -> int:
        with cliutil.opened(arguments.data) as rt:
            value = arguments.run(rt, arguments)
        cliutil.show(value, as_json=arguments.json)
        return cliutil.OK

    return cliutil.guarded(run, as_json=arguments.json)


def _parser() -> argparse.ArgumentParser:
    made = cliutil.parser("ota", "Firmware: artifacts, releases and the update repository.")
    verbs = made.add_subparsers(dest="verb", required=True, metavar="VERB")

    def add(name: str, text: str, run: Callable[["Runtime", argparse.Namespace], Any]) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text)
        cliutil.common(sub, suppress=True)
        sub.set_defaults(run=run)
        return sub

    upload = add("upload", "Upload a firmware file.", _upload)
    upload.add_argument("file", type=Path)
    upload.add_argument("--vendor", required=True)
    upload.add_argument("--sha256", help="what the file must be (hex)")
    propose = add("propose", "Propose an artifact as a model's firmware.", _propose)
    propose.add_argument("artifact")
    propose.add_argument("--model", required=True)
    propose.add_argument("--version", required=True)
    propose.add_argument("--approvals", type=int, help="persons who must approve (the settings' minimum by default)")
    propose.add_argument("--downgrade", action="store_true", help="devices with a higher version install it, too")
    propose.add_argument("--notes", default="")
    listing = add("list", "List releases.", _list)
    listing.add_argument("--state", choices=[str(state) for state in ReleaseState])
    for name, text, run in (
        ("show", "Show one release with its approvals.", _show),
        ("approve", "Tell how a release is approved (never from a shell).", _approve),
        ("publish", "Sign an approved release and hand it out.", _publish),
    ):
        add(name, text, run).add_argument("release")
    for name, text, verb in (
        ("halt", "Stop handing a release out.", "ota.hold"),
        ("resume", "Hand a halted release out again.", "ota.resume"),
    ):  # fmt: skip
        sub = add(name, text, _held)
        sub.add_argument("release")
        sub.add_argument("--reason", required=True)
        sub.set_defaults(request=verb)
    renew = add("renew", "Renew root and targets with the offline keys (once a year).", _renew)
    renew.add_argument("--offline", type=Path, required=True, metavar="DIR", help="folder with the offline keys")
    return made


def _upload(rt: "Runtime", arguments: argparse.Namespace) -> dict[str, Any]:
    from ota_signing import service

    made = service.upload(
        rt, cliutil.operator(), _blocks(arguments.file), vendor=arguments.vendor, name=arguments.file.name,
        sha256=arguments.sha256,
    )  # fmt: skip
    return made.__dict__


def _blocks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                yield block
    except OSError as error:
        raise Invalid(f"{path}: {error.strerror}", file=str(path)) from error


def _propose(rt: "Runtime", arguments: argparse.Namespace) -> dict[str, Any]:
    from ota_signing import service

    made = service.propose(
        rt, cliutil.operator(), artifact_id=arguments.artifact, model=arguments.model, version=arguments.version,
        approvals_needed=arguments.approvals, downgrade=arguments.downgrade, notes=arguments.notes,
    )  # fmt: skip
    return _flat(made)


def _list(rt: "Runtime", arguments: argparse.Namespace) -> list[dict[str, Any]]:
    from ota_signing import releases

    with rt.db.read() as connection:
        found = releases.find(connection, principal=cliutil.operator(), state=arguments.state, limit=1000)
    rows = [{**_flat(r), "approvals": f"{len(r.approvals)}/{r.approvals_needed}"} for r in found]
    return rows if arguments.json else [{key: row[key] for key in _SHORT} for row in rows]


def _show(rt: "Runtime", arguments: argparse.Namespace) -> dict[str, Any]:
    from ota_signing import releases

    with rt.db.read() as connection:
        return _flat(releases.get(connection, arguments.release, principal=cliutil.operator()))


def _approve(rt: "Runtime", arguments: argparse.Namespace) -> dict[str, Any]:
    raise Invalid(
        f"Approving needs a person's own session: sign in at {rt.settings.people_url} and approve release "
        f"{arguments.release} there, or POST /api/v1/releases/{arguments.release}/approve with that session."
    )


def _publish(rt: "Runtime", arguments: argparse.Namespace) -> dict[str, Any]:
    from ota_signing import service

    made = service.publish(rt, cliutil.operator(), arguments.release)
    rt.wake()
    return _flat(made)


def _held(rt: "Runtime", arguments: argparse.Namespace) -> dict[str, Any]:
    from lachan import verbs

    parameters = {"release_id": arguments.release, "reason": arguments.reason}
    rt.db.run(lambda connection: verbs.call(rt, connection, cliutil.operator(), arguments.request, parameters))
    rt.wake()
    return _show(rt, arguments)


def _renew(rt: "Runtime", arguments: argparse.Namespace) -> dict[str, Any]:
    from ota_signing import setup

    root, targets = setup.renew(rt.settings, arguments.offline)
    return {"root": root, "targets": targets}


def _flat(release: Any) -> dict[str, Any]:
    return {**release.__dict__, "approvals": [approval.person for approval in release.approvals]}
