"""``lachan serve``: starts the roles as processes and watches over them.

Roles: ``sign`` (the only one that holds private keys), ``doors`` (the three HTTP apps), ``detect`` (log lines to alerts),
``work`` (due jobs). Steps: bring the schema up to date, bind the listening sockets, start ``sign``, then the others with
the sockets handed down, wait until each says that it is ready, print one line. A role that dies is started again, with
growing pauses; the sockets stay open meanwhile, so no port is lost. SIGTERM ends all of them cleanly.

Several processes may answer at the doors (``--doors N``): they are called ``doors``, ``doors-2`` …, accept from the same
sockets and share the memory in which the doors' limits are counted. One that is killed costs its own connections.

``lachan serve --role R`` runs one role in this process (or N processes of ``doors``), so that each scales alone; a signer under a user of its own is
served that way by a unit of its own (docs/limitations.md says what one shared user does not protect). ``probe`` is the process of one look at one device: the role
``work`` starts it, bounds it and ends it (`posture.probes.process`).
"""

import contextlib
import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lachan import cliutil, log, shared
from lachan.errors import DatabaseAway, Unavailable
from lachan.program import listening
from lachan.settings import Settings

if TYPE_CHECKING:
    from lachan.database import Database

ROLES = ("sign", "doors", "detect", "work")
PROBE = "probe"  # on demand: the role work starts one for each device that is looked at
READY_WITHIN = 120.0  # seconds
SWITCH = 0.0005  # seconds that a thread of the role work computes before another's turn; Python's own are 0.005
AGAIN = 1.0  # seconds between two tries to reach a database that is away
STOP_WITHIN = 10.0  # seconds
DOORS = ("people", "device", "status")
SIGNER_PASSPHRASE = "LACHAN_SIGNER_PASSPHRASE"  # reaches the role sign only


def main(argv: list[str]) -> int:
    """``lachan serve [--role R] [--doors N]``."""
    parser = cliutil.parser("serve", "Start lachan: all roles as child processes, or one role here.")
    parser.add_argument("--role", choices=(*ROLES, PROBE), help="run only this role, in this process")
    parser.add_argument("--doors", type=int, metavar="N", help="processes that answer at the doors (setting: doors)")
    args = parser.parse_args(argv)
    if args.role == PROBE:  # it knows of no installation
        from lachan.wiring import resolve

        return int(resolve("posture.probes.process:main")())
    settings = Settings.load(args.data, **({} if args.doors is None else {"doors": args.doors}))
    if not (settings.data / "initialised").exists():
        raise Unavailable(f"{settings.data} is no lachan installation; run: lachan init --data {settings.data}")
    log.configure()
    if args.role == "doors" and settings.doors > 1 and shared.ENV not in os.environ:
        return Supervisor(settings, as_json=args.json, only="doors").run()
    if args.role:
        return run_role(args.role, settings)
    return Supervisor(settings, as_json=args.json).run()


def run_role(role: str, settings: Settings) -> int:
    """Run one role until SIGTERM or SIGINT."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    threading.Thread(target=_stop_with_parent, args=(stop,), daemon=True).start()
    if role == "sign":
        from lachan.signer import server

        server.main(settings, stop, ready=_say_ready)
        return 0
    from lachan.runtime import Runtime
    from lachan.wiring import resolve

    rt = Runtime.open(settings)
    try:
        _await_database(rt.db, stop)
        if role == "work":
            from lachan.work import lanes

            # Whoever comes back from the database waits for the interpreter, at every round trip, as long as another thread
            # may compute: a run has twenty of them, and what others compute must not be added to each.
            sys.setswitchinterval(SWITCH)
            _say_ready()
            lanes.work(rt, stop)
        elif role == "detect":
            resolve("siem_rules.detector:main")(rt, stop, ready=_say_ready, syslog=listening.inherited().get("syslog"))
        else:
            given = listening.inherited()
            sockets = {door: given.get(door) or listening.listen(settings, door) for door in DOORS}
            resolve("api.doors:main")(rt, sockets, stop, _say_ready, shared.SharedMemory.inherited())
    finally:
        rt.close()
    return 0


def _await_database(db: "Database", stop: threading.Event) -> None:
    """Wait until the database answers: a role that begins while it is away need not die of it."""
    while not stop.is_set():
        try:
            with db.read():
                return
        except DatabaseAway:  # it was said, once
            stop.wait(AGAIN)


def _say_ready() -> None:
    """Tell the supervisor; what stands by now stays, and no later collection looks at it again (60 ms each in a door)."""
    gc.collect()
    gc.freeze()
    number = os.environ.pop("LACHAN_READY_FD", "")
    if number:
        os.write(int(number), b"ready\n")
        os.close(int(number))


def _stop_with_parent(stop: threading.Event) -> None:
    """End a role that lost its supervisor (kill -9): nobody would start it again or end it."""
    if "LACHAN_READY_FD" not in os.environ:
        return
    parent = os.getppid()
    while not stop.wait(0.5):
        if os.getppid() != parent:
            stop.set()


def inherited(role: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Give what a role's process inherits: all, but the signer's passphrase, which reaches the role sign only."""
    return {name: value for name, value in environment.items() if role == "sign" or name != SIGNER_PASSPHRASE}


@dataclass
class Child:
    """One process by its name: how often it died lately, and when it may be started again (monotonic seconds)."""

    name: str
    process: subprocess.Popen[bytes]
    ready: int
    deaths: int = 0
    started: float = field(default_factory=time.monotonic)


