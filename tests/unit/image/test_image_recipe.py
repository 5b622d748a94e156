"""The recipe's hash, where packages come from, and what the recipe's own files say."""

from __future__ import annotations

from pathlib import Path

import pytest

from sharewright.errors import ConfigurationError
from sharewright.image import recipe
from sharewright.image.recipe import Recipe, sources_for


def make_recipe(**changes: object) -> Recipe:
    values: dict[str, object] = {"sources": ("deb http://x bookworm main",), "program": b"p", "program_identity": "i"}
    return Recipe(**(values | changes))  # type: ignore[arg-type]


def test_equal_recipes_have_equal_hashes() -> None:
    assert make_recipe().hash() == make_recipe().hash()


@pytest.mark.parametrize(
    "change",
    [
        {"sources": ("deb http://y bookworm main",)},
        {"program_identity": "j"},
        {"packages": (*recipe.PACKAGES, "vim-tiny")},
        {"size_mib": 4096},
        {"kernel_arguments": ("ro",)},
    ],
)
def test_every_part_counts(change: dict[str, object]) -> None:
    assert make_recipe(**change).hash() != make_recipe().hash()


def test_compiled_code_does_not_count() -> None:
    assert make_recipe(program=b"other bytes, same sources").hash() == make_recipe().hash()


def test_a_changed_file_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = make_recipe().hash()
    (tmp_path / "files/etc").mkdir(parents=True)
    (tmp_path / "files/etc/hosts").write_text("127.0.0.1 localhost\n")
    (tmp_path / "initrd.sh").write_bytes(recipe.initrd_script())
    monkeypatch.setattr(recipe, "overlay_root", lambda: tmp_path / "files")
    one = make_recipe().hash()
    (tmp_path / "files/etc/hosts").write_text("127.0.0.2 localhost\n")
    assert len({before, one, make_recipe().hash()}) == 3


def test_a_mirror_by_url_or_line() -> None:
    assert sources_for("http://mirror/debian") == ("deb http://mirror/debian bookworm main",)
    assert sources_for("deb [trusted=yes] file:/x bookworm main") == ("deb [trusted=yes] file:/x bookworm main",)
    with pytest.raises(ConfigurationError, match="not a URL"):
        sources_for("mirror.example")


def test_the_hosts_own_sources(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text(
        "# deb http://old bookworm main\n"
        "deb [arch=amd64 signed-by=/k] http://one/debian/ bookworm main contrib # ours\n"
        "deb-src http://one/debian bookworm main\n"
        "deb http://other/sdk cloud-sdk main\n"
    )
    (parts / "debian.sources").write_text(
        "Types: deb deb-src\nURIs: http://two/debian-security\nSuites: bookworm-security trixie-security\n"
        "Components: main\nSigned-By: /usr/share/keyrings/x.gpg\n\n"
        "Enabled: no\nTypes: deb\nURIs: http://off/debian\nSuites: bookworm\nComponents: main\n"
    )
    assert sources_for(None, apt=tmp_path) == (
        "deb http://one/debian bookworm main",
        "deb http://two/debian-security bookworm-security main",
    )


def test_a_host_of_another_release_uses_debians_archive(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text("deb http://archive.ubuntu.com/ubuntu noble main\n")
    sources = sources_for(None, apt=tmp_path)
    assert sources[0] == "deb http://deb.debian.org/debian bookworm main"
    assert any("bookworm-security" in source for source in sources)


def files() -> dict[str, str]:
    return {name: content.decode() for name, content in recipe.overlay_files()}


def test_sshd_admits_forced_commands_with_keys_only() -> None:
    lines = files()["etc/ssh/sshd_config"].splitlines()
    for line in (
        "PermitRootLogin forced-commands-only",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "HostKey /etc/ssh/ssh_host_ed25519_key",
        "UseDNS no",
        "DisableForwarding yes",
    ):
        assert line in lines
    assert sum(line.startswith("HostKey ") for line in lines) == 1


def test_nfs_is_version_4_only() -> None:
    text = files()["etc/nfs.conf.d/sharewright.conf"]
    assert "vers3=n" in text
    assert "udp=n" in text
    assert "manage-gids=n" in text
    assert {"rpcbind.service", "rpcbind.socket", "rpc-statd.service"} <= set(recipe.MASKED_UNITS)


def test_no_unit_is_both_masked_and_enabled() -> None:
    enabled = {unit for unit, _ in recipe.ENABLED_UNITS}
    assert not enabled & set(recipe.MASKED_UNITS)
    assert len(set(recipe.MASKED_UNITS)) == len(recipe.MASKED_UNITS)


def test_names_are_never_asked_of_dns() -> None:
    assert "hosts: files" in files()["etc/nsswitch.conf"].splitlines()
