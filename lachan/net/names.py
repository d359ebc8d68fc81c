"""Names are resolved within a deadline: the system's resolver has none, and a server that says nothing costs it minutes.

Each look-up under way has a thread of its own, which nobody waits for longer than he wants; who asks for a name that is being
looked up already waits for the same answer. So a name whose servers are silent holds one thread, however often it is asked
for, and at most `MOST` names are looked up at a time.
"""

from __future__ import annotations

import ipaddress
import socket
import threading

MOST = 32
WITHIN = 5.0  # seconds


class _LookUp:
    """One look-up: its answer, once there is one."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.addresses: list[str] = []
        self.error: OSError | None = None


_lock = threading.Lock()
_under_way: dict[str, _LookUp] = {}


def resolve(name: str, *, within: float | None = None) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Give the first address of a name (RFC 6724's order, as the system has it).

    Args:
        name: a host name.
        within: seconds that the caller waits; `WITHIN` by default.

    Raises:
        OSError: nobody knows the name; TimeoutError: no answer came in time, or too many names are waited for.
    """
    within = WITHIN if within is None else within
    with _lock:
        found = _under_way.get(name)
        if found is None:
            if len(_under_way) >= MOST:
                raise TimeoutError(f"{MOST} other names are being looked up")
            found = _under_way[name] = _LookUp()
            try:
                threading.Thread(target=_look_up, args=(name, found), daemon=True).start()
            except RuntimeError as error:  # no room for a thread: the name is not under way, and may be asked for again
                del _under_way[name]
                raise OSError(str(error)) from error
    if not found.done.wait(within):
        raise TimeoutError(f"no name server told the address of {name} within {within:g} s")
    if found.error is not None:
        raise found.error
    return ipaddress.ip_address(found.addresses[0].partition("%")[0])


def _look_up(name: str, found: _LookUp) -> None:
    try:
        found.addresses = [str(one[4][0]) for one in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]
        if not found.addresses:
            raise OSError(f"{name} has no address")
    except OSError as error:
        found.error = error
    except UnicodeError as error:  # a label that IDNA does not know
        found.error = OSError(str(error))
    finally:
        with _lock:
            del _under_way[name]
        found.done.set()
