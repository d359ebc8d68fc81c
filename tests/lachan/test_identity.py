"""Tokens, links and sessions: shown once, hashed, expiring; approvals need a person's session."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from lachan import clock
from lachan.errors import Forbidden
from lachan.identity import PERSON_ONLY, Permission, Role, people, require, system, tokens
from lachan.identity.errors import BadCsrf, BadLink, BadRoles, BadToken, NoSession
from lachan.identity.models import sessions, sign_in_links
from lachan.identity.models import tokens as token_table
from lachan.identity.principal import PersonNeeded
from lachan.runtime import Runtime
from tests.conftest import person

DAY = timedelta(days=1)


def make(rt: Runtime, **kwargs: object) -> str:
    fields: dict[str, object] = {"name": "t", "roles": [Role.ANALYST], "actor": system("t"), "valid": DAY, **kwargs}
    with rt.db.write() as c:
        return tokens.issue(c, rt.settings.data, **fields)  # type: ignore[arg-type]


def test_a_token_is_known_until_it_expires_or_is_revoked(rt: Runtime) -> None:
    text = make(rt)
    with rt.db.read() as c:
        found = tokens.verify(c, rt.settings.data, text)
        assert found.roles == {Role.ANALYST}
        assert tokens.verify(c, rt.settings.data, tokens.from_header(f"ApiKey {tokens.api_key(text)}")) == found
        with clock.travel(DAY), pytest.raises(BadToken):
            tokens.verify(c, rt.settings.data, text)
    with rt.db.write() as c:
        tokens.revoke(c, found.id, actor=system("t"))
        with pytest.raises(BadToken):
            tokens.verify(c, rt.settings.data, text)


def test_a_token_is_not_stored_and_a_typo_is_refused_without_a_query(rt: Runtime) -> None:
    text = make(rt)
    with rt.db.read() as c:
        row = c.execute(sa.select(token_table)).mappings().one()
    assert text.split("_")[2] not in str(dict(row))
    with pytest.raises(BadToken, match="mistyped"):
        tokens.parse(text[:-1] + ("0" if text[-1] != "0" else "1"))


@pytest.mark.parametrize(
    "fields",
    [{"roles": []}, {"roles": [Role.APPROVER]}, {"roles": [Role.MANUFACTURER]}, {"roles": [Role.COLLECTOR]}],
)
def test_roles_that_do_not_fit_are_refused(rt: Runtime, fields: dict[str, object]) -> None:
    with pytest.raises(BadRoles):
        make(rt, **fields)


def test_a_link_works_once_and_for_fifteen_minutes(rt: Runtime) -> None:
    data = rt.settings.data
    with rt.db.write() as c:
        people.add(c, name="an", roles=[Role.APPROVER], actor=system("t"))
        late = people.make_link(c, data, name="an", actor=system("t"))
        with clock.travel(people.LINK_LIFE), pytest.raises(BadLink):
            people.sign_in(c, data, late)
        link = people.make_link(c, data, name="an", actor=system("t"))
        with pytest.raises(BadLink):
            people.sign_in(c, data, late)  # a newer link ends the older
        session = people.sign_in(c, data, link)
        with pytest.raises(BadLink):
            people.sign_in(c, data, link)
        principal, csrf = people.session(c, data, session.secret)
        assert principal.may(Permission.RUNS_APPROVE)
        assert session.secret not in str(c.execute(sa.select(sessions)).mappings().one())
        assert link not in str(c.execute(sa.select(sign_in_links)).mappings().all())
    people.check_csrf(csrf, csrf)
    for wrong in (None, "", "x"):
        with pytest.raises(BadCsrf):
            people.check_csrf(csrf, wrong)


def test_what_a_clock_that_was_ahead_made_lasts_no_longer(rt: Runtime) -> None:
    data = rt.settings.data
    with rt.db.write() as c:
        people.add(c, name="an", roles=[Role.APPROVER], actor=system("t"))
        with clock.travel(36 * DAY):
            made = people.sign_in(c, data, people.make_link(c, data, name="an", actor=system("t")))
            link = people.make_link(c, data, name="an", actor=system("t"))
        with pytest.raises(NoSession):
            people.session(c, data, made.secret)
        for look in (people.check_link, people.sign_in):
            with pytest.raises(BadLink):
                look(c, data, link)


def test_a_session_ends_by_sign_out_by_age_and_by_idling(rt: Runtime) -> None:
    data = rt.settings.data
    with rt.db.write() as c:
        people.add(c, name="an", roles=[Role.APPROVER], actor=system("t"))
        made = people.sign_in(c, data, people.make_link(c, data, name="an", actor=system("t")))
        for later in (people.SESSION_IDLE, people.SESSION_LIFE):
            with clock.travel(later), pytest.raises(NoSession):
                people.session(c, data, made.secret)
        people.sign_out(c, made.principal)
        with pytest.raises(NoSession):
            people.session(c, data, made.secret)


@pytest.mark.parametrize("permission", sorted(PERSON_ONLY))
def test_approvals_need_a_persons_session(permission: Permission) -> None:
    require(person("an", Role.APPROVER), permission)
    with pytest.raises(PersonNeeded):
        require(person("an", Role.APPROVER, session=None), permission)
    with pytest.raises(Forbidden):
        require(system("worker"), permission)
    with pytest.raises(Forbidden):
        require(person("ad", Role.ADMIN), permission)
