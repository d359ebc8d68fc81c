"""Tokens for machines: list, issue (shown once), revoke."""

from datetime import datetime, timedelta
from typing import Annotated

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, ConfigDict, Field

from api.fields import Whole
from api.pages import Page, Wanted, wanted
from api.people.access import may, runtime
from api.problems import documented
from lachan.foreign import ONE_LINE
from lachan.identity import Permission, Principal, Role, tokens
from lachan.identity import models as tables
from lachan.runtime import Runtime

router = APIRouter(prefix="/api/v1/tokens", tags=["access"])
Admin = Annotated[Principal, Depends(may(Permission.TOKENS_WRITE))]
Open = Annotated[Runtime, Depends(runtime)]


class NewToken(BaseModel):
    """What a token shall be good for."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=63, pattern=f"^{ONE_LINE}+$", examples=["ward-12-collector"])
    roles: list[Role] = Field(min_length=1, max_length=8, examples=[["collector"]])
    days: Whole = Field(ge=1, le=366, description="Days until it expires.")
    vendor: str | None = Field(None, max_length=100, description="A manufacturer's vendor.")
    site: str | None = Field(None, max_length=100, description="A collector's site.")


class IssuedToken(BaseModel):
    """A new token."""

    id: str
    token: str = Field(description="Shown this once.", examples=["lachan_0192…_…_1a2b3c4d"])
    api_key: str = Field(description="The same for `Authorization: ApiKey …`.")


class TokenOut(BaseModel):
    """A token, without its secret."""

    id: str
    name: str
    roles: list[Role]
    vendor: str | None
    site: str | None
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None


@router.get("", summary="List tokens")
def list_tokens(caller: Admin, rt: Open, page: Annotated[Wanted, Depends(wanted)]) -> Page[TokenOut]:
    """List all tokens, oldest first; their secrets are not kept."""
    (after,) = page.key(str) or ("",)
    columns = [tables.tokens.c[name] for name in TokenOut.model_fields]
    query = sa.select(*columns).where(tables.tokens.c.id > after).order_by(tables.tokens.c.id).limit(page.limit + 1)
    with rt.db.read() as connection:
        rows = connection.execute(query).mappings().all()
    return page.page(rows, key=lambda row: (row["id"],), show=lambda row: TokenOut.model_validate(dict(row)))


@router.post("", summary="Issue a token", status_code=201)
def issue_token(body: NewToken, caller: Admin, rt: Open, response: Response) -> IssuedToken:
    """Make a token; the answer shows it for the only time."""
    text = rt.db.run(
        lambda connection: tokens.issue(
            connection,
            rt.settings.data,
            name=body.name,
            roles=body.roles,
            actor=caller,
            valid=timedelta(days=body.days),
            vendor=body.vendor,
            site=body.site,
        )
    )
    response.headers["Cache-Control"] = "no-store"
    return IssuedToken(id=tokens.parse(text)[0], token=text, api_key=tokens.api_key(text))


@router.delete("/{token_id}", summary="Revoke a token", status_code=204, responses=documented(404))
def revoke_token(token_id: str, caller: Admin, rt: Open) -> None:
    """End a token now; the next request with it is refused."""
    rt.db.run(lambda connection: tokens.revoke(connection, token_id, actor=caller))
