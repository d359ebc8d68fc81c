"""``examples/send_logs.py`` as a device, as a collector, and against a server that is busy, gone, or says no."""

import http.server
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.loop.conftest import Town
from tests.support.wait import until

SCRIPT = Path(__file__).parents[2] / "examples" / "send_logs.py"


def send(lines: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the example as somebody without our libraries would."""
    command = [sys.executable, "-I", str(SCRIPT), *words]
    return subprocess.run(command, input=lines, capture_output=True, text=True, check=False, timeout=60)


def test_a_device_and_a_collector_deliver(town: Town, tmp_path: Path) -> None:
    camera, _ = town.camera("sender-1", "sending")
    root, device_id = str(town.city.root), town.story.device_ids["sender-1"]
    folder = town.city.folder / "sender-1"
    door = ["--server", town.city.urls["device"], "--ca", root]
    identity = ["--cert", str(folder / "device.pem"), "--key", str(folder / "device.key")]
    done = send("first line\n\nsecond line\nthird line\n", *door, *identity, "--batch", "2")
    assert (done.returncode, done.stdout) == (0, "3 lines delivered\n"), done.stderr
    path = f"/api/v1/logs?device_id={device_id}"

    def kept() -> list[str]:
        return [json.loads(item["line"])["message"] for item in town.story.admin.get(path)["items"]]

    assert until(kept) == ["third line", "second line", "first line"]
    camera.process.terminate()

    token = {"name": "gw-sending", "roles": ["collector"], "days": 1, "site": "sending"}
    key = tmp_path / "api-key.txt"
    key.write_text(town.story.admin.post("/api/v1/tokens", token)["api_key"] + "\n")
    file = tmp_path / "camera.log"
    file.write_text("Nov 22 16:19:02 camera authpriv.info sh: XMHDIPC: applet not found\n")
    gate = ["--server", town.city.urls["people"], "--ca", root, "--api-key-file", str(key)]
    done = send("", *gate, "--host", "sender-1", str(file))
    assert (done.returncode, done.stdout) == (0, "1 lines delivered\n"), done.stderr
    alerts = until(lambda: town.alerts("sender-1"), what="what the collector says of its site is an alert")
    assert alerts[0]["senders"] == ["collector:gw-sending"]

    key.write_text("bm90aGluZw==")
    refused = send("", *gate, "--host", "sender-1", str(file))
    assert (refused.returncode, "refuses: 401" in refused.stderr) == (1, True), refused.stderr
    assert send("x\n", *door).returncode == 1  # no certificate


class Moody(http.server.BaseHTTPRequestHandler):
    """Is busy, then hangs up, then takes the batch; ``/_bulk`` of one line that says `bad` is refused for good."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        seen: list[tuple[float, str, bytes]] = self.server.seen  # type: ignore[attr-defined]
        seen.append((time.monotonic(), self.headers["Idempotency-Key"], body))
        if b"bad" in body:
            self.answer(400, {"error": {"type": "parse_exception"}})
        elif len(seen) == 1:
            self.answer(429, {"error": "busy"}, ("Retry-After", "1"))
        elif len(seen) == 2:
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            status = 409 if len(seen) == 3 else 400
            self.answer(200, {"errors": True, "items": [{"create": {"status": status, "error": "why"}}]})

    def answer(self, status: int, document: object, *headers: tuple[str, str]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        for name, value in (("Content-Length", str(len(body))), *headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def moody() -> Iterator[http.server.HTTPServer]:
    server = http.server.HTTPServer(("127.0.0.1", 0), Moody)
    server.seen = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_it_waits_as_it_is_told_and_repeats_the_same_batch(moody: http.server.HTTPServer) -> None:
    url = f"http://127.0.0.1:{moody.server_port}"
    done = send("one line\n", "--server", url)
    assert done.returncode == 0, done.stderr
    seen = moody.seen  # type: ignore[attr-defined]
    assert len(seen) == 3
    assert len({(key, body) for _, key, body in seen}) == 1  # the same batch under the same key: it counts once
    assert seen[1][0] - seen[0][0] >= 1.0  # Retry-After, in seconds
    assert "429" in done.stderr

    done = send("another line\n", "--server", url)
    assert (done.returncode, "1 of 1 lines were refused" in done.stderr) == (1, True), done.stderr
    done = send("good\nbad\n", "--server", url, "--batch", "1")
    assert done.returncode == 1


def test_what_is_refused_for_good_is_not_sent_again(moody: http.server.HTTPServer) -> None:
    done = send("bad\n", "--server", f"http://127.0.0.1:{moody.server_port}")
    assert (done.returncode, "refuses: 400" in done.stderr) == (1, True), done.stderr
    assert len(moody.seen) == 1  # type: ignore[attr-defined]
    assert send("x\n", "--server", "http://192.0.2.1").returncode == 1  # logs never travel in clear text
