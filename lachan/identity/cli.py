"""``lachan user`` and ``lachan token``."""

from datetime import timedelta

import sqlalchemy as sa

from lachan import cliutil
from lachan.identity import Role, people, tokens
from lachan.identity.models import people as people_table
from lachan.identity.models import tokens as tokens_table
from lachan.identity.people import link_url


def user(argv: list[str]) -> int:
    """``lachan user add|link|list``."""
    parser = cliutil.parser("user", "People: there are no passwords, everybody signs in by a link of their own.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    add = verbs.add_parser("add", help="add a person and print their sign-in link (once, 15 minutes)")
    add.add_argument("name")
    add.add_argument("--role", action="append", required=True, choices=sorted(people.HUMAN_ROLES))
    add.add_argument("--vendor", help="a manufacturer's only vendor")
    link = verbs.add_parser("link", help="print a new sign-in link")
    link.add_argument("name")
    listing = verbs.add_parser("list", help="who there is")
    for sub in (add, link, listing):
        cliutil.common(sub, suppress=True)
    args = parser.parse_args(argv)
    with cliutil.opened(args.data) as rt:
        if args.verb == "list":
            with rt.db.read() as connection:
                rows = connection.execute(sa.select(people_table).order_by(people_table.c.name)).mappings().all()
            found = [{"name": r["name"], "roles": ", ".join(r["roles"]), "vendor": r["vendor"]} for r in rows]
            cliutil.show(found, as_json=args.json)
            return cliutil.OK
        with rt.db.write() as connection:
            actor = cliutil.operator()
            if args.verb == "add":
                roles = [Role(role) for role in args.role]
                people.add(connection, name=args.name, roles=roles, vendor=args.vendor, actor=actor)
            token = people.make_link(connection, rt.settings.data, name=args.name, actor=actor)
        url = link_url(rt.settings, token)
        cliutil.show({"user": args.name, "link": url}, as_json=args.json, text=url)
    return cliutil.OK


def token(argv: list[str]) -> int:
    """``lachan token add|revoke|list``."""
    parser = cliutil.parser("token", "API tokens for machines; each expires, none can approve.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    add = verbs.add_parser("add", help="make a token and print it (once)")
    add.add_argument("name")
    add.add_argument("--role", action="append", required=True, choices=sorted(tokens.MACHINE_ROLES))
    add.add_argument("--vendor", help="a manufacturer's only vendor")
    add.add_argument("--site", help="a collector's only site")
    add.add_argument("--days", type=int, default=90, help="how long it is good (default 90)")
    revoke = verbs.add_parser("revoke", help="end a token now")
    revoke.add_argument("id")
    listing = verbs.add_parser("list", help="the tokens there are, without their secrets")
    for sub in (add, revoke, listing):
        cliutil.common(sub, suppress=True)
    args = parser.parse_args(argv)
    with cliutil.opened(args.data) as rt:
        if args.verb == "add":
            with rt.db.write() as connection:
                text = tokens.issue(
                    connection, rt.settings.data, name=args.name, roles=[Role(role) for role in args.role],
                    vendor=args.vendor, site=args.site, valid=timedelta(days=args.days), actor=cliutil.operator(),
                )  # fmt: skip
            shown = {"token": text, "api_key": tokens.api_key(text)}
            cliutil.show(shown, as_json=args.json, text=text)
        elif args.verb == "revoke":
            with rt.db.write() as connection:
                tokens.revoke(connection, args.id, actor=cliutil.operator())
        else:
            columns = [tokens_table.c[c] for c in ("id", "name", "roles", "vendor", "site", "expires_at", "revoked_at")]
            with rt.db.read() as connection:
                rows = connection.execute(sa.select(*columns).order_by(tokens_table.c.name)).mappings().all()
            cliutil.show([dict(row) for row in rows], as_json=args.json)
    return cliutil.OK
