"""An installation that is reached by IPv6 only: init, serve, people, devices, status and syslog (RFC 3986 3.2.2, RFC 5952)."""

import socket
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from lachan.demo.city import City
from lachan.demo.story import Story, start
from tests.support.wait import until


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as made:
        return int(made.getsockname()[1])


@pytest.mark.fault
@pytest.mark.timeout(240)
@pytest.mark.parametrize("configured", [False, True])
def test_everything_works_by_ipv6(tmp_path: Path, configured: bool) -> None:
    """With free ports, whose URLs lachan prints, and with URLs as an operator writes them."""
    settings = {"LACHAN_HOST": "::1", "LACHAN_SYSLOG_PORT": "0"}
    if configured:
        for door in ("people", "device", "status"):
            port = free_port()
            scheme = "http" if door == "status" else "https"
            settings |= {
                f"LACHAN_{door.upper()}_PORT": str(port),
                f"LACHAN_{door.upper()}_URL": f"{scheme}://[::1]:{port}",
            }
    city = City(tmp_path, settings=settings)
    story = Story(city)
    try:
        start(story)
        assert {urlsplit(city.urls[door]).hostname for door in ("people", "device", "status", "syslog")} == {"::1"}
        assert all("[::1]:" in city.urls[door] for door in ("people", "device", "status", "syslog"))
        story.admin.post(
            "/api/v1/devices",
            {"name": "cam-6", "vendor": "acme", "model": "A1", "serial_number": "6", "site": "s"},
        )
        found = story.admin.get("/api/v1/devices?q=cam-6")["items"][0]
        secret = story.admin.post(f"/api/v1/devices/{found['id']}/secret", {"profile": "camera"})["secret"]
        camera = city.camera("cam-6")
        camera.must("enrol", secret=secret)
        assert camera.do("ask")["status"] == 200
        assert httpx.get(f"{city.urls['status']}/ca/root.crt").status_code == 200
        place = urlsplit(city.urls["syslog"])
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"<13>Nov 26 09:00:00 cam app: by six", (place.hostname, place.port))
        kept = city.data / "logs" / "syslog-0"
        until(lambda: b"[::1]:" in b"".join(each.read_bytes() for each in kept.glob("*.segment")), timeout=15)
        camera.process.terminate()
    finally:
        for person in story.people.values():
            person.http.close()
        city.close()