class Supervisor:
    """Start the roles, keep them running, end them."""

    def __init__(self, settings: Settings, *, as_json: bool, only: str = "") -> None:
        self.as_json = as_json
        self.settings = settings
        self.roles = (only,) if only else ROLES
        self.memory = shared.create()
        self._counted = settings.data / "run" / "metrics"  # where several door processes count
        self.stop = threading.Event()
        self.children: dict[str, Child] = {}
        self.sockets: dict[str, socket.socket] = {}
        self.urls: dict[str, Any] = {}

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop.set())
        if "work" in self.roles:
            self._migrate()
        self._bind()
        shutil.rmtree(self._counted, ignore_errors=True)
        self._counted.parent.mkdir(mode=0o700, exist_ok=True)
        self._counted.mkdir(mode=0o700)
        try:
            if "sign" in self.roles:
                self._start("sign")
                self._await("sign")  # the doors ask it for their certificates
            others = [name for role in self.roles if role != "sign" for name in self._names(role)]
            for name in others:
                self._start(name)
            for name in others:
                self._await(name)
            self._announce()
            while not self.stop.wait(0.2):
                self._revive()
        finally:
            self._end()
        return 0

    def _names(self, role: str) -> list[str]:
        """Give the names of a role's processes."""
        number = self.settings.doors if role == "doors" else 1
        return [role, *(f"{role}-{place}" for place in range(2, number + 1))]

    def _migrate(self) -> None:
        """In a process of its own: the supervisor has no other use for the database's libraries."""
        words = [sys.executable, "-m", "lachan.program.migrate", str(self.settings.data)]
        if subprocess.run(words, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False).returncode:
            raise Unavailable("The database could not be brought to this version's schema; see above.")

    def _bind(self) -> None:
        host = listening.reachable_host(self.settings)
        for door in DOORS:
            made = self.sockets[door] = listening.listen(self.settings, door)
            scheme = "http" if door == "status" else "https"
            configured = getattr(self.settings, f"{door}_url")
            free = getattr(self.settings, f"{door}_port") == 0
            self.urls[door] = f"{scheme}://{host}:{made.getsockname()[1]}" if free else configured
        self.urls["syslog"] = None
        if self.settings.syslog_port >= 0 and "detect" in self.roles:
            made = self.sockets["syslog"] = listening.listen_syslog(self.settings)
            self.urls["syslog"] = f"udp://{listening.bracketed(self.settings.host)}:{made.getsockname()[1]}"

    def _start(self, name: str, deaths: int = 0) -> None:
        role, _, place = name.partition("-")
        mine = {"doors": DOORS, "detect": ("syslog",)}.get(role, ())
        passed = {name: self.sockets[name].fileno() for name in mine if name in self.sockets}
        reading, writing = os.pipe()
        env = {
            **inherited(role, os.environ),
            **{f"LACHAN_{door.upper()}_URL": self.urls[door] for door in DOORS},
            "LACHAN_SOCKETS": ",".join(f"{name}={number}" for name, number in passed.items()),
            "LACHAN_READY_FD": str(writing),
            shared.ENV: f"{self.memory},{int(place or 1) - 1}",
            **({"PROMETHEUS_MULTIPROC_DIR": str(self._counted)} if role == "doors" and self.settings.doors > 1 else {}),
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "lachan", "serve", "--role", role, "--data", str(self.settings.data)],
            env=env, pass_fds=[*passed.values(), writing, self.memory], stdin=subprocess.DEVNULL, stdout=sys.stderr,
            start_new_session=True,
        )  # fmt: skip
        os.close(writing)
        self.children[name] = Child(name, process, reading, deaths)

    def _await(self, role: str) -> None:
        """Wait until a role says that it is ready; one that dies meanwhile is started again, twice at most."""
        deadline = time.monotonic() + READY_WITHIN
        while not self.stop.is_set():
            child = self.children[role]
            os.set_blocking(child.ready, False)
            with contextlib.suppress(BlockingIOError):
                if os.read(child.ready, 6):
                    return
            code = child.process.poll()
            if code is not None and child.deaths == 2:
                raise Unavailable(f"The role {role} ended at its start with code {code}; see above.")
            if code is not None:
                log.get().error("a role ended at its start and is started again", role=role, code=code)
                os.close(child.ready)
                self._start(role, child.deaths + 1)
            if time.monotonic() > deadline:
                raise Unavailable(f"The role {role} was not ready within {READY_WITHIN:.0f} s.")
            time.sleep(0.005)

    def _announce(self) -> None:
        pids = {role: child.process.pid for role, child in self.children.items()}
        ready = {**self.urls, "pid": os.getpid(), "roles": pids}
        if self.as_json:
            print(json.dumps(ready), flush=True)
        else:
            for name, value in self.urls.items():
                if value:
                    print(f"{name:>7}  {value}", flush=True)
            print("ready; Ctrl-C ends it", flush=True)

    def _revive(self) -> None:
        for role, child in list(self.children.items()):
            if child.process.poll() is None:
                if child.deaths and time.monotonic() - child.started > 60:
                    child.deaths = 0
                continue
            if time.monotonic() - child.started < min(0.1 * 2**child.deaths, 10):
                continue
            log.get().error("a role ended and is started again", role=role, code=child.process.returncode)
            os.close(child.ready)
            for gauge in self._counted.glob(f"gauge_live*_{child.process.pid}.db"):
                gauge.unlink()  # what is only true of who lives; its counts stay
            self._start(role, child.deaths + 1)

    def _end(self) -> None:
        for child in self.children.values():
            if child.process.poll() is None:
                child.process.terminate()
        deadline = time.monotonic() + STOP_WITHIN
        for child in self.children.values():
            try:
                child.process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
        for made in self.sockets.values():
            made.close()
        os.close(self.memory)
