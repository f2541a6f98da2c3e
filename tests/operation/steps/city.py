"""A city for every user."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    with op.batch_alter_table("users") as users:
        users.add_column(sa.Column("city", sa.String(100), server_default="", nullable=False))


def downgrade() -> None:
    with op.batch_alter_table("users") as users:
        users.drop_column("city")
