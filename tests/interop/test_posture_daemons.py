"""Posture against real daemons, with the packets counted at the target.

A tutorial. Two network namespaces stand for two machines joined by one cable (a veth pair): ``near`` is lachan's, ``far``
holds the cameras. The *bad* camera is Debian's lighttpd with ``admin``/``admin`` over plain HTTP, a listed ``/backup/``
directory and its version in every answer; `openssl s_server` with TLS 1.0 and a 1024-bit certificate signed with SHA-1;
busybox's telnetd and dropbear. The *good* camera is lighttpd with mod_openssl, from TLS 1.2 on, Digest with SHA-256 and its
own password. In ``far`` (and on ``near``'s loopback) nftables counts every packet that comes in, for each address, before
any daemon sees it: "nothing was sent" is what the target's kernel says. A test runs the service in a thread that has
entered ``near`` (setns works for one thread), so that every socket it opens is born there.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

from lachan import clock, trust
from lachan.net.fetch import http_get
from lachan.net.sockets import ConnectFailed, Refusal, SocketRefused, operator_scope
from lachan.runtime import Runtime
from lachan.trust import Answer
from posture import service
from posture.probes.observation import Outcome
from tests.posture.cameras import make_certificate
from tests.posture.conftest import ANALYST, approved, register
from tests.posture.test_evaluate import GOOD
from tests.posture.test_service import declare, present
from tests.support import need, wait

pytestmark = pytest.mark.interop
T = TypeVar("T")
NEAR, BAD, GOOD_ADDRESS, ELSEWHERE = "10.213.7.1", "10.213.7.2", "10.213.7.3", "10.213.7.4"
CLONE_NEWNET = 0x40000000


@dataclass
class Net:
    """Two joined namespaces and the daemons in the far one."""

    name: str
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def sh(self, *words: str, inside: str = "", check: bool = True) -> str:
        """Run a command, inside ``near`` or ``far`` if named."""
        lead = ["ip", "netns", "exec", f"{self.name}-{inside}"] if inside else []
        done = subprocess.run([*lead, *words], check=check, capture_output=True, text=True, timeout=30)
        return done.stdout

    def make(self) -> None:
        near, far = f"{self.name}-near", f"{self.name}-far"
        for space in (near, far):
            self.sh("ip", "netns", "add", space)
            self.sh("ip", "-n", space, "link", "set", "lo", "up")
        self.sh("ip", "link", "add", "eth0", "netns", near, "type", "veth", "peer", "name", "eth0", "netns", far)
        self.sh("ip", "-n", near, "address", "add", f"{NEAR}/24", "dev", "eth0")
        for address in (BAD, GOOD_ADDRESS, ELSEWHERE):
            self.sh("ip", "-n", far, "address", "add", f"{address}/24", "dev", "eth0")
        for space in (near, far):
            self.sh("ip", "-n", space, "link", "set", "eth0", "up")
        self.sh("nft", "add table inet t; add chain inet t i { type filter hook input priority -300; }", inside="far")
        for address in (BAD, GOOD_ADDRESS, ELSEWHERE):
            self.sh("nft", f'add rule inet t i ip daddr {address} counter comment "{address}"', inside="far")
        self.sh("nft", "add table inet t; add chain inet t i { type filter hook input priority -300; }", inside="near")
        self.sh("nft", 'add rule inet t i iifname "lo" counter comment "lo"', inside="near")

    def packets(self) -> dict[str, int]:
        """Packets that came in so far, for each address, and on lachan's own loopback."""
        counted = {}
        for space in ("near", "far"):
            for item in json.loads(self.sh("nft", "-j", "list", "ruleset", inside=space))["nftables"]:
                if "rule" in item:
                    counter = next(e["counter"] for e in item["rule"]["expr"] if "counter" in e)
                    counted[item["rule"]["comment"]] = counter["packets"]
        return counted

    def start(self, *words: str | Path, port: int, address: str) -> None:
        """Start a daemon in ``far`` and wait until it listens."""
        command = ["ip", "netns", "exec", f"{self.name}-far", *map(str, words)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.started.append(process)

        def listens() -> bool:
            if process.poll() is not None:
                assert process.stderr is not None
                raise AssertionError(f"{words[0]} ended: {process.stderr.read().decode()}")
            return f"{address}:{port} " in self.sh("ss", "-Htln", inside="far") + " "

        wait.until(listens, timeout=15, what=f"{words[0]} on {address}:{port}")

    def inside(self, call: Callable[[], T]) -> T:
        """Call something in a thread that has entered ``near``."""
        results: list[T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                with open(f"/run/netns/{self.name}-near", "rb") as space:
                    if ctypes.CDLL(None, use_errno=True).setns(space.fileno(), CLONE_NEWNET) != 0:
                        raise OSError(ctypes.get_errno(), "setns")
                results.append(call())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join(120)
        if errors:
            raise errors[0]
        return results[0]

    def stop(self) -> None:
        for process in self.started:
            process.terminate()
        for process in self.started:
            process.communicate(timeout=10)
        for space in ("near", "far"):
            subprocess.run(["ip", "netns", "del", f"{self.name}-{space}"], check=False, capture_output=True, timeout=30)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    """Both cameras, running."""
    for name, package in (
        ("lighttpd", "lighttpd lighttpd-mod-openssl"), ("nft", "nftables"), ("ip", "iproute2"), ("ss", "iproute2"),
        ("busybox", "busybox-static"), ("dropbear", "dropbear-bin"), ("dropbearkey", "dropbear-bin"),
        ("openssl", "openssl"),
    ):  # fmt: skip
        need.program(name, package=package)
    need.root("network namespaces are made")
    made = Net(f"lc{os.getpid()}")
    folder = tmp_path_factory.mktemp("cameras")
    try:
        made.make()
        _bad(made, folder)
        _good(made, folder)
        yield made
    finally:
        made.stop()


def _bad(net: Net, folder: Path) -> None:
    root = folder / "bad"
    (root / "backup").mkdir(parents=True)
    (root / "index.html").write_text("<title>camera</title>")
    (root / "backup" / "config.bak").write_text("hostname=cam\nadmin_password=hunter2\n")
    (folder / "bad.plain").write_text("admin:admin\n")
    (folder / "bad.conf").write_text(f"""
server.modules = ("mod_auth", "mod_authn_file", "mod_dirlisting", "mod_redirect")
server.document-root = "{root}"
server.bind = "{BAD}"
server.port = 80
index-file.names = ("index.html")
dir-listing.activate = "enable"
auth.backend = "plain"
auth.backend.plain.userfile = "{folder}/bad.plain"
$HTTP["url"] !~ "^/backup" {{ auth.require = ("" => ("method" => "basic", "realm" => "cam", "require" => "valid-user")) }}
$SERVER["socket"] == "{BAD}:8080" {{
  auth.require = ()
  url.redirect = ("" => "http://{ELSEWHERE}/")
}}
""")
    net.start("lighttpd", "-D", "-f", folder / "bad.conf", port=80, address=BAD)
    weak = make_certificate(folder, name="weak", key="1024", digest="sha1")
    net.start(
        "openssl", "s_server", "-accept", f"{BAD}:443", "-cert", weak, "-key", weak.with_suffix(".key"), "-quiet", "-www",
        "-cipher", "ALL:COMPLEMENTOFALL:@SECLEVEL=0", "-min_protocol", "TLSv1", port=443, address=BAD,
    )  # fmt: skip
    net.start("busybox", "telnetd", "-F", "-l", "/bin/false", "-p", "23", "-b", BAD, port=23, address=BAD)
    subprocess.run(["dropbearkey", "-t", "rsa", "-s", "1024", "-f", folder / "host"], check=True, capture_output=True)
    net.start(
        "dropbear", "-F", "-E", "-r", folder / "host", "-p", f"{BAD}:22", "-P", folder / "pid", port=22, address=BAD
    )


def _good(net: Net, folder: Path) -> None:
    root = folder / "good"
    root.mkdir()
    (root / "index.html").write_text("<title>camera</title>")
    (folder / "good.plain").write_text("an:a password of its own\n")
    certificate = make_certificate(folder, name="good")
    (folder / "good.conf").write_text(f"""
server.modules = ("mod_openssl", "mod_auth", "mod_authn_file")
server.document-root = "{root}"
server.bind = "{GOOD_ADDRESS}"
server.port = 443
server.tag = ""
index-file.names = ("index.html")
ssl.engine = "enable"
ssl.pemfile = "{certificate}"
ssl.privkey = "{certificate.with_suffix(".key")}"
ssl.openssl.ssl-conf-cmd = ("MinProtocol" => "TLSv1.2", "CipherString" => "ECDHE+AESGCM:ECDHE+CHACHA20")
auth.backend = "plain"
auth.backend.plain.userfile = "{folder}/good.plain"
auth.require = ("" => ("method" => "digest", "realm" => "cam", "require" => "valid-user", "algorithm" => "SHA-256"))
""")
    net.start("lighttpd", "-D", "-f", folder / "good.conf", port=443, address=GOOD_ADDRESS)


PORTS = (22, 23, 80, 443)


def engaged(rt: Runtime, address: str, name: str, *ports: int, **changes: Any) -> tuple[str, str]:
    """Ids of a registered camera and of an approved engagement on it."""
    device = register(rt, name, address=address)
    return device.id, approved(rt, device.id, *(ports or PORTS), loopback=False, **changes).id


def test_the_planted_faults_of_a_real_bad_camera(net: Net, rt: Runtime) -> None:
    device_id, engagement_id = engaged(rt, BAD, "bad")
    before = net.packets()
    found = net.inside(lambda: service.assess(rt, device_id, actor=ANALYST, engagement_id=engagement_id))
    assert net.packets()[BAD] > before[BAD], "the counter counts"
    codes = {(o.port, o.code) for o in found.observations if o.outcome is Outcome.CONTRADICTS}
    assert codes >= {
        (23, "telnet_open"), (80, "version_disclosed"), (80, "basic_over_cleartext"), (80, "plain_http_admin"),
        (80, "directory_listing"), (80, "default_login_accepted"), (443, "old_tls_accepted"), (443, "weak_key"),
        (443, "weak_cipher"),
    }  # fmt: skip
    sweep = next(o for o in found.observations if o.probe == "net.port_sweep_vs_ixit")
    assert sweep.ports == PORTS
    now = present(rt, device_id)
    failed = {row for row, (result, _) in now.items() if result == "fail"}
    assert failed == {"CAM-1.1", "CAM-1.3", "CAM-1.6", "CAM-5.1", "CAM-5.3", "CAM-6.2", "CAM-6.3", "HN-V1-tls"}
    assert "pass" not in {result for result, _ in now.values()}
    details = " ".join(o.detail for o in found.observations)
    assert "RSA key of 1024 bit; signed with sha1" in details
    assert "hunter2" not in json.dumps([o.body() for o in found.observations])
    with rt.db.read() as connection:
        decision = trust.decision(connection, device_id)
    assert decision.answer is Answer.LIMITED
    assert {(s.ref, s.reason) for s in decision.reasons} >= {
        ("CAM-1.1", "default_login_accepted"),
        ("CAM-6.3", "telnet_open"),
    }
    declare(rt)
    service.assess(rt, device_id, actor=ANALYST)
    with rt.db.read() as connection:
        verdict = next(v for v, _, _ in service.current(connection, device_id) if v.criterion == "CAM-6.1")
    assert (verdict.result, verdict.reason, verdict.detail) == (
        "fail",
        "undeclared_port",
        "open, but not declared: 22, 23, 80",
    )


def test_a_real_good_camera_gets_no_pass_from_silence(net: Net, rt: Runtime) -> None:
    device_id, engagement_id = engaged(rt, GOOD_ADDRESS, "good")
    found = net.inside(lambda: service.assess(rt, device_id, actor=ANALYST, engagement_id=engagement_id))
    assert [o for o in found.observations if o.outcome is Outcome.CONTRADICTS] == []
    now = present(rt, device_id)
    assert {row for row, (result, _) in now.items() if result == "pass"} == {"HN-V1-tls"}
    assert now["CAM-1.1"] == now["CAM-6.3"] == now["CAM-5.3"] == ("unknown", "no_declaration")
    assert next(o for o in found.observations if o.probe == "cred.default_http").code == "default_login_refused"
    declare(rt, ports=GOOD["ports"])
    service.assess(rt, device_id, actor=ANALYST)
    now = present(rt, device_id)
    for row in ("CAM-1.1", "CAM-5.1", "CAM-5.2", "CAM-5.3", "CAM-6.1", "CAM-6.2", "CAM-6.3"):
        assert now[row] == ("pass", "declared_and_tested"), row
    assert now["CAM-3.5"] == ("unknown", "not_implemented")
    with rt.db.read() as connection:
        assert trust.decision(connection, device_id).answer is Answer.ALLOW


def test_an_unreachable_camera_is_unknown(net: Net, rt: Runtime) -> None:
    device_id, engagement_id = engaged(rt, "10.213.7.9", "gone", 80)
    net.inside(lambda: service.assess(rt, device_id, actor=ANALYST, engagement_id=engagement_id))
    assert present(rt, device_id)["CAM-1.1"] == ("unknown", "unreachable")
    assert "pass" not in {result for result, _ in present(rt, device_id).values()}


def test_a_redirect_is_not_followed(net: Net, rt: Runtime) -> None:
    """The camera sends visitors to a third address; it is in scope even, and still gets nothing."""
    device_id, engagement_id = engaged(rt, BAD, "redirecting", 8080, networks=(f"{ELSEWHERE}/32",))
    before = net.packets()
    found = net.inside(lambda: service.assess(rt, device_id, actor=ANALYST, engagement_id=engagement_id))
    assert any("location: http://10.213.7.4/" in o.excerpt for o in found.observations)
    after = net.packets()
    assert after[BAD] > before[BAD]
    assert after[ELSEWHERE] == before[ELSEWHERE] == 0


def test_a_name_of_loopback_gets_nothing(net: Net, rt: Runtime) -> None:
    device_id, engagement_id = engaged(rt, "localhost", "tricky", 80, networks=("10.213.7.0/24",))
    before = net.packets()
    found = net.inside(lambda: service.assess(rt, device_id, actor=ANALYST, engagement_id=engagement_id))
    assert {o.outcome for o in found.observations} == {Outcome.NOT_AUTHORISED}
    assert present(rt, device_id)["CAM-1.1"] == ("unknown", "not_authorised")
    with pytest.raises(SocketRefused) as refused:
        net.inside(lambda: http_get(operator_scope(("localhost:80",)), "http://localhost/", timeout=2))
    assert refused.value.reason is Refusal.SPECIAL_ADDRESS
    assert net.packets() == before
    with pytest.raises(ConnectFailed):  # the same, named literally, is sent: the counter would have seen it
        net.inside(lambda: http_get(operator_scope(("127.0.0.1:80",)), "http://127.0.0.1/", timeout=2))
    assert net.packets()["lo"] > before["lo"]


def test_outside_its_window_or_scope_nothing_is_sent(net: Net, rt: Runtime) -> None:
    now = clock.now()
    device_id, early = engaged(
        rt, BAD, "early", not_before=now + timedelta(hours=1), not_after=now + timedelta(hours=2)
    )
    before = net.packets()
    with pytest.raises(SocketRefused) as refused:
        net.inside(lambda: service.assess(rt, device_id, actor=ANALYST, engagement_id=early))
    assert refused.value.reason is Refusal.OUTSIDE_WINDOW
    right = approved(rt, device_id, *PORTS, loopback=False)
    with clock.travel(timedelta(hours=3)), pytest.raises(SocketRefused):
        net.inside(lambda: service.assess(rt, device_id, actor=ANALYST, engagement_id=right.id))
    scope = operator_scope((f"{GOOD_ADDRESS}:443",))
    for url in (f"http://{BAD}/", f"https://{BAD}/", f"http://{GOOD_ADDRESS}:80/"):
        with pytest.raises(SocketRefused):
            net.inside(lambda url=url: http_get(scope, url, timeout=2))  # type: ignore[misc]
    with pytest.raises(SocketRefused) as own:
        net.inside(lambda: http_get(operator_scope(("10.213.7.0/24:80",)), f"http://{NEAR}/", timeout=2))
    assert own.value.reason is Refusal.OWN_ADDRESS
    assert net.packets() == before
