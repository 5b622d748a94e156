"""Secrets at rest and the file that opens them."""

from __future__ import annotations

import pickle
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import select

from sharewright.errors import ConfigurationError, NotFound
from sharewright.store.database import Store
from sharewright.store.secrets import SecretBox
from sharewright.store.tables import secrets


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "master.key"


def test_a_secret_comes_back(store: Store, key_file: Path) -> None:
    box = SecretBox(key_file)
    with store.begin() as tx:
        one, two = box.put(tx, "share_server:1", "first ü"), box.put(tx, "share_server:2", "second")
    with store.read() as tx:
        assert SecretBox(key_file).get(tx, one) == "first ü"
        stored = tx.execute(select(secrets.c.ciphertext).where(secrets.c.id == one)).scalar_one()
        assert box.open(stored) == "first ü"
        assert "first" not in stored
    with store.begin() as tx:
        box.delete(tx, "share_server:1")
        box.delete(tx, "share_server:1")
    with store.read() as tx:
        with pytest.raises(NotFound):
            box.get(tx, one)
        assert box.get(tx, two) == "second"


def test_the_key_file_is_private_and_stays(key_file: Path) -> None:
    SecretBox(key_file)
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    key = key_file.read_bytes()
    SecretBox(key_file)
    assert key_file.read_bytes() == key
    assert list(key_file.parent.iterdir()) == [key_file], "no temporary file is left"


def test_many_that_start_together_end_with_one_key(key_file: Path) -> None:
    barrier = threading.Barrier(16)

    def begin(number: int) -> str:
        barrier.wait()
        return SecretBox(key_file).seal(str(number))

    with ThreadPoolExecutor(16) as pool:
        sealed = list(pool.map(begin, range(16)))
    assert [SecretBox(key_file).open(each) for each in sealed] == [str(number) for number in range(16)]


def test_another_key_does_not_open(store: Store, key_file: Path) -> None:
    with store.begin() as tx:
        identifier = SecretBox(key_file).put(tx, "x", "clear text")
    key_file.unlink()
    with store.read() as tx, pytest.raises(ConfigurationError, match="with the key in") as caught:
        SecretBox(key_file).get(tx, identifier)
    assert "Copy the key file" in caught.value.hint
    assert "clear text" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_read_is_refused(key_file: Path, mode: int) -> None:
    SecretBox(key_file)
    key_file.chmod(mode)
    with pytest.raises(ConfigurationError, match="read by others") as caught:
        SecretBox(key_file)
    assert "chmod 600" in caught.value.hint


def test_a_provided_key_may_be_read_by_its_group_and_is_never_made(key_file: Path) -> None:
    with pytest.raises(ConfigurationError, match="master_key_file"):
        SecretBox(key_file, provided=True)
    assert not key_file.exists()
    SecretBox(key_file)
    key_file.chmod(0o440)  # as systemd shows a credential to a unit's user
    assert SecretBox(key_file, provided=True).open(SecretBox(key_file, provided=True).seal("x")) == "x"
    for mode in (0o444, 0o420):
        key_file.chmod(mode)
        with pytest.raises(ConfigurationError, match="read by others"):
            SecretBox(key_file, provided=True)


@pytest.mark.parametrize("content", [b"", b"short", b"not base64 at all \xff"])
def test_a_broken_key_is_refused_and_kept(key_file: Path, content: bytes) -> None:
    key_file.touch(0o600)
    key_file.write_bytes(content)
    with pytest.raises(ConfigurationError, match="does not hold a key"):
        SecretBox(key_file)
    assert key_file.read_bytes() == content


def test_a_directory_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="missing"):
        SecretBox(tmp_path / "missing" / "master.key")


def test_the_box_does_not_show_its_key(key_file: Path) -> None:
    key_file.touch(0o600)
    key = Fernet.generate_key()
    key_file.write_bytes(key)
    box = SecretBox(key_file)
    assert key.decode() not in repr(box)
    with pytest.raises(TypeError, match="master key"):
        pickle.dumps(box)
