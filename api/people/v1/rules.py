"""The detection rules over HTTP: what is looked for, and where each rule stands."""

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from api.people.access import may
from api.problems import documented
from lachan.identity import Permission, Principal
from siem_rules import ruleset
from siem_rules.errors import RuleUnknown

router = APIRouter(prefix="/api/v1/rules", tags=["alerts"])
Reader = Annotated[Principal, Depends(may(Permission.RULES_READ))]


class RuleOut(BaseModel):
    """One rule or correlation."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str = Field(examples=["ssh_login_storm"])
    title: str
    description: str
    level: str = Field(examples=["medium"])
    tags: list[str]
    author: str
    file: str = Field(examples=["ssh_login.yml"])
    subject: str = Field(examples=["host.name"], description="The field that names the device.")
    outcome: str = Field(examples=["attempt"])
    alerts: bool = Field(description="Whether it alerts, or only feeds a correlation.")
    span: float = Field(description="Window in seconds.")


class Rules(BaseModel):
    """All loaded rules."""

    items: list[RuleOut]


@router.get("", summary="List the rules")
def list_rules(_caller: Reader) -> Rules:
    """Give every loaded rule; they are few, so there are no pages."""
    return Rules(items=[RuleOut.model_validate(rule) for rule in ruleset.ours().all])


@router.get("/{rule_id}", summary="Read one rule", responses=documented(404))
def read_rule(rule_id: str, _caller: Reader) -> RuleOut:
    """Give one rule by id or name."""
    found = ruleset.ours().get(rule_id)
    if found is None:
        raise RuleUnknown(f"No rule {rule_id}.")
    return RuleOut.model_validate(found)
