"""The plan in CONTRIBUTING.md is the one that the imports draw."""

from tests.house import plan


def test_the_plan_drawn_from_imports_is_the_plan_in_contributing() -> None:
    found = plan.FENCE.search(plan.FILE.read_text(encoding="utf-8"))
    assert found is not None
    assert found[0] == plan.draw(), "run: .venv/bin/python -m tests.house.plan"
