"""People: list, add, and make their one-time sign-in links."""

from datetime import datetime
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, ConfigDict, Field

from api.pages import Page, Wanted, wanted
from api.people.access import may, runtime
from api.problems import documented
from lachan.identity import Permission, Principal, Role, people
from lachan.identity import models as tables
from lachan.identity.people import link_url
from lachan.runtime import Runtime

router = APIRouter(prefix="/api/v1/users", tags=["access"])
Admin = Annotated[Principal, Depends(may(Permission.USERS_WRITE))]
Open = Annotated[Runtime, Depends(runtime)]


class NewUser(BaseModel):
    """Somebody who shall be able to sign in."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9._-]{0,62}$", examples=["an"])
    roles: list[Role] = Field(min_length=1, max_length=8, examples=[["analyst"]])
    vendor: str | None = Field(None, max_length=100, description="A manufacturer's vendor.")


class UserOut(BaseModel):
    """Somebody who can sign in."""

    id: str
    name: str
    roles: list[Role]
    vendor: str | None
    active: bool
    created_at: datetime


class Link(BaseModel):
    """A one-time sign-in link."""

    url: str = Field(description="Works once, for 15 minutes; the token stands behind the `#`.")


@router.get("", summary="List people")
def list_users(caller: Admin, rt: Open, page: Annotated[Wanted, Depends(wanted)]) -> Page[UserOut]:
    """List people by name."""
    (after,) = page.key(str) or ("",)
    columns = [tables.people.c[name] for name in UserOut.model_fields]
    query = sa.select(*columns).where(tables.people.c.name > after).order_by(tables.people.c.name).limit(page.limit + 1)
    with rt.db.read() as connection:
        rows = connection.execute(query).mappings().all()
    return page.page(rows, key=lambda row: (row["name"],), show=lambda row: UserOut.model_validate(dict(row)))


@router.post("", summary="Add a person", status_code=201, responses=documented(409))
def add_user(body: NewUser, caller: Admin, rt: Open) -> UserOut:
    """Add a person; they sign in with a link of their own."""

    def unit(connection: sa.Connection) -> dict[str, Any]:
        person_id = people.add(connection, name=body.name, roles=body.roles, actor=caller, vendor=body.vendor)
        row = connection.execute(sa.select(tables.people).where(tables.people.c.id == person_id)).mappings().one()
        return dict(row)

    return UserOut.model_validate(rt.db.run(unit))


@router.post("/{name}/link", summary="Make a sign-in link", status_code=201, responses=documented(404))
def make_sign_in_link(name: str, caller: Admin, rt: Open, response: Response) -> Link:
    """Make a person's one-time link; earlier unused ones stop working."""
    token = rt.db.run(lambda connection: people.make_link(connection, rt.settings.data, name=name, actor=caller))
    response.headers["Cache-Control"] = "no-store"
    return Link(url=link_url(rt.settings, token))
