"""Delivers log lines to lachan's ``_bulk``, as a device or as a site's collector. Python's standard library only.

As a device, with its certificate, at the device door; its lines speak of itself:

    logread -f | python3 examples/send_logs.py --server https://lachan.example:8444 --ca root.pem \
        --cert device.pem --key device.key

As a collector, with its token, at the people door; each line says which device of the site it is about:

    python3 examples/send_logs.py --server https://lachan.example:8443 --ca root.pem \
        --api-key-file api-key.txt --host cam-0042 /var/log/cameras/cam-0042.log

Steps: lines → batches of at most ``--batch`` → `deliver`: send, and again while the server is busy or away, after the
time that it names in ``Retry-After``, else after a growing pause. Every batch has a key of its own
(``Idempotency-Key``), so that one whose answer got lost counts once. What the server refuses for good is said on
standard error and ends the program with 1: sending it again would not help. Limit: a batch that waits is kept in
memory; a shipper that must survive its own restart keeps its place in the file as well.
"""

import argparse
import http.client
import json
import random
import ssl
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

ATTEMPTS = 8
LONGEST = 300.0  # seconds between two attempts
BUSY = (408, 429, 500, 502, 503, 504)  # the same request may succeed later


class Refused(Exception):
    """The server will not take this batch, however often it is sent."""


class Server:
    """One lachan, and who we are to it: a certificate or an API key."""

    def __init__(self, url: str, ca: Path | None, cert: Path | None, key: Path | None, api_key: str) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "", parts.port or 443
        self.headers = {"Content-Type": "application/x-ndjson"}
        if api_key:
            self.headers["Authorization"] = f"ApiKey {api_key}"
        self.tls: ssl.SSLContext | None = None
        if parts.scheme == "https":
            self.tls = ssl.create_default_context(cafile=ca)
            if cert:
                self.tls.load_cert_chain(cert, key)
        elif self.host not in ("127.0.0.1", "localhost"):
            raise SystemExit("send_logs: only https:// leaves this machine")

    def post(self, body: bytes, batch: str) -> tuple[int, str, bytes]:
        """One attempt: status, ``Retry-After`` (or empty) and body of the answer; `OSError` if there was none."""
        if self.tls:
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                self.host, self.port, context=self.tls, timeout=60
            )
        else:
            connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            connection.request("POST", "/_bulk", body, {**self.headers, "Idempotency-Key": batch})
            answer = connection.getresponse()
            return answer.status, answer.headers.get("Retry-After", ""), answer.read()
        except http.client.HTTPException as error:
            raise OSError(f"no proper answer: {error!r}") from error
        finally:
            connection.close()


def main() -> int:
    """Send all lines; 0 if the server has every one of them."""
    words = parse()
    api_key = words.api_key_file.read_text().strip() if words.api_key_file else ""
    server = Server(words.server, words.ca, words.cert, words.key, api_key)
    lines = words.file.open(encoding="utf-8", errors="replace") if words.file else sys.stdin
    sent = 0
    try:
        for batch in batches(lines, words.batch):
            deliver(server, batch, words.host)
            sent += len(batch)
    except (Refused, OSError) as error:
        print(f"send_logs: {error}; {sent} lines were delivered before", file=sys.stderr)
        return 1
    finally:
        lines.close()
    print(f"{sent} lines delivered")
    return 0


def batches(lines: Iterable[str], size: int) -> Iterator[list[str]]:
    """The lines without their ends, at most ``size`` at a time; empty ones are left out."""
    batch: list[str] = []
    for line in lines:
        if line.strip():
            batch.append(line.rstrip("\r\n"))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def bulk(lines: list[str], host: str) -> bytes:
    """The body of one request: an action and a document per line, as Elasticsearch's bulk API has it."""
    found = []
    for line in lines:
        document = {"@timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"), "message": line}
        if host:
            document |= {"host": {"name": host}}  # type: ignore[dict-item]
        found += ['{"create":{"_index":"logs-device-default"}}', json.dumps(document)]
    return ("\n".join(found) + "\n").encode()


def deliver(server: Server, lines: list[str], host: str) -> None:
    """Have the server take one batch.

    Raises:
        Refused: it never will.
        OSError: it did not within all attempts.
    """
    body, key, pause = bulk(lines, host), str(uuid.uuid4()), 1.0
    for attempt in range(1, ATTEMPTS + 1):
        try:
            status, after, answer = server.post(body, key)
        except OSError as error:
            why, after = str(error), ""
        else:
            if status == 200:
                return check(answer)
            why = f"{status} {answer[:300].decode(errors='replace')}"
            if status not in BUSY:
                raise Refused(f"the server refuses: {why}")
        if attempt < ATTEMPTS:
            wait = float(after) if after.isdigit() else pause * random.uniform(0.5, 1.5)
            print(f"send_logs: {why}; again in {min(wait, LONGEST):.1f} s", file=sys.stderr)
            time.sleep(min(wait, LONGEST))
            pause = min(pause * 2, LONGEST)
    raise OSError(f"the server took nothing in {ATTEMPTS} attempts: {why}")


def check(answer: bytes) -> None:
    """Look at what became of each line: one that is there already (409) was delivered before.

    Raises:
        Refused: a line was not taken.
    """
    items = [next(iter(item.values())) for item in json.loads(answer)["items"]]
    bad = [item for item in items if item["status"] >= 300 and item["status"] != 409]
    if bad:
        raise Refused(f"{len(bad)} of {len(items)} lines were refused, the first: {bad[0].get('error')}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Deliver log lines to lachan.")
    parser.add_argument("file", type=Path, nargs="?", help="lines to send; standard input without it")
    parser.add_argument("--server", required=True, help="base URL of the device door or the people door")
    parser.add_argument("--ca", type=Path, help="the city's root certificate, PEM")
    parser.add_argument("--cert", type=Path, help="a device's certificate with its issuer, PEM")
    parser.add_argument("--key", type=Path, help="its key")
    parser.add_argument("--api-key-file", type=Path, help="a collector's key, as `lachan token add` shows it")
    parser.add_argument("--host", default="", help="which device the lines are about (collectors)")
    parser.add_argument("--batch", type=int, default=500, help="most lines of one request")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
