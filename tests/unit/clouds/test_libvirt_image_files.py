"""Copying and probing files of disks: holes, room, deadlines, hostile headers."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

import pytest

from sharewright.clouds.libvirt.image_files import allocated, copy_image, open_image, probe_format, read_size
from sharewright.errors import CloudCapacityExceeded, CloudError, CloudObjectMissing, DeadlineExceeded

MIB = 2**20


def no_limit(_: int) -> None:
    pass


def copy(source: Path, target: Path, *, seconds: float = 60.0) -> None:
    with open_image(source) as descriptor:
        copy_image(descriptor, target, end=time.monotonic() + seconds, check_room=no_limit)


def test_a_copy_is_equal_and_keeps_holes(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        for offset in (0, 40 * MIB + 5, 100 * MIB):
            file.seek(offset)
            file.write(os.urandom(3 * MIB))
        file.truncate(200 * MIB)
    copy(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_mode & 0o777 == 0o600
    with open_image(source) as one, open_image(target) as other:
        assert allocated(other) <= allocated(one) + MIB


def test_a_file_of_holes_only(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.touch()
    os.truncate(source, 10 * MIB)
    copy(source, target)
    assert (target.stat().st_size, target.stat().st_blocks) == (10 * MIB, 0)


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(bytes(range(256)) * 4096)

    def full(_: int) -> None:
        raise CloudCapacityExceeded("full", hint="room")

    with open_image(source) as descriptor:
        try:
            copy_image(descriptor, target, end=time.monotonic() + 60, check_room=full)
        except CloudCapacityExceeded:
            assert not target.exists()
        else:
            pytest.skip("this file system makes clones, which need no room")
        with pytest.raises(DeadlineExceeded):
            copy_image(descriptor, target, end=time.monotonic() - 1, check_room=no_limit)
    assert not target.exists()


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"new")
    target.write_bytes(b"old")
    with pytest.raises(FileExistsError):
        copy(source, target)
    assert target.read_bytes() == b"old"


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(CloudError, match="cannot be opened"), open_image(tmp_path / "link"):
        pass
    with pytest.raises(CloudObjectMissing), open_image(tmp_path / "nothing"):
        pass


def header(*, version: int = 3, backing: int = 0, size: int = 2**30, encryption: int = 0, features: int = 0) -> bytes:
    fixed = struct.pack(">4sIQIIQI", b"QFI\xfb", version, backing, 9, 16, size, encryption)
    return fixed.ljust(72, b"\0") + features.to_bytes(8, "big") + bytes(400)


@pytest.mark.parametrize("content", [header(), header(version=2), header(features=0b1), header(features=0b11000)])
def test_plain_qcow2(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "image"
    path.write_bytes(content)
    with open_image(path) as descriptor:
        assert probe_format(descriptor) == "qcow2"
        assert read_size(descriptor, "qcow2") == 2**30
        assert read_size(descriptor, "raw") == len(content), "a raw disk is what its owner says, not what is in it"


@pytest.mark.parametrize(
    "content",
    [
        header(backing=512),
        header(encryption=2),
        header(features=0b100),
        header(features=0b10),
        header(features=1 << 40),
        header(version=1),
        header(version=4),
        header()[:60],
        bytes(600),
    ],
)
def test_qcow2_that_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "image"
    path.write_bytes(content)
    with open_image(path) as descriptor, pytest.raises(CloudError) as caught:
        read_size(descriptor, "qcow2")
    assert caught.value.hint
