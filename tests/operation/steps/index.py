"""An index that is made while others write."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("VACUUM")
        if op.get_bind().dialect.name == "postgresql":
            op.execute("SELECT pg_sleep(6)")
            op.execute("CREATE INDEX CONCURRENTLY by_name ON users (name)")
    op.execute("UPDATE users SET name = 'after'")


def downgrade() -> None:
    pass
