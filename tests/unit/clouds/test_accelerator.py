"""Choosing between KVM and emulation. Real, tiny machines boot on emulation; they need QEMU, and no root."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sharewright.clouds.libvirt import accelerator

needs_qemu = pytest.mark.skipif(shutil.which(accelerator.QEMU) is None, reason="QEMU is not installed")


def test_the_boot_sector_is_one() -> None:
    sector = accelerator.boot_sector(b"HI")
    assert len(sector) == 512
    assert sector[510:] == b"\x55\xaa"


@needs_qemu
def test_a_machine_that_boots_is_seen() -> None:
    assert accelerator.boot(None, accelerator="tcg", cpu="qemu64", seconds=60.0) == ""


@needs_qemu
def test_a_machine_that_does_not_boot_is_seen(tmp_path: Path) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(b"no kernel")
    assert "ended early" in accelerator.boot(kernel, accelerator="tcg", cpu="qemu64", seconds=60.0)


@needs_qemu
def test_a_machine_that_is_too_slow_is_given_up() -> None:
    assert "did not boot" in accelerator.boot(None, accelerator="tcg", cpu="qemu64", seconds=0.0)


def test_without_the_device_there_is_no_kvm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(accelerator, "DEVICE", tmp_path / "kvm")
    memory = tmp_path / "accelerator.json"
    assert accelerator.choose_accelerator("auto", memory) == "tcg"
    assert "no" in json.loads(memory.read_text())["reason"]


def test_the_result_is_kept_until_the_host_changes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    device, memory = tmp_path / "kvm", tmp_path / "accelerator.json"
    monkeypatch.setattr(accelerator, "DEVICE", device)
    assert accelerator.choose_accelerator("auto", memory) == "tcg"
    known = json.loads(memory.read_text())
    memory.write_text(json.dumps({**known, "accelerator": "kvm"}))
    assert accelerator.choose_accelerator("auto", memory) == "kvm"
    memory.write_text(json.dumps({**known, "accelerator": "kvm", "key": "another boot"}))
    assert accelerator.choose_accelerator("auto", memory) == "tcg"


def test_what_the_operator_wants_is_not_questioned(tmp_path: Path) -> None:
    memory = tmp_path / "accelerator.json"
    assert accelerator.choose_accelerator("kvm", memory) == "kvm"
    assert accelerator.choose_accelerator("tcg", memory) == "tcg"
    assert not memory.exists()
