"""Work: operations and their steps, the processes that do it, and the backends it is done on."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    text,
)

from sharewright.store.tables.base import ID, NAME, STATE, metadata, partial_index, times

operations = Table(
    "operations",
    metadata,
    Column("id", ID, primary_key=True),
    Column("kind", String(64), nullable=False),  # names a story in operations/
    Column("resource_type", String(64), nullable=False),
    Column("resource_id", ID, nullable=False, index=True),
    Column("key", NAME, nullable=False),  # one running operation per key, in order of sequence
    Column("sequence", BigInteger, nullable=False),  # grows; queue order within a key
    Column("priority", Integer, nullable=False, default=0),  # higher first
    Column("state", STATE, nullable=False),
    Column("waits_for", ID),  # another operation that must be finished first
    Column("not_before", DateTime, nullable=False),
    Column("deadline", DateTime, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),  # claims
    Column("retries", Integer, nullable=False, default=0),  # passing faults in a row, for the back-off
    Column("crashes", Integer, nullable=False, default=0),  # leases that ran out: the worker died or lost the database
    Column("epoch", BigInteger, nullable=False, default=0),  # fencing number: grows with every claim
    Column("worker_id", NAME),
    Column("lease_expires", DateTime),
    Column("project_id", NAME),
    Column("user_id", NAME),
    Column("request_id", NAME),
    Column("payload", JSON, nullable=False, default=dict),
    Column("facts", JSON, nullable=False, default=dict),  # Progress.record
    Column("failure", JSON(none_as_null=True)),  # once it is final: {"type", "message", "hint", "tries"}
    Column("error", Text),
    # Sums over all attempts, written when an attempt ends.
    Column("cloud_calls", Integer),
    Column("guest_round_trips", Integer),
    Column("sql_statements", Integer),
    Column("seconds", Float),
    *times(),
    Column("finished_at", DateTime),
    # Who may have died; see ix_operations_queue below, too: both hold only what is open, however long the history.
    partial_index("ix_operations_running", "lease_expires", where="state = 'running'"),
    partial_index("ix_operations_waiting", "waits_for", where="state = 'queued'"),
    Index("ix_operations_key_state", "key", "state"),
    Index("ix_operations_sequence", "sequence"),
    Index("ix_operations_finished_at", "finished_at"),
    # What is purged early.
    partial_index("ix_operations_routine", "finished_at", where="kind = 'heal_server' AND state = 'succeeded'"),
    # The claim query already gives each key one running operation; this makes it true under every interleaving.
    Index(
        "uq_operations_running_key",
        "key",
        unique=True,
        sqlite_where=text("state = 'running'"),
        postgresql_where=text("state = 'running'"),
    ),
)

Index(  # the queue in the order of claiming
    "ix_operations_queue",
    operations.c.priority.desc(),
    operations.c.sequence,
    operations.c.id,
    sqlite_where=text("state = 'queued'"),
    postgresql_where=text("state = 'queued'"),
)

operation_steps = Table(
    "operation_steps",
    metadata,
    Column("operation_id", ID, ForeignKey("operations.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),  # order of starting, over all attempts
    Column("name", String(64), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("started_at", DateTime, nullable=False),
    Column("finished_at", DateTime),
    Column("seconds", Float),
)

leases = Table(  # work that one process at a time does, besides operations
    "leases",
    metadata,
    Column("name", NAME, primary_key=True),
    Column("holder", NAME, nullable=False),
    Column("expires", DateTime, nullable=False),
)

workers = Table(  # the API's "services": every process that beats
    "workers",
    metadata,
    Column("id", NAME, primary_key=True),
    Column("number", Integer, nullable=False, unique=True),  # Manila's services have integer ids
    Column("binary", String(64), nullable=False),  # manila-share, manila-scheduler, manila-api: Manila's names
    Column("host", NAME, nullable=False),
    Column("availability_zone", NAME, nullable=False),
    Column("disabled", Boolean, nullable=False, default=False),
    Column("disabled_reason", NAME),
    Column("heartbeat_at", DateTime, nullable=False, index=True),
    Column("started_at", DateTime, nullable=False),
)

pools = Table(  # the last stats each backend reported, for the scheduler and the API in any process
    "pools",
    metadata,
    Column("host", NAME, primary_key=True),  # "<node>@<backend>#<pool>"
    Column("backend", NAME, nullable=False, index=True),
    Column("availability_zone", NAME, nullable=False),
    Column("total_capacity", Float),
    Column("free_capacity", Float),
    Column("provisioned_capacity", Float, nullable=False, default=0),
    Column("reserved_percentage", Integer, nullable=False, default=0),
    Column("capabilities", JSON, nullable=False, default=dict),
    Column("reported_at", DateTime, nullable=False),
)

availability_zones = Table(
    "availability_zones",
    metadata,
    Column("id", ID, primary_key=True),
    Column("name", NAME, nullable=False, unique=True),
    *times(),
)
