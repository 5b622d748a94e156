"""The configuration: every mistake is named with its key, its value and what was expected."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from sharewright.configuration_file import load, parse
from sharewright.errors import ConfigurationError
from sharewright.secret_files import read_secret, secret_file
from sharewright.settings import Settings


def complaint(data: dict[str, Any]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parse(data, source="test.toml")
    return caught.value.message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[api]\nport = 70000", "api.port = 70000: expected a whole number, 1 to 65535"),
        ('[api]\nport = "8786"', 'api.port = "8786": expected a whole number, 1 to 65535'),
        ("[api]\nprot = 1", "api.prot: there is no such key; did you mean api.port?"),
        ("[apj]\nport = 1", "apj: there is no such key; did you mean api?"),
        ("api = 3", "api = 3: expected a table ([api])"),
        ('[api]\nlisten = "localhost"', 'api.listen = "localhost": expected an IPv4 or IPv6 address'),
        ('[api]\nbase_url = "shares.example"', 'api.base_url = "shares.example": expected http://'),
        ('[identity]\nmode = "ldap"', 'identity.mode = "ldap": expected "builtin" or "http_basic" or "keystone"'),
        ('[identity]\nmode = "keystone"', 'identity.keystone.auth_url: mode "keystone" needs it'),
        (
            '[identity]\nmode = "keystone"\nkeystone.auth_url = "http://k/v3"',
            'identity.keystone.username: mode "keystone" needs it',
        ),
        (
            '[identity]\nmode = "keystone"\nkeystone.auth_url = "http://k/v3"\nkeystone.username = "s"',
            'identity.keystone.password_file: mode "keystone" needs it, or keystone.password',
        ),
        (
            '[identity.keystone]\nauth_url = "keystone:5000"',
            'identity.keystone.auth_url = "keystone:5000": expected http://',
        ),
        ('[identity.keystone]\nwww_authenticate_uri = "http://k/\\"x"', "identity.keystone.www_authenticate_uri"),
        (
            '[identity.keystone]\npassword_file = "secret"',
            'identity.keystone.password_file = "secret": expected an absolute path',
        ),
        (
            '[identity.keystone]\npassword = "a"\npassword_file = "/b"',
            'identity.keystone.password_file = "/b": expected nothing beside password',
        ),
        ("[identity.keystone]\nuser = 1", "identity.keystone.user: there is no such key; did you mean"),
        ("[identity]\nroles = [1]", "identity.roles = [1]: expected a list of strings"),
        ("[worker]\nthreads = true", "worker.threads = true: expected a whole number, 0 to 256"),
        ("[worker]\nlease_seconds = 0", "worker.lease_seconds = 0: expected a number > 0"),
        ("[quotas]\nshares = -2", "quotas.shares = -2: expected a whole number ≥ -1"),
        ('[database]\nurl = "mysql://h/d"', 'database.url = "mysql://h/d": expected sqlite:'),
        (
            '[database]\nurl = "postgresql://h/d"\npassword_file = "pw"',
            'database.password_file = "pw": expected an absolute',
        ),
        ('[database]\nmaster_key_file = "credential:../x"', "expected an absolute path, or credential:NAME"),
        ('[database]\npassword_file = "/x"', "password_file"),
        ('state_dir = "relative"', 'state_dir = "relative": expected an absolute path'),
        ("backends = 1", "backends = 1: expected tables such as [backends.main]"),
        ('[backends."a b"]', 'backends."a b": a name consists of'),
        ('[backends.a]\ncloud = "vmware"', 'backends.a.cloud = "vmware": expected "libvirt" or "openstack"'),
        ("[backends.a]\nmemory = 1", "backends.a.memory: there is no such key; did you mean backends.a.memory_mib?"),
        (
            '[backends.a]\nservice_network_cidr = "10.254.0.0"\nservice_network_division_mask = 16',
            'backends.a.service_network_cidr = "10.254.0.0": expected an IPv4 network that holds',
        ),
        (
            '[backends.a]\nservice_network_cidr = "10.254.0.1/16"',
            'backends.a.service_network_cidr = "10.254.0.1/16": expected an IPv4 network such as',
        ),
        ('[backends.a]\nservice_network_cidr = "fd00::/64"', "expected an IPv4 network that holds"),
        (
            '[backends.a]\nvolume_name_template = "share"',
            'backends.a.volume_name_template = "share": expected exactly one',
        ),
        ('[backends.a]\nvolume_name_template = "../%s"', "backends.a.volume_name_template"),
        (
            "[backends.a]\nmax_shares_per_share_server = 0",
            "max_shares_per_share_server = 0: expected a whole number ≥ 1",
        ),
        ('[backends.a]\ncloud = "openstack"', "backends.a.flavor: expected the name or id of a Nova flavor"),
        ('[openstack]\nauth_url = "keystone"', 'openstack.auth_url = "keystone": expected http://'),
        ('[openstack]\npassword_file = "secret"', 'openstack.password_file = "secret": expected an absolute path'),
        ('[openstack]\nmanagement_cidrs = ["192.0.2.1/24"]', "openstack.management_cidrs"),
        ('[backends.a]\nvolume_types = ["x", "x"]', 'volume_types = ["x", "x"]: expected different names'),
        (
            '[backends.a]\nvolume_types = ["x"]',
            "backends.a.volume_types: expected names that are in [libvirt.volume_types]",
        ),
        (
            '[backends.a]\nvolume_type = "x"',
            "backends.a.volume_type: expected names that are in [libvirt.volume_types]",
        ),
        (
            '[libvirt.volume_types.x]\ndirectory = "x"',
            'libvirt.volume_types.x.directory = "x": expected an absolute path',
        ),
        ("[libvirt.volume_types.x]", "libvirt.volume_types.x.directory: expected an absolute path"),
        ("[backends.a]\nflavors = 1", "backends.a.flavors = 1: expected tables such as [backends.a.flavors.main]"),
        ("[backends.a.flavors.big]\nvcpus = 0", "backends.a.flavors.big.vcpus = 0: expected a whole number, 1 to 64"),
        ('[backends.a.flavors."b g"]', 'backends.a.flavors."b g": a name consists of'),
        ("[backends.a.flavors.big]\nram = 1", "backends.a.flavors.big.ram: there is no such key"),
        (
            '[backends.a]\ncloud = "openstack"\nflavor = "f"\n[backends.a.flavors.big]',
            "backends.a.flavors = {",
        ),
        ('[backends.a]\nimage = "image"', 'backends.a.image = "image": expected an absolute path'),
    ],
)
def test_a_mistake_names_key_value_and_expectation(text: str, expected: str) -> None:
    message = complaint(tomllib.loads(text))
    assert message.startswith("test.toml: ")
    assert expected in message


def test_all_mistakes_are_listed_at_once() -> None:
    message = complaint({"api": {"port": 0, "threads": 0}, "log_level": "loud", "backends": {"a": {"vcpus": 0}}})
    for key in ("api.port", "api.threads", "log_level", "backends.a.vcpus"):
        assert key in message


def test_a_password_in_a_wrong_value_is_not_shown() -> None:
    message = complaint({"database": {"url": "mysql://user:hunter2@host/db"}})
    assert "database.url" in message
    assert "hunter2" not in message


def test_a_secret_of_the_wrong_type_is_not_shown() -> None:
    message = complaint({"identity": {"keystone": {"password": ["hunter2"]}}})
    assert "identity.keystone.password" in message
    assert "hunter2" not in message


def test_the_service_password_is_not_in_representations() -> None:
    settings = parse({"identity": {"keystone": {"auth_url": "http://k/v3", "password": "hunter2"}}})
    assert "http://k/v3" in repr(settings)
    assert "hunter2" not in repr(settings)


def test_a_password_is_never_shown() -> None:
    assert "12345" not in complaint({"openstack": {"password": 12345}})
    assert "hunter2" not in complaint({"openstack": {"password": "hunter2", "password_file": "/etc/secret"}})
    settings = parse({"openstack": {"password": "hunter2", "application_credential_secret": "hunter3"}})
    assert "hunter" not in repr(settings)


def test_unset_keys_have_their_defaults() -> None:
    settings = parse({"backends": {"a": {"cloud": "simulated"}}})
    assert settings.api == Settings().api
    assert settings.backends["a"].service_network_cidr == "10.254.0.0/16"
    assert settings.database_url == "sqlite:////var/lib/sharewright/sharewright.db"


def test_a_host_that_boots_machines_runs_fewer_operations_at_once() -> None:
    here = {"backends": {"a": {"cloud": "libvirt"}}}
    assert parse({"backends": {"a": {"cloud": "simulated"}}}).worker_threads == 64
    assert parse(here).worker_threads == 16
    assert parse({**here, "worker": {"threads": 3}}).worker_threads == 3


def test_whole_numbers_do_for_seconds() -> None:
    assert parse({"worker": {"poll_seconds": 2}}).worker.poll_seconds == 2.0


def test_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="There is no configuration file") as missing:
        load(tmp_path / "absent.toml")
    assert "--config" in missing.value.hint
    broken = tmp_path / "broken.toml"
    broken.write_text("[api\n")
    with pytest.raises(ConfigurationError, match=r"broken\.toml is not a readable TOML file: .*line 1"):
        load(broken)
    broken.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="not a readable TOML file"):
        load(broken)
    broken.write_text("[api]\nport = 9000\n")
    assert load(broken).api.port == 9000


def test_without_files_of_its_own_a_deployment_needs_no_directory(tmp_path: Path) -> None:
    shared = {"url": "postgresql://h/d", "master_key_file": "/run/secrets/master.key"}
    assert not parse({"database": shared}).keeps_files
    assert parse({"database": {"url": "postgresql://h/d"}}).keeps_files
    assert parse({"database": {**shared, "url": "sqlite:////x.db"}}).keeps_files
    assert parse({"database": shared, "backends": {"a": {"cloud": "libvirt"}}}).keeps_files


def test_a_credential_is_a_file_that_systemd_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(ConfigurationError, match="was given none"):
        secret_file("credential:password")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "password").write_text("s3cret word\n")
    (tmp_path / "password").chmod(0o600)
    assert read_secret("database.password_file", "credential:password") == "s3cret word"
    assert read_secret("database.password_file", str(tmp_path / "password")) == "s3cret word"
    (tmp_path / "password").chmod(0o604)
    with pytest.raises(ConfigurationError, match="mode 0604; everybody may use it"):
        read_secret("database.password_file", "credential:password")
    (tmp_path / "empty").touch(mode=0o600)
    with pytest.raises(ConfigurationError, match=r"database\.password_file: .*is empty"):
        read_secret("database.password_file", "credential:empty")
    with pytest.raises(ConfigurationError, match=r"missing cannot be read"):
        read_secret("database.password_file", "credential:missing")


SERVER = """
[backends.common]
cloud = "simulated"
driver_handles_share_servers = false
[backends.common.server]
instance = "nas"
management_address = "192.0.2.10"
key_file = "/etc/nas.key"
host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGZ0ESbL9eQfjJ9vWpQFfbqNqP0u9J0e4d0S3zq4a1Xk root@nas"
"""


def test_a_named_server_is_whole_or_refused() -> None:
    backend = parse(tomllib.loads(SERVER)).backends["common"]
    assert (backend.driver_handles_share_servers, backend.server.ssh_user) == (False, "root")
    assert backend.has_service_network is False
    for line, changed, why in (
        ("driver_handles_share_servers = false", "", "expected only together with driver_handles_share_servers"),
        ('instance = "nas"', "", "it lacks instance"),
        ("AAAAC3NzaC1lZDI1NTE5AAAAI", "AAAA", "expected a line such as the machine's"),
        ('"/etc/nas.key"', '"nas.key"', "expected an absolute path"),
        ('cloud = "simulated"', 'cloud = "simulated"\nmax_share_server_size = 9', "handles_share_servers = true"),
        ('cloud = "simulated"\n', "", ""),
        ('"192.0.2.10"', '"office"', ""),
    ):
        text = SERVER.replace(line, changed)
        assert text != SERVER
        if not why:
            parse(tomllib.loads(text))
            continue
        with pytest.raises(ConfigurationError, match=why):
            parse(tomllib.loads(text))
    libvirt = SERVER.replace('cloud = "simulated"\n', "").replace('"192.0.2.10"', '"office"')
    with pytest.raises(ConfigurationError, match="expected IP addresses, not 'office'"):
        parse(tomllib.loads(libvirt))
    both = SERVER + SERVER.replace("backends.common", "backends.other").replace('"nas"', '"nas2"')
    with pytest.raises(ConfigurationError, match=r"192\.0\.2\.10 is common's"):
        parse(tomllib.loads(both))
