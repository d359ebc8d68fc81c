"""A device's firmware updater in one file: poll, fetch with TUF, check the CMS signature, install, report.

Run it as the device would, again and again; it ends after one round:

    python3 examples/firmware_client.py --server https://lachan.example:8444 --ca server-ca.pem \
        --cert device.pem --key device.key --tuf-root tuf-root.json --firmware-root root.pem \
        --state /var/lib/update --install /boot/firmware.bin

What protects the device: ``tuf-root.json`` and ``root.pem`` are put into it at manufacture. The Update Framework (the
python-tuf client) refuses other firmware, rolled-back, mixed and expired metadata whatever the server says; the
detached CMS signature is checked besides with the ``openssl`` program, as a boot loader would. Only then is the file
put into place, in one step, and reported. The exit code is 0 when the device is up to date, 1 when an update was
refused.
"""

import argparse
import json
import os
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from tuf.api.exceptions import DownloadHTTPError, RepositoryError
from tuf.ngclient import FetcherInterface, Updater


class Refused(Exception):
    """An update that this device will not install."""


class Fetcher(FetcherInterface):
    """Downloads for the TUF client, over the device's own mutual TLS."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def _fetch(self, url: str) -> Iterator[bytes]:
        with self._http.stream("GET", url) as answer:
            if answer.status_code != 200:
                raise DownloadHTTPError(f"{url}: {answer.status_code}", answer.status_code)
            yield from answer.iter_bytes(1 << 16)


def main() -> int:
    """One round: is there an update, may it be trusted, install it, tell the server."""
    arguments = parse()
    tls = ssl.create_default_context(cafile=arguments.ca)
    tls.load_cert_chain(arguments.cert, arguments.key)
    with httpx.Client(base_url=arguments.server, verify=tls, timeout=30) as http:
        answer = http.get("/device/v1/firmware")
        answer.raise_for_status()
        update = answer.json()["update"]
        if update is None:
            print(json.dumps({"outcome": "up_to_date"}))
            return 0
        try:
            firmware = fetch(http, update, arguments)
            check_signature(http, update, firmware, arguments.firmware_root)
            install(firmware, arguments.install)
        except (Refused, RepositoryError) as error:
            return report(http, update, "failed", arguments.running, f"{type(error).__name__}: {error}")
        return report(http, update, "installed", update["version"], "")


def fetch(http: httpx.Client, update: dict[str, Any], arguments: argparse.Namespace) -> Path:
    """The firmware, if the Update Framework vouches for it and it is what the poll spoke of."""
    server = arguments.server.rstrip("/")
    metadata, targets = arguments.state / "metadata", arguments.state / "targets"
    for folder in (metadata, targets):
        folder.mkdir(parents=True, exist_ok=True)
    updater = Updater(
        str(metadata), server + update["metadata"], str(targets), server + update["targets"], Fetcher(http),
        bootstrap=arguments.tuf_root.read_bytes(),
    )  # fmt: skip
    updater.refresh()
    target = updater.get_targetinfo(update["target"])
    if target is None:
        raise Refused(f"{update['target']} is not in the repository")
    custom = target.unrecognized_fields["custom"]
    if custom["release_id"] != update["release_id"] or custom["version"] != update["version"]:
        raise Refused("the poll and the repository speak of different releases")
    return Path(updater.find_cached_target(target) or updater.download_target(target))


def check_signature(http: httpx.Client, update: dict[str, Any], firmware: Path, root: Path) -> None:
    """The detached CMS signature must hold, with a chain to the root that this device was made with."""
    answer = http.get(update["signature"])
    answer.raise_for_status()
    with tempfile.NamedTemporaryFile() as signature:
        signature.write(answer.content)
        signature.flush()
        command = ["openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", signature.name]
        command += ["-content", str(firmware), "-CAfile", str(root), "-out", os.devnull]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Refused(f"openssl cms -verify: {done.stderr.strip()[-200:]}")


def install(firmware: Path, place: Path) -> None:
    """Put the file into place in one step, as a slot switch would."""
    draft = place.with_name(place.name + ".new")
    draft.write_bytes(firmware.read_bytes())
    draft.replace(place)


def report(http: httpx.Client, update: dict[str, Any], outcome: str, version: str, detail: str) -> int:
    """Tell the server what became of it."""
    body = {"release_id": update["release_id"], "version": version, "outcome": outcome, "detail": detail[:500]}
    http.post("/device/v1/firmware/report", json=body).raise_for_status()
    print(json.dumps({"outcome": outcome, "version": version, "detail": detail}))
    return 0 if outcome == "installed" else 1


def parse() -> argparse.Namespace:
    """The command line."""
    made = argparse.ArgumentParser(description="Update this device's firmware from lachan.")
    made.add_argument("--server", required=True, help="base URL of the device door")
    for name, text in (
        ("ca", "CA of the server's certificate (PEM)"), ("cert", "this device's certificate chain (PEM)"),
        ("key", "this device's key (PEM)"), ("tuf-root", "trusted TUF root, from manufacture"),
        ("firmware-root", "root of the firmware signer's chain (PEM), from manufacture"),
        ("state", "folder that survives reboots"), ("install", "where the firmware belongs"),
    ):  # fmt: skip
        made.add_argument(f"--{name}", type=Path, required=True, help=text)
    made.add_argument("--running", default="unknown", help="version that runs now, for reports of failures")
    return made.parse_args()


if __name__ == "__main__":
    sys.exit(main())
