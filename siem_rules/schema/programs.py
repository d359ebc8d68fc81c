"""What the programs on small devices say: their own words as ECS fields.

One function per program, chosen by ``process.name``; each adds fields and never overwrites what the sender stated. The
words were taken from the daemons' sources and from lines they really wrote (`lachan/demo/recording`). Each pattern is linear in the
line: what once matched is not tried otherwise (atomic groups), and tests/house/test_patterns.py feeds each hostile lines.
"""

import re
from collections.abc import Callable
from typing import Any

_FROM = r"(?: from <?(?P<ip>[0-9a-fA-F.:]+?):(?P<port>\d{1,5})>?)?"
_DROPBEAR_OK = re.compile(
    r"(?P<how>Password|Pubkey|PAM password) auth succeeded for (?>'(?P<user>.*)').*?" + _FROM + "$"
)
_DROPBEAR_BAD = re.compile(r"Bad (?:PAM )?password attempt for '(?P<user>.*)'" + _FROM + "$")
_DROPBEAR_EXIT = re.compile(
    r"Exit before auth" + _FROM + r":(?> \(user '(?P<user>.*)', (?P<fails>\d+) fails\): | )(?P<why>.*)$"
)
_DROPBEAR_CHILD = re.compile(r"Child connection" + _FROM + "$")
_LOGIN_BAD = re.compile(
    r"(?:invalid password for|FAILED LOGIN .{0,300}? FOR) '?(?P<user>[^' ,]*)'?(?: on '(?P<tty>[^']*)')?(?: from '?(?P<ip>[^' ]+)'?)?"
)
_LOGIN_OK = re.compile(r"(?P<user>root|\S+) login on '(?P<tty>[^']*)'(?: from '(?P<ip>[^']+)')?")
_TELNETD = re.compile(r"connect from (?P<ip>[0-9a-fA-F.:]+)")
_APPLET = re.compile(r"(?P<applet>[A-Za-z0-9]{3,16}): applet not found$")
_URL = re.compile(
    r"(?P<url>(?:https?|ftp|tftp)://(?P<host>\[[0-9a-fA-F:]+\]|[^/\s:'\"]+)(?::\d+)?(?P<path>/[^\s'\";|&]*)?)"
)


def enrich(fields: dict[str, Any], text: str) -> None:
    """Add what the line's program says; programs without a reader leave the line as it is."""
    name = fields.get("process.name")
    reader = None
    if isinstance(name, str):  # as it stands, as a rule
        reader = _READERS.get(name) or _READERS.get(name.rpartition("/")[2].lower())
    if reader is not None:
        for key, value in reader(text[:1024]).items():
            if value is not None:
                fields.setdefault(key, value)


def _login(outcome: str, user: str | None, ip: str | None, port: str | None = None) -> dict[str, Any]:
    return {
        "lachan.category": "authentication", "event.category": "authentication", "event.outcome": outcome,
        "user.name": user, "source.ip": ip, "source.port": int(port) if port else None,
    }  # fmt: skip


def _dropbear(text: str) -> dict[str, Any]:
    base = {"lachan.product": "linux", "lachan.service": "dropbear"}
    if found := _DROPBEAR_BAD.match(text):
        return base | _login("failure", found["user"], found["ip"], found["port"]) | {"event.action": "ssh-login"}
    if found := _DROPBEAR_OK.match(text):
        return base | _login("success", found["user"], found["ip"], found["port"]) | {"event.action": "ssh-login"}
    if text.startswith("Login attempt for nonexistent user"):
        return base | _login("failure", None, None) | {"event.action": "ssh-login"}
    if found := _DROPBEAR_EXIT.match(text):
        return base | {
            "event.action": "ssh-exit-before-auth", "user.name": found["user"], "source.ip": found["ip"], "event.reason": found["why"],
        }  # fmt: skip
    if found := _DROPBEAR_CHILD.match(text):
        return base | {
            "event.action": "ssh-connection",
            "source.ip": found["ip"],
            "source.port": int(found["port"] or 0),
        }
    return base


def _busybox_login(text: str) -> dict[str, Any]:
    base = {"lachan.product": "linux", "lachan.service": "login"}
    if found := _LOGIN_BAD.search(text):
        return base | _login("failure", found["user"], found["ip"]) | {"event.action": "console-login"}
    if found := _LOGIN_OK.match(text):
        return base | _login("success", found["user"], found["ip"]) | {"event.action": "console-login"}
    return base


def _telnetd(text: str) -> dict[str, Any]:
    found = _TELNETD.search(text)
    return {
        "lachan.product": "linux", "lachan.service": "telnetd", "event.action": "telnet-connection" if found else None,
        "source.ip": found["ip"] if found else None,
    }  # fmt: skip


def _shell(text: str) -> dict[str, Any]:
    """Read a shell's own trace (``set -x``): a line that begins with ``+`` is a command that ran."""
    base: dict[str, Any] = {"lachan.product": "linux", "lachan.service": "sh"}
    if found := _APPLET.match(text):
        return base | {"event.action": "applet-not-found", "process.args": [found["applet"]]}
    command = text.lstrip("+")
    if command == text or not command.startswith(" "):
        return base
    command = command.strip()
    words = command.split()
    fields = base | {
        "lachan.category": "process_creation", "event.category": "process", "event.action": "exec",
        "process.command_line": command, "process.executable": words[0] if words else None,
    }  # fmt: skip
    if url := _URL.search(command):
        fields |= {"url.full": url["url"], "url.domain": url["host"].strip("[]"), "url.path": url["path"]}
    return fields


def _kernel(_text: str) -> dict[str, Any]:
    return {"lachan.product": "linux", "lachan.service": "kernel"}


_READERS: dict[str, Callable[[str], dict[str, Any]]] = {
    "dropbear": _dropbear, "login": _busybox_login, "telnetd": _telnetd, "in.telnetd": _telnetd, "utelnetd": _telnetd,
    "sh": _shell, "ash": _shell, "busybox": _shell, "kernel": _kernel,
}  # fmt: skip
