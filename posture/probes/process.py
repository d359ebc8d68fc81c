"""Probes run in a process of their own, so that whatever a device sends costs nobody else anything.

`look` starts ``lachan serve --role probe`` for one run, gives it the target on its standard input, takes observations from its
standard output as they are made, and ends it from outside at the time box. The process has no database, no signer and no
settings; its memory, CPU, files and priority are bounded before it meets the device. Before each connection it asks back
whether the engagement still stands and whose turn it is: both are known here only.

One JSON document a line. To the process: the target, then an answer to each question, ``{}`` or a refusal. From it:
``{"ask": "standing"}``, ``{"ask": "pace", "address": …, "patience": …}``, ``{"saw": observation}``, ``{"done": true}``.

A process that was killed, died, or said what cannot be read leaves the observations that it made; each name of which none
speaks becomes one that says why: *unknown*, never a confirmation.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import json
import os
import resource
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lachan
from lachan import clock
from lachan.net.sockets import Refusal, Scope, ScopeEntry, SocketRefused
from posture.probes.observation import Observation, Outcome, observe
from posture.probes.target import ProbeTarget

GRACE = 2.0  # seconds that a process may take beyond its time box to say what it saw, its start included
MEMORY = 512 << 20  # octets of address space; a run over a talkative camera takes less than a third
MOST = 4 << 20  # octets that a process may say in all
COMMAND = (sys.executable, "-m", "lachan", "serve", "--role", "probe")
_TOP = Path(lachan.__file__).parents[1]
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


class _Ended(Exception):
    """The process has ended, or has to: why, as a reason code and a sentence."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


def look(
    target: ProbeTarget,
    *,
    paths: Iterable[Mapping[str, str]],
    pairs: Iterable[Mapping[str, str]],
    command: Sequence[str] = COMMAND,
) -> tuple[Observation, ...]:
    """Look at a device with every approved method, in a process of its own.

    Args:
        target: the device, its scope and budget.
        paths: rows of ``criteria/paths.yaml``.
        pairs: rows of ``criteria/credentials.yaml``.
        command: what is started.

    Returns:
        As `posture.probes.run.run`: at least one observation for every probe of every approved method.
    """
    from posture.probes.run import unsaid

    env = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "PYTHONPATH": str(_TOP)}
    env["LACHAN_CLOCK_OFFSET"] = str(clock.offset().total_seconds())
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=_TOP, env=env
    )
    talk = _Talk(process, target)
    code, sentence = "probe_error", "the probe process said nothing"
    try:
        talk.say(_task(target, paths, pairs))
        talk.hear()
    except _Ended as ended:
        code, sentence = ended.code, str(ended)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
    return (*talk.found, *(_missing(target, probe.method, name, code, sentence) for probe, name in unsaid(talk.found)))


@dataclass
class _Talk:
    """The near end of the conversation."""

    process: subprocess.Popen[bytes]
    target: ProbeTarget
    found: list[Observation] = field(default_factory=list)

    def say(self, document: Mapping[str, Any]) -> None:
        """Write one document, within the time box: who does not read what he asked for holds nobody."""
        assert self.process.stdin
        handle, rest = self.process.stdin.fileno(), json.dumps(document).encode() + b"\n"
        os.set_blocking(handle, False)
        with selectors.DefaultSelector() as selector:
            selector.register(handle, selectors.EVENT_WRITE)
            while rest:
                self._await(selector)
                try:
                    rest = rest[os.write(handle, rest) :]
                except BlockingIOError:
                    continue
                except BrokenPipeError:
                    raise self._died() from None

    def hear(self) -> None:
        """Take what it says until it is done."""
        for line in self._lines():
            try:
                document = json.loads(line)
                if document.get("done") is True:
                    return
                if "ask" in document:
                    self.say(self._answer(document))
                else:
                    self.found.append(_seen(document["saw"]))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                raise _Ended("probe_error", "the probe process said what cannot be read") from None

    def _answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        scope = self.target.scope
        try:
            scope.check_standing()
            if question["ask"] == "pace":
                left = self.target.deadline - time.monotonic()
                patience = max(0.0, min(left, self.target.step, float(question["patience"])))
                scope.wait_turn(str(ipaddress.ip_address(question["address"])), patience)
        except SocketRefused as refused:
            return {"refused": refused.detail, "reason": str(refused.reason)}
        return {}

    def _lines(self) -> Iterator[bytes]:
        assert self.process.stdout
        handle, rest, taken = self.process.stdout.fileno(), b"", 0
        with selectors.DefaultSelector() as selector:
            selector.register(handle, selectors.EVENT_READ)
            while True:
                self._await(selector)
                part = os.read(handle, 65_536)
                taken += len(part)
                if not part:
                    raise self._died()
                if taken > MOST:
                    raise _Ended("byte_budget", "the probe process said more than one run takes in")
                *lines, rest = (rest + part).split(b"\n")
                for line in lines:  # many questions may come at once, and each may take its time to answer
                    if time.monotonic() >= self._end:
                        raise self._late()
                    yield line

    @property
    def _end(self) -> float:
        return self.target.deadline + GRACE

    def _await(self, selector: selectors.BaseSelector) -> None:
        """Wait until the pipe may be used; not beyond the time box."""
        left = self._end - time.monotonic()
        if left <= 0 or not selector.select(left):
            raise self._late()

    def _late(self) -> _Ended:
        return _Ended("time_box", "the probe process was ended at the time box of this run")

    def _died(self) -> _Ended:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE)
        how = self.process.returncode
        why = f"by signal {-how}" if how is not None and how < 0 else f"with code {how}"
        return _Ended("probe_error", f"the probe process ended {why} before it had looked at everything")


