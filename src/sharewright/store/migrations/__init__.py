"""Bringing a database to the tables of this version, with Alembic and without an ini file.

``migrate`` may be called by any number of processes at once: one of them does the work in one transaction, the others
wait for it and find nothing left to do. A new revision is written with::

    python -m sharewright.store.migrations "what changes"

That finds what differs in tables.py; the triggers of ``shares`` (0028) are not there, and are lost on SQLite where a
revision makes that table anew (``op.batch_alter_table``): it has to make them again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from sharewright.errors import ConfigurationError
from sharewright.store.database import Store

_ADVISORY_LOCK = 0x5368_6172_6577  # any number that nobody else uses in this database


def migrate(store: Store) -> str:
    """Upgrade to the newest revision and return its name.

    Raises ConfigurationError when the database cannot be reached or was written by a newer version.
    """
    try:
        with _changing_tables(store) as tx:
            config = configuration(tx)
            _refuse_newer(tx, config)
            command.upgrade(config, "head")
            return _revision(tx) or ""
    except OperationalError as error:
        raise ConfigurationError(
            f"The database {_harmless(store)} cannot be used: {error.orig}.",
            hint="Check database.url, that the directory or server exists, and its permissions.",
        ) from error


def current_revision(store: Store) -> str | None:
    """The revision that the database has; None when it is empty."""
    with store.read() as tx:
        return _revision(tx)


def newest_revision() -> str | None:
    """The revision that this version of the program needs."""
    return ScriptDirectory.from_config(configuration(None)).get_current_head()


def configuration(connection: Connection | None) -> Config:
    """Alembic's configuration for the given connection."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


@contextmanager
def _changing_tables(store: Store) -> Iterator[Connection]:
    """One transaction, by one process at a time, in which tables may be made anew.

    On SQLite that is how most of them are changed, and dropping the old table deletes the rows of others that refer to
    it, or is refused because of them. So references are not enforced meanwhile (possible only outside a transaction),
    but looked through before the commit: https://www.sqlite.org/lang_altertable.html, "Making Other Kinds Of Table
    Schema Changes".
    """
    if not store.is_sqlite:
        with store.begin() as tx:
            tx.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _ADVISORY_LOCK})
            yield tx
        return
    with store.engine.connect() as connection:
        connection.connection.cursor().execute("PRAGMA foreign_keys = OFF")
        try:
            with connection.begin():  # BEGIN IMMEDIATE, which is the lock
                before = _revision(connection)
                yield connection
                if _revision(connection) != before:
                    _refuse_broken_references(connection)
        finally:
            connection.connection.cursor().execute("PRAGMA foreign_keys = ON")


def _refuse_broken_references(tx: Connection) -> None:
    broken = sorted({(str(row[0]), str(row[2])) for row in tx.exec_driver_sql("PRAGMA foreign_key_check")})
    if broken:
        names = ", ".join(f"{table} to {other}" for table, other in broken)
        raise ConfigurationError(
            f"The database cannot be upgraded: rows refer to others that are not there ({names}).",
            hint="Nothing was changed. Restore the last backup, or remove these rows.",
        )


def _revision(tx: Connection) -> str | None:
    return MigrationContext.configure(tx).get_current_revision()


def _refuse_newer(tx: Connection, config: Config) -> None:
    revision = _revision(tx)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if revision is not None and revision not in known:
        raise ConfigurationError(
            f"The database has revision {revision}, which this version does not know.",
            hint="It was written by a newer version of Sharewright: run that one.",
        )


def _harmless(store: Store) -> str:
    return store.engine.url.render_as_string(hide_password=True)
