"""``python3 -m lachan``: make this checkout ready, then run the command line.

1. In a checkout (a ``requirements.lock`` lies beside the package) and outside its ``.venv``: see that ``.venv`` is what the
   lock asks for, making or repairing it where it is not (:mod:`lachan.launch.bootstrap`), then start again inside it.
2. Inside ``.venv``, or installed as a wheel: see that ``api``, ``pki`` and their neighbours are ours, then run the command line.

Only the standard library is imported until step 2 is reached, and this file and :mod:`lachan.launch` must at least compile
on old Pythons, so that those get a sentence too instead of a syntax error.
"""

from __future__ import annotations

import os
import sys

if not __package__:  # started as a file or a folder (`python3 lachan`): stand where `-m lachan` would
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def main() -> int:
    """Make ready, then run the command line.

    Returns:
        The exit status of the command; :data:`lachan.launch.environment.UNAVAILABLE` (69) when the environment could not be made.
    """
    from lachan.launch import bootstrap
    from lachan.launch.environment import UNAVAILABLE, CannotStart

    try:
        bootstrap.ensure(sys.argv[1:])
        bootstrap.check_names()
    except CannotStart as problem:
        print(f"lachan: {problem}", file=sys.stderr)
        return UNAVAILABLE
    except KeyboardInterrupt:
        print("\nlachan: stopped; the next start goes on from here.", file=sys.stderr)
        return 130
    from lachan.program.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
