"""``lachan test``: the project's tests, with the counts a reader can trust.

Runs pytest over ``tests/`` on as many workers as there are processors (four at most) and lets ``tests/support/report.py`` print
how many tests ran, how many were skipped and why, and fail the run where a skip breaks the house rules.

By default the long ones stay out (marks ``slow`` and ``fault``); ``--all`` takes them in, ``-m`` chooses otherwise: only so
come those marked ``soak``, which take a machine for themselves. Every other argument goes to pytest.

Limits: needs a checkout; a wheel carries no tests.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

from lachan.launch.environment import ROOT

DEFAULT_MARKS = "not slow and not fault and not soak"
ALL_MARKS = "not soak"

USAGE = """\
usage: lachan test [--all] [pytest arguments]

Run the project's tests and print how many ran, how many were skipped, and why.

  --all    also those that take long or kill processes (marks `slow` and `fault`)

examples:
  python3 -m lachan test
  python3 -m lachan test tests/pki -k renew
"""


def main(argv: list[str]) -> int:
    """Become pytest.

    Args:
        argv: what follows ``lachan test``.

    Returns:
        0 for ``--help``; 69 when there are no tests or no test tools here. Otherwise this process turns into pytest, whose exit
        status it then has (1: a test failed or a skip was not allowed).
    """
    if argv[:1] in (["-h"], ["--help"]):
        print(USAGE, end="")
        return 0
    if not (ROOT / "tests").is_dir():
        print("lachan: the tests are not here (a wheel carries none); run this in a checkout.", file=sys.stderr)
        return 69
    if find_spec("pytest") is None or find_spec("xdist") is None:
        print(
            "lachan: the test tools are missing; `python3 -m lachan test` in the checkout fetches them.",
            file=sys.stderr,
        )
        return 69
    os.chdir(ROOT)
    command = [sys.executable, "-m", "pytest", *arguments(argv)]
    sys.stdout.flush()
    os.execv(sys.executable, command)  # noqa: S606 - no shell is wanted


def arguments(argv: list[str]) -> list[str]:
    """Complete the arguments for pytest: our report, the workers and the marks, unless the caller chose their own."""
    given = [argument for argument in argv if argument != "--all"]
    mine = ["-p", "tests.support.report"]
    if not any(argument.startswith(("-n", "--numprocesses")) for argument in given):
        mine += ["-n", str(min(4, len(os.sched_getaffinity(0)))), "--dist", "worksteal"]
    if not any(argument == "-m" or argument.startswith("-m=") for argument in given):
        mine += ["-m", ALL_MARKS if "--all" in argv else DEFAULT_MARKS]
    return mine + given
