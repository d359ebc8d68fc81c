"""A pytest plugin: the counts at the end, and the house rules for skipping.

Loaded by ``lachan test`` (``-p tests.support.report``). It prints ``run N`` and ``skipped N`` with every reason, and fails a run
that passed but broke a rule:

* a skip says what is missing and how to have it (`tests.support.need`), or it fails the run;
* under ``CI=true`` nothing is skipped.

With ``LACHAN_TEST_COUNTS=FILE`` it also appends one JSON line to that file (``.ci/run`` adds them up).
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path

import pytest

NEEDS = re.compile(r"needs [^:]+: \S")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # xdist's workers report to the controller
        config.pluginmanager.register(Report(config), "lachan-report")


class Report:
    """Counts outcomes by test, so that a module collected by four workers still counts once."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.run: set[str] = set()
        self.skipped: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            self.skipped[report.nodeid] = reason(report)
        elif report.when == "call" or report.failed:
            self.run.add(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self.skipped[report.nodeid] = reason(report)

    def broken(self) -> list[str]:
        """Which house rules this run breaks, as sentences."""
        found = []
        wrong = sorted(test for test, why in self.skipped.items() if not NEEDS.match(why))
        if wrong:
            found.append(f"who skips says what to install, but these did not: {', '.join(wrong)}")
        if self.skipped and os.environ.get("CI") == "true":
            found.append(f"CI=true, so nothing may be skipped, but {len(self.skipped)} were; install what they name")
        return found

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if session.exitstatus == pytest.ExitCode.OK and self.broken():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        target = os.environ.get("LACHAN_TEST_COUNTS")
        if target:
            line = json.dumps({"run": len(self.run), "skipped": len(self.skipped), "status": int(session.exitstatus)})
            with Path(target).open("a") as file:
                file.write(line + "\n")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        total = len(self.run | set(self.skipped))
        share = f" ({len(self.skipped) / total:.1%})" if self.skipped else ""
        terminalreporter.section("lachan")
        terminalreporter.line(f"run {len(self.run)}   skipped {len(self.skipped)}{share}")
        for text, count in sorted(Counter(self.skipped.values()).items()):
            terminalreporter.line(f"  {count:>4} × {text}")
        for sentence in self.broken():
            terminalreporter.line(f"NOT ALLOWED: {sentence}.", red=True)


def reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The sentence a skip gave."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ").strip() or "no reason given"
