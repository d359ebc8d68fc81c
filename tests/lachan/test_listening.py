"""Sockets for IPv4, IPv6 and both, and how addresses are written and compared."""

import socket

import pytest

from lachan.addresses import written
from lachan.errors import Unavailable
from lachan.program import listening
from lachan.settings import Settings


def of(settings: Settings, host: str) -> Settings:
    return settings.model_copy(update={"host": host, "syslog_port": 0})


@pytest.mark.parametrize(
    ("host", "reached", "shown"),
    [
        ("127.0.0.1", {"127.0.0.1"}, "localhost"),
        ("::1", {"::1"}, "[::1]"),
        ("::", {"127.0.0.1", "::1"}, "localhost"),
        ("0.0.0.0", {"127.0.0.1"}, "localhost"),
        ("127.0.0.9", {"127.0.0.9"}, "127.0.0.9"),
    ],
)
def test_a_host_is_listened_on_as_it_is_written(settings: Settings, host: str, reached: set[str], shown: str) -> None:
    found = of(settings, host)
    assert listening.reachable_host(found) == shown
    for door in ("people", "device", "status"):
        with listening.listen(found, door) as made:
            took = set()
            for address in ("127.0.0.1", "127.0.0.9", "::1"):
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                with socket.socket(family) as client:
                    client.settimeout(5)
                    if client.connect_ex((address, made.getsockname()[1])) == 0:
                        took.add(address)
            assert took - ({"127.0.0.9"} if host in ("::", "0.0.0.0") else set()) == reached
    with listening.listen_syslog(found) as made:
        made.settimeout(5)
        for address in reached:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as client:
                client.sendto(address.encode(), (address, made.getsockname()[1]))
            assert made.recvfrom(100)[0] == address.encode()


def test_a_port_that_is_taken_is_named_as_a_url_has_it(settings: Settings) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        found = of(settings, "::1").model_copy(update={"device_port": port, "syslog_port": port})
        with pytest.raises(Unavailable, match=rf"\[::1\]:{port}"):
            listening.listen(found, "device")


@pytest.mark.parametrize(
    ("name", "compared"),
    [("2001:DB8:0::1", "2001:db8::1"), ("::ffff:192.0.2.1", "192.0.2.1"), ("192.0.2.1", "192.0.2.1"), ("host", "host")],
)
def test_an_address_is_compared_in_one_form(name: str, compared: str) -> None:
    assert written(name) == compared
