"""how many shares each project has, in the recycle bin and out of it, kept by triggers

So that a list with its count costs the same however many shares there are. The number is the sum over the project's
slots. On SQLite, with its single writer, there is one slot, 0.

On PostgreSQL a transaction that waited for another one's row of a project would be a new way to wait in a circle: who
creates a share writes it before the project's quota, who accepts a transfer after that. So nobody waits: a transaction
takes any slot that no other one has locked, or makes one, which has the transaction's number. So a project has no more
slots than were ever locked at the same time, and one slot's number may be negative. Inserted and deleted rows are
counted once for each statement, because many updates of one row in a transaction take ever longer; updated ones each by
itself, because only such a trigger can be left out where neither column changes.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

_POSTGRESQL = (
    """
    CREATE FUNCTION add_to_share_counts(project text, in_bin boolean, more bigint) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        UPDATE share_counts SET number = number + more
        WHERE project_id = project AND is_soft_deleted = in_bin AND slot = (
            SELECT slot FROM share_counts WHERE project_id = project AND is_soft_deleted = in_bin
            LIMIT 1 FOR UPDATE SKIP LOCKED
        );
        IF NOT FOUND THEN
            -- The conflict is with a slot from before a dump was restored, when transactions had other numbers.
            INSERT INTO share_counts AS present (project_id, is_soft_deleted, slot, number)
            VALUES (project, in_bin, txid_current(), more)
            ON CONFLICT (project_id, is_soft_deleted, slot) DO UPDATE SET number = present.number + more;
        END IF;
    END
    $$
    """,
    """
    CREATE FUNCTION count_changed_shares() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM add_to_share_counts(
            project_id, is_soft_deleted, CASE TG_OP WHEN 'INSERT' THEN count(*) ELSE -count(*) END
        ) FROM changed GROUP BY project_id, is_soft_deleted;
        RETURN NULL;
    END
    $$
    """,
    """
    CREATE FUNCTION count_moved_share() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM add_to_share_counts(OLD.project_id, OLD.is_soft_deleted, -1);
        PERFORM add_to_share_counts(NEW.project_id, NEW.is_soft_deleted, 1);
        RETURN NULL;
    END
    $$
    """,
    """
    CREATE TRIGGER share_counts_insert AFTER INSERT ON shares REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION count_changed_shares()
    """,
    """
    CREATE TRIGGER share_counts_delete AFTER DELETE ON shares REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION count_changed_shares()
    """,
    """
    CREATE TRIGGER share_counts_update AFTER UPDATE OF project_id, is_soft_deleted ON shares
    FOR EACH ROW WHEN (OLD.project_id <> NEW.project_id OR OLD.is_soft_deleted <> NEW.is_soft_deleted)
    EXECUTE FUNCTION count_moved_share()
    """,
)
_ADD = """
    INSERT INTO share_counts (project_id, is_soft_deleted, slot, number)
    VALUES ({row}.project_id, {row}.is_soft_deleted, 0, {more})
    ON CONFLICT (project_id, is_soft_deleted, slot) DO UPDATE SET number = number + excluded.number;
"""
_ADD_NEW, _TAKE_OLD = _ADD.format(row="NEW", more=1), _ADD.format(row="OLD", more=-1)
_SQLITE = (
    f"CREATE TRIGGER share_counts_insert AFTER INSERT ON shares BEGIN {_ADD_NEW} END",
    f"CREATE TRIGGER share_counts_delete AFTER DELETE ON shares BEGIN {_TAKE_OLD} END",
    f"""
    CREATE TRIGGER share_counts_update AFTER UPDATE OF project_id, is_soft_deleted ON shares
    WHEN OLD.project_id <> NEW.project_id OR OLD.is_soft_deleted <> NEW.is_soft_deleted
    BEGIN {_TAKE_OLD} {_ADD_NEW} END
    """,
)


def upgrade() -> None:
    op.create_table(
        "share_counts",
        sa.Column("project_id", sa.String(length=255), nullable=False),
        sa.Column("is_soft_deleted", sa.Boolean(), nullable=False),
        sa.Column("slot", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "is_soft_deleted", "slot", name=op.f("pk_share_counts")),
    )
    # The triggers first: to make one waits for whoever is writing shares, and lets nobody begin to.
    for statement in _POSTGRESQL if op.get_bind().dialect.name == "postgresql" else _SQLITE:
        op.execute(statement)
    op.execute(
        """
        INSERT INTO share_counts (project_id, is_soft_deleted, slot, number)
        SELECT project_id, is_soft_deleted, 0, count(*) FROM shares GROUP BY project_id, is_soft_deleted
        """
    )
