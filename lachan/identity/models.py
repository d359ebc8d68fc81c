"""Tables of identity: people, their sign-in links and sessions, and API tokens. Secrets are stored hashed only."""

import sqlalchemy as sa

from lachan.database import Json, UtcDateTime, metadata

people = sa.Table(
    "people",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("name", sa.String(63), nullable=False, unique=True),
    sa.Column("roles", Json, nullable=False),
    sa.Column("vendor", sa.String(100)),
    sa.Column("active", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("created_at", UtcDateTime, nullable=False),
)
sign_in_links = sa.Table(
    "sign_in_links",
    metadata,
    sa.Column("hash", sa.String(64), primary_key=True),
    sa.Column("person_id", sa.String(36), sa.ForeignKey("people.id"), nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
    sa.Column("used_at", UtcDateTime),
)
sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("hash", sa.String(64), nullable=False, unique=True),
    sa.Column("person_id", sa.String(36), sa.ForeignKey("people.id"), nullable=False),
    sa.Column("csrf", sa.String(64), nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("seen_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
    sa.Column("ended_at", UtcDateTime),
)
tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("name", sa.String(63), nullable=False),
    sa.Column("kind", sa.String(12), nullable=False),
    sa.Column("roles", Json, nullable=False),
    sa.Column("vendor", sa.String(100)),
    sa.Column("site", sa.String(100)),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.Column("pepper", sa.Integer, nullable=False, server_default="1"),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
    sa.Column("revoked_at", UtcDateTime),
    sa.Column(
        "parent_id", sa.String(36), index=True
    ),  # the token that made it, which it neither outlives nor outreaches
    sa.Column(
        "human", sa.String(60), nullable=False, server_default=""
    ),  # who stands behind it: a person, or shell:NAME
)
