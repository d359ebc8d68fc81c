"""Publishing processes that kill themselves at a counted step: ``python -m tests.ota_signing.killed DATA URL SOCKET``.

Each line of standard input, ``RELEASE STEP``, forks one life: signer and publisher, which ends as ``kill -9`` does before the
step of that number (from 1). Steps are found by code: before and after every file that is written for the repository, by the signer or
in public, and before and after every commit. The answer is the life's exit status: -9, or 0 if there are fewer steps.
"""

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lachan import blobs
from lachan.database import Database
from lachan.runtime import Runtime
from lachan.settings import Settings
from lachan.signer.server import SignerServer
from ota_signing import memory, service
from tests.ota_signing.conftest import PLATFORM


class Lives:
    """The test's side: starts the program and asks it for lives."""

    def __init__(self, settings: Settings) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "tests.ota_signing.killed", str(settings.data)]
        command += [settings.database_url, str(settings.signer_socket)]
        root = Path(__file__).parents[2]
        self.process = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def live(self, release_id: str, step: int) -> int:
        """Run one life; gives its exit status."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{release_id} {step}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def close(self) -> None:
        """End the program."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait(timeout=10)
        self.process.stdout.close()


def life(settings: Settings, release_id: str, fatal: int) -> None:
    """Publish, and die at a step."""
    steps = 0

    def around(real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **more: Any) -> Any:
            step()
            found = real(*arguments, **more)
            step()
            return found

        return counted

    def step() -> None:
        nonlocal steps
        steps += 1
        if steps == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    rt = Runtime.open(settings)
    server = SignerServer(settings, rt.db)
    server.start()
    memory.write_atomically = around(memory.write_atomically)  # type: ignore[assignment]
    blobs.write_atomically = around(blobs.write_atomically)  # type: ignore[assignment]
    Database.run = around(Database.run)  # type: ignore[method-assign]
    service.publish(rt, PLATFORM, release_id)


def main(data: str, url: str, socket: str) -> None:
    """Read orders until there are no more."""
    settings = Settings.load(data, database_url=url, signer_socket=Path(socket))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the lives print is not an answer
    for line in sys.stdin:
        release_id, fatal = line.split()
        child = os.fork()
        if child == 0:
            try:
                life(settings, release_id, int(fatal))
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        answers.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
