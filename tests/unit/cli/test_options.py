"""The database's password from a file, and a deployment that keeps nothing on its host."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from sqlalchemy.engine import make_url

from sharewright.cli.options import open_store, state_dir_in_use
from sharewright.settings import Database, Settings


def test_the_password_file_completes_the_url(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("p@ss/w:rd\n")
    file.chmod(0o600)
    database = Database(url="postgresql://sharewright@127.0.0.1:1/shares", password_file=str(file))
    settings = Settings(state_dir=str(tmp_path / "state"), database=database)
    with closing(open_store(settings)) as store:
        assert make_url(store.url).password == "p@ss/w:rd"
        assert store.engine.url.password == "p@ss/w:rd"
    assert "p@ss" not in settings.database_url


def test_where_nothing_is_kept_no_directory_is_made(tmp_path: Path) -> None:
    database = Database(url="postgresql://sharewright@127.0.0.1:1/shares", master_key_file=str(tmp_path / "key"))
    settings = Settings(state_dir="/proc/sharewright", database=database)  # nobody can make a directory there
    with state_dir_in_use(settings), closing(open_store(settings)):
        pass
