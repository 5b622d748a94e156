"""Databases for tests: the fixture ``store`` gives each test a fresh, migrated one, on SQLite and on PostgreSQL.

PostgreSQL is a private cluster per test session: Debian's binaries, a Unix socket in a temporary directory, no TCP
port. A machine without the binaries is an error, because a skip would hide that half of the suite did not run.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from sharewright.store.database import Store
from sharewright.store.migrations import migrate, newest_revision
from sharewright.store.tables import metadata

BACKENDS = ("sqlite", "postgresql")


class PostgresCluster:
    """A running private PostgreSQL server."""

    def __init__(self, directory: Path, user: str) -> None:
        self.directory = directory
        self.user = user
        self._template: str | None = None
        self._clean: list[str] = []

    def url(self, database: str) -> str:
        return f"postgresql://{self.user}@/{database}?host={self.directory}"

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    def create_database(self, *, migrated: bool = True) -> str:
        """The URL of an empty database, with our tables if ``migrated``."""
        if migrated and self._clean:
            return self._clean.pop()
        if migrated and self._template is None:
            name = "template_migrated"
            self.execute(f"CREATE DATABASE {name}")
            store = Store(self.url(name))
            migrate(store)
            store.close()
            self._template = name
        name = f"test_{uuid.uuid4().hex[:12]}"
        template = self._template if migrated else "template0"
        # Copying files instead of logging pages: three times as fast where nothing has to survive a power failure.
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        return self.url(name)

    def give_back(self, url: str) -> None:
        """Empty a migrated database for the next test: making one takes a hundred times as long. One that a test
        changed in other ways than by rows is dropped."""
        self.disconnect_all(url)
        names = {table.name for table in metadata.sorted_tables} | {"alembic_version"}
        with psycopg.connect(url) as connection:
            rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            version = connection.execute("SELECT version_num FROM alembic_version").fetchall()
            intact = {name for (name,) in rows} == names and version == [(newest_revision(),)]
            if intact:
                for table in reversed(metadata.sorted_tables):
                    connection.execute(f"DELETE FROM {table.name}".encode())
        if intact:
            self._clean.append(url)
        else:
            self.drop_database(url)

    def disconnect_all(self, url: str) -> None:
        """Break every connection to a database, as a restart of the server would."""
        name = url.split("@/")[1].split("?")[0]
        self.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")

    def drop_database(self, url: str) -> None:
        name = url.split("@/")[1].split("?")[0]
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def postgres_binaries() -> Path:
    """The directory with initdb and postgres of the newest version installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    raise RuntimeError("PostgreSQL is not installed, and half of the tests need it: apt-get install postgresql")


# Nothing has to survive a power failure, and the machine is small.
OPTIONS = {
    "fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "200",
    "shared_buffers": "32MB",
}  # fmt: skip


@contextmanager
def running_postgres(options: Mapping[str, str] = OPTIONS) -> Iterator[PostgresCluster]:
    """A new cluster, removed with all its data at the end. PostgreSQL refuses to run as root, so it gets a user."""
    binaries = postgres_binaries()
    directory = Path(tempfile.mkdtemp(prefix="sharewright-postgres-"))
    become: list[str] = []
    user = pwd.getpwuid(os.geteuid()).pw_name
    if os.geteuid() == 0:
        account = pwd.getpwnam("postgres")
        os.chown(directory, account.pw_uid, account.pw_gid)
        become = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
        user = "postgres"
    data = directory / "data"
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    subprocess.run(
        ["setpriv", *become, "--", str(binaries / "initdb"), "--no-sync", "--auth=trust", "--encoding=UTF8",
         "--username", user, "-D", str(data)],
        check=True, stdout=subprocess.DEVNULL, env=environment, cwd=directory,
    )  # fmt: skip
    with (directory / "log").open("wb") as log:
        # The server must not outlive the test run, not even one that is killed: hence the parent-death signal.
        server = subprocess.Popen(
            ["setpriv", *become, "--pdeathsig=QUIT", "--", str(binaries / "postgres"), "-D", str(data),
             "-k", str(directory), "-c", "listen_addresses=",
             *(word for name, value in options.items() for word in ("-c", f"{name}={value}"))],
            stdout=log, stderr=log, env=environment, cwd=directory,
        )  # fmt: skip
    cluster = PostgresCluster(directory, user)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                cluster.execute("SELECT 1")
                break
            except psycopg.OperationalError:
                if server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"PostgreSQL did not start: {(directory / 'log').read_text()}") from None
                time.sleep(0.05)
        yield cluster
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresCluster]:
    with running_postgres() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    store = Store(f"sqlite:///{path}")
    migrate(store)
    store.close()  # the last connection to close folds the write-ahead log into the file
    return path


@pytest.fixture
def sqlite_url(tmp_path: Path, sqlite_template: Path) -> str:
    path = tmp_path / "sharewright.db"
    shutil.copyfile(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture
def postgresql_url(postgres: PostgresCluster) -> Iterator[str]:
    url = postgres.create_database()
    yield url
    postgres.give_back(url)


@pytest.fixture(params=BACKENDS)
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a fresh, migrated database of each kind."""
    url = request.getfixturevalue(f"{request.param}_url")
    assert isinstance(url, str)
    return url


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """A fresh, migrated database of each kind."""
    store = Store(database_url)
    yield store
    store.close()


@pytest.fixture
def sqlite_store(sqlite_url: str) -> Iterator[Store]:
    """A fresh, migrated SQLite database, for tests where the kind does not matter."""
    store = Store(sqlite_url)
    yield store
    store.close()


@pytest.fixture
def open_store(database_url: str) -> Iterator[Callable[[], Store]]:
    """Further Store objects on the test's database, as other processes would have."""
    opened: list[Store] = []

    def open_another() -> Store:
        opened.append(Store(database_url))
        return opened[-1]

    yield open_another
    for store in opened:
        store.close()
