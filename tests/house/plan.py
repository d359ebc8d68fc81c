"""Draws the plan of the house from its imports: ``.venv/bin/python -m tests.house.plan`` rewrites it in CONTRIBUTING.md."""

import re
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[2]
FILE = ROOT / "CONTRIBUTING.md"
PACKAGES = ("lachan", "api", "pki", "ota_signing", "siem_rules", "soar_playbooks", "posture")
HANDED = {"lachan.runtime", "lachan.wiring"}  # everybody's; they would stand on every line and say nothing
FENCE = re.compile(r"(?<=```plan\n).*?(?=```)", re.DOTALL)


def rooms() -> dict[str, set[str]]:
    """Each room (a package, or a file on a package's floor) and the rooms that it imports, command lines left out."""
    graph = grimp.build_graph(*PACKAGES, include_external_packages=False)
    domains = {package for package in PACKAGES if package != "lachan"}
    names = sorted(domains | {name for name in graph.find_children("lachan") if name != "lachan.__main__"})
    found: dict[str, set[str]] = {}
    for name in names:
        inside = {name, *graph.find_descendants(name)} - {f"{name}.cli"}
        reached = set().union(*(graph.find_modules_directly_imported_by(module) for module in inside))
        homes = {other for other in names for module in reached if module == other or module.startswith(f"{other}.")}
        found[name] = homes - {name} - HANDED
    return found


def draw() -> str:
    """The plan: floors from the ground up; on each line a room and what it needs directly of the floor below or deeper."""
    needs, floors, done = rooms(), [], set()
    while len(done) < len(needs):
        floor = sorted(name for name in needs if name not in done and needs[name] <= done)
        if not floor:
            raise SystemExit(f"a circle among {sorted(set(needs) - done)}")
        floors.append(floor)
        done |= set(floor)
    below = {name: set().union(needs[name], *(needs[other] for other in needs[name])) for name in needs}
    for name in done:
        while (wider := below[name].union(*(below[other] for other in below[name]))) != below[name]:
            below[name] = wider
    lines = []
    for number, floor in enumerate(floors):
        for name in floor:
            direct = sorted(o for o in needs[name] if not any(o in below[other] for other in needs[name] if other != o))
            lines.append(f"{number}  {name}" + (f" ← {', '.join(direct)}" if direct else ""))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    FILE.write_text(FENCE.sub(draw(), FILE.read_text(encoding="utf-8"), count=1), encoding="utf-8")
