"""The command line: a table of sub-commands as ``module:function`` strings, imported when called.

``python3 -m lachan NOUN …``; every noun's own ``--help`` tells its verbs.
"""

import sys
from importlib import import_module

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("lachan.demo.main:main", "walk the whole loop on this machine"),
    "test": ("lachan.launch.testcmd:main", "run the tests"),
    "init": ("lachan.program.init:main", "make an installation: authority, signer, ledger, first admin link"),
    "serve": ("lachan.program.serve:main", "start all roles, or one"),
    "doctor": ("lachan.program.doctor:main", "look whether everything that is needed is there"),
    "user": ("lachan.identity.cli:user", "add people, make their sign-in links"),
    "token": ("lachan.identity.cli:token", "make and revoke API tokens"),
    "device": ("lachan.devices.cli:main", "the registry: add, import, show, criticality"),
    "trust": ("lachan.devices.cli:trust", "the decision for a device, with its reasons"),
    "pki": ("pki.cli:main", "authorities, one-time secrets, certificates"),
    "door": ("api.cli:main", "manufacturers' authorities that the device door believes"),
    "ota": ("ota_signing.cli:main", "firmware: artifacts and releases"),
    "logs": ("siem_rules.cli:logs", "send and read log lines"),
    "rules": ("siem_rules.cli:rules", "detection rules"),
    "alerts": ("siem_rules.cli:alerts", "alerts and why they were raised"),
    "playbooks": ("soar_playbooks.cli:playbooks", "sign, load, list playbooks; propose or enforce"),
    "runs": ("soar_playbooks.cli:runs", "playbook runs, step by step"),
    "contain": ("soar_playbooks.cli:contain", "contain a device; the kill switch"),
    "release": ("soar_playbooks.cli:release", "what waits for release, and who agreed"),
    "engagement": ("posture.cli:engagement", "permission to probe: request, list, stop"),
    "posture": ("posture.cli:posture", "criteria, assessments, verdicts"),
    "jobs": ("lachan.program.jobs:main", "due work: what waits, what was given up; retry"),
    "ledger": ("lachan.ledger.cli:main", "export and verify the evidence"),
}


def usage() -> str:
    """Give the overview that ``lachan --help`` prints (README shows the same)."""
    lines = ["usage: python3 -m lachan COMMAND …", ""]
    lines += [f"  {name:<11} {about}" for name, (_, about) in COMMANDS.items()]
    return "\n".join(
        [*lines, "", "`python3 -m lachan COMMAND --help` tells more; each command knows --data DIR and --json."]
    )


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code (docs/cli.md)."""
    from lachan.cliutil import USAGE, guarded

    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in {"-h", "--help", "help"}:
        print(usage())
        return 0 if words else USAGE
    if words[0] not in COMMANDS:
        print(f"lachan: there is no command {words[0]!r}; `python3 -m lachan --help` lists them.", file=sys.stderr)
        return USAGE
    module, _, function = COMMANDS[words[0]][0].partition(":")
    command = getattr(import_module(module), function)
    return guarded(lambda: int(command(words[1:])), as_json="--json" in words)
