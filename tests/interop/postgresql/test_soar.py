"""Runs, guards, budgets, crashes and the reconciler on PostgreSQL (Must show 8 and 9)."""

from tests.soar_playbooks.conftest import peer, town, web  # noqa: F401
from tests.soar_playbooks.test_crash import *  # noqa: F403
from tests.soar_playbooks.test_guards import *  # noqa: F403
from tests.soar_playbooks.test_http import *  # noqa: F403
from tests.soar_playbooks.test_joining import *  # noqa: F403
from tests.soar_playbooks.test_journal import *  # noqa: F403
from tests.soar_playbooks.test_judged_again import *  # noqa: F403
from tests.soar_playbooks.test_looking import *  # noqa: F403
from tests.soar_playbooks.test_race import *  # noqa: F403
from tests.soar_playbooks.test_receivers import *  # noqa: F403
from tests.soar_playbooks.test_reconciler import *  # noqa: F403
from tests.soar_playbooks.test_spine import *  # noqa: F403
from tests.soar_playbooks.test_undo import *  # noqa: F403
