"""A program that issues, or signs, until a given boundary and ends there as ``kill -9`` does; one line of JSON a try.

Each try is a fork that opens everything by itself, so the imports are paid once. Roles: ``door`` (enrols on an event loop, as
the device door does, writer included) and ``signer``. Prints ``ready`` when a signer listens, and the exit status of each.
"""

import asyncio
import base64
import json
import os
import signal
import sys
import threading
from enum import StrEnum
from pathlib import Path

from lachan import wiring
from lachan.database import Database
from lachan.runtime import Runtime
from lachan.settings import Settings
from lachan.signer.link import SignerLink
from lachan.signer.server import SignerServer
from pki import service


def cut_at(boundary: str) -> "object":
    def reached(here: StrEnum) -> None:
        if here == boundary:
            os.kill(os.getpid(), signal.SIGKILL)

    return reached


def door(settings: Settings, task: dict) -> None:
    found = wiring.load()
    found.import_tables()
    rt = Runtime(settings, Database(settings.url), found, cut_at(task["boundary"]))  # type: ignore[arg-type]

    async def enrol() -> None:
        steps = service.OnLoop(rt, SignerLink(settings.signer_path))
        await service.enrolling(
            rt,
            steps,
            device_name=task["name"],
            secret=task["secret"],
            csr_der=base64.b64decode(task["csr"]),
            source="::1",
        )

    asyncio.run(enrol())


def signer(settings: Settings, task: dict) -> None:
    wiring.load().import_tables()
    server = SignerServer(settings, Database(settings.url), reached=cut_at(task["boundary"]))  # type: ignore[arg-type]
    server.start()
    print("ready", flush=True)
    threading.Event().wait()


def main() -> None:
    data, socket, url = sys.argv[1:]
    settings = Settings.load(data, signer_socket=Path(socket), database_url=url)
    for line in sys.stdin:
        task = json.loads(line)
        pid = os.fork()
        if pid == 0:
            try:
                {"door": door, "signer": signer}[task["role"]](settings, task)
            finally:
                os._exit(3)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