def _seen(body: Mapping[str, Any]) -> Observation:
    """Read one observation, strictly: each field of its type, in bounds."""
    found = Observation.load(body)
    texts = (found.probe, found.code, found.detail, found.address, found.at, found.excerpt)
    numbers = (found.port, *found.ports)
    if not all(isinstance(text, str) and len(text) <= 8192 for text in texts):
        raise ValueError("texts are bounded")
    if len(numbers) > 65_536 or not all(type(number) is int and 0 <= number <= 65_535 for number in numbers):
        raise ValueError("ports are ports")
    return found


def _missing(target: ProbeTarget, method: str, name: str, code: str, sentence: str) -> Observation:
    if not target.allows(method):
        text = f"the engagement does not approve {method}"
        return observe(name, Outcome.NOT_AUTHORISED, "method_not_allowed", text)
    return observe(name, Outcome.ERROR, code, sentence)


def _task(
    target: ProbeTarget, paths: Iterable[Mapping[str, str]], pairs: Iterable[Mapping[str, str]]
) -> dict[str, Any]:
    scope = target.scope
    entries = [{"network": str(entry.network) if entry.network else None, "name": entry.name, "ports": sorted(entry.ports)}
               for entry in scope.entries]  # fmt: skip
    return {
        "host": target.host, "ports": target.ports, "step": target.step, "left": target.deadline - time.monotonic(),
        "octets": asdict(target.octets), "vendor": target.vendor, "try_lockout": target.try_lockout, "lockout": target.lockout,
        "scope": {"name": scope.name, "entries": entries, "methods": sorted(scope.methods), "ports": sorted(scope.ports)},
        "paths": [dict(row) for row in paths], "pairs": [dict(row) for row in pairs],
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------------- the far end


def confine() -> None:
    """Bound this process before it meets anybody: memory, CPU, files, cores; last in line for the machine; ends with its parent."""
    ctypes.CDLL(None, use_errno=True).prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    os.nice(10)
    for limit, most in (
        (resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CPU, 60), (resource.RLIMIT_NOFILE, 64), (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):  # fmt: skip
        resource.setrlimit(limit, (most, most))


def main() -> int:
    """Be the process of one run: ``lachan serve --role probe``, started by `look` and by nobody else."""
    from posture.probes.run import looked

    try:
        task = dict(json.loads(sys.stdin.readline()))
    except (ValueError, TypeError):
        print("lachan: the role probe is started by the role work, which tells it what to look at", file=sys.stderr)
        return 2
    confine()
    for observation in looked(_target(task), paths=task["paths"], pairs=task["pairs"]):
        _tell({"saw": observation.body()})
    _tell({"done": True})
    return 0


def _target(task: Mapping[str, Any]) -> ProbeTarget:
    given = task["scope"]
    entries = tuple(
        ScopeEntry(
            network=ipaddress.ip_network(entry["network"]) if entry["network"] else None,
            name=entry["name"], ports=frozenset(entry["ports"]),
        )
        for entry in given["entries"]
    )  # fmt: skip
    scope = Scope(
        name=given["name"], entries=entries, methods=frozenset(given["methods"]), ports=frozenset(given["ports"]),
        standing=lambda: _ask({"ask": "standing"}),
        pace=lambda address, patience: _ask({"ask": "pace", "address": address, "patience": patience}),
    )  # fmt: skip
    target = ProbeTarget(
        host=task["host"], scope=scope, ports=tuple(task["ports"]), step=task["step"],
        deadline=time.monotonic() + task["left"], vendor=task["vendor"], try_lockout=task["try_lockout"],
        lockout=task["lockout"],
    )  # fmt: skip
    target.octets.left = task["octets"]["left"]
    return target


def _tell(document: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def _ask(question: Mapping[str, Any]) -> None:
    _tell(question)
    answer = json.loads(sys.stdin.readline())
    if "refused" in answer:
        raise SocketRefused(answer["refused"], reason=Refusal(answer["reason"]))
