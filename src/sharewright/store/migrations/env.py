"""Run by Alembic: migrations on the connection, and inside the transaction, that the caller holds."""

from __future__ import annotations

from alembic import context

from sharewright.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,  # also on SQLite: the store's connections begin their transactions themselves
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
