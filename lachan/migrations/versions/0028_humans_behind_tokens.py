"""A token knows who stands behind it and which token made it; who asked for an engagement is known by id."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

PAGE = 1000


def upgrade() -> None:
    """Add the columns, and read who made each token from the ledger."""
    op.add_column("tokens", sa.Column("parent_id", sa.String(36)))
    op.add_column("tokens", sa.Column("human", sa.String(60), nullable=False, server_default=""))
    op.create_index("ix_tokens_parent_id", "tokens", ["parent_id"])
    op.add_column("posture_engagements", sa.Column("requester_id", sa.String(60), nullable=False, server_default=""))
    connection = op.get_bind()
    made = {name: sa.Table(name, sa.MetaData(), autoload_with=connection) for name in ("tokens", "people", "events")}
    tokens, people, events = made["tokens"].c, made["people"].c, made["events"].c
    persons = {f"person:{row.name}": row.id for row in connection.execute(sa.select(people.id, people.name))}
    humans: dict[str, str] = {}
    names: dict[str, str] = {}
    last = 0
    query = sa.select(events.seq, events.actor, events.body).where(events.name == "TokenIssued").order_by(events.seq)
    while rows := connection.execute(query.where(events.seq > last).limit(PAGE)).all():
        for row in rows:
            last = row.seq
            if row.body is None:
                continue
            told = json.loads(row.body)["data"]
            shell = row.actor.removeprefix("person:").removesuffix("@shell")
            human = f"shell:{shell}" if row.actor.endswith("@shell") else persons.get(row.actor, "")
            humans[told["token_id"]] = human or names.get(row.actor, "")
            names[f"token:{told['name']}"] = humans[told["token_id"]]
    for token_id, human in humans.items():
        connection.execute(made["tokens"].update().where(tokens.id == token_id).values(human=human))


def downgrade() -> None:
    """Forget it."""
    op.drop_column("posture_engagements", "requester_id")
    op.drop_index("ix_tokens_parent_id", "tokens")
    op.drop_column("tokens", "human")
    op.drop_column("tokens", "parent_id")
