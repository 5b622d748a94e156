"""manila-tempest-plugin's API tests against a Sharewright on the simulated cloud.

usage: run_suite.py [--mode MODE] [--suite DIRECTORY] [--results DIRECTORY] [--write] [REGULAR EXPRESSION]

The suite is in an environment of its own (requirements.txt). What a run passed is compared with what is expected
(comparing.py); ``--write`` adds the tests that passed for the first time to what is expected. With an expression only
the tests that it finds are run, and compared. The exit code is 0 when everything expected has passed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.error import URLError

import comparing

sys.path.append(str(Path(__file__).resolve().parents[1]))

from operators_machine import make_machine
from ports import free_port
from sharewright.api.identity.users import User, Users, hash_password, write_users
from sharewright.api.versions import MAXIMUM
from sharewright.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
TESTS = r"^manila_tempest_tests\.tests\.api"
START_SECONDS = 300.0
CONCURRENCY = 4
BACKEND_NAMES = ("alpha", "beta")
# As in upstream's job: a back end of the other mode, for the tests that move a share from one mode to the other. It
# keeps no replicas.
OTHER_BACKEND = "gamma"
OTHER_MODE = {"dhss-true": "dhss-false", "dhss-false": "dhss-true"}

SERVICE = """\
state_dir = "{directory}/state"
node = "host1"
default_share_group_type = "default"
log_level = "warning"

[api]
port = {port}
threads = 16

[identity]
mode = "builtin"
user_file = "{directory}/users.json"

[worker]
threads = 16
poll_seconds = 0.2
gather_quiet_seconds = 0.01
stats_seconds = 5.0
unused_server_seconds = 0.0

[quotas]
shares = 500
gigabytes = 5000
snapshots = 500
snapshot_gigabytes = 5000
share_networks = 500

[simulated]
any_network = true
"""

# By mode.
BACKENDS = {
    "dhss-true": """
[backends.{name}]
driver = "sharewright.drivers.simulated.replicating:{driver}"
cloud = "simulated"
availability_zone = "{zone}"
default_network_id = "3d5ca4a0-9a3e-4a8e-8f2c-2a4f64b87d10"
default_subnet_ids = ["7f0f3c39-9b6c-4a39-8c55-6a0b1fb05b04", "7f0f3c39-9b6c-4a39-8c55-6a0b1fb05b06"]
service_network_cidr = "10.{number}.0.0/16"
service_network_division_mask = 20
""",
    "dhss-false": """
[backends.{name}]
driver = "sharewright.drivers.simulated.replicating:{driver}"
cloud = "simulated"
availability_zone = "{zone}"
driver_handles_share_servers = false

[backends.{name}.server]
instance = "{server.instance}"
management_address = "{server.management_address}"
export_addresses = ["{server.management_address}", "2001:db8::{number}"]
key_file = "{server.key_file}"
host_key = "{server.host_key}"
""",
}

# The options of upstream's job for the dummy driver, with what a generic driver has.
TEMPEST = """\
[DEFAULT]
log_dir = {directory}/logs
log_file = tempest.log
debug = false

[oslo_concurrency]
lock_path = {directory}/locks

[auth]
use_dynamic_credentials = true
create_isolated_networks = false
admin_username = root
admin_password = {password}
admin_project_name = operators
admin_domain_name = Default

[identity]
uri_v3 = {base}/identity/v3
auth_version = v3
region = RegionOne

[identity-feature-enabled]
api_v3 = true

[service_available]
cinder = false
glance = false
horizon = false
manila = true
neutron = false
nova = false
swift = false

[network]
project_network_cidr = 10.100.0.0/16

[share]
region = RegionOne
catalog_type = shared-file-system
max_api_microversion = 2.{newest}
create_networks_when_multitenancy_enabled = false
backend_names = alpha,beta
multi_backend = true
default_share_type_name = default
build_interval = 1
build_timeout = 120
share_creation_retry_number = 2
suppress_errors_in_cleanup = true
enable_protocols = nfs,cifs
enable_ip_rules_for_protocols = nfs
enable_user_rules_for_protocols = cifs
enable_ro_access_level_for_protocols = nfs,cifs
multitenancy_enabled = {multitenancy}
capability_snapshot_support = true
capability_create_share_from_snapshot_support = true
run_quota_tests = true
run_extend_tests = true
run_shrink_tests = true
run_snapshot_tests = true
run_consistency_group_tests = false
run_share_group_tests = true
run_revert_to_snapshot_tests = true
run_mount_snapshot_tests = true
run_manage_unmanage_tests = true
run_manage_unmanage_snapshot_tests = true
run_replication_tests = true
run_multiple_share_replicas_tests = true
backend_replication_type = readable
run_migration_with_preserve_snapshots_tests = true
run_driver_assisted_migration_tests = true
run_host_assisted_migration_tests = false
run_share_server_migration_tests = true
run_share_server_multiple_subnet_tests = true
run_network_allocation_update_tests = true
run_mount_point_name_tests = true
run_driver_assisted_backup_tests = true
run_ipv6_tests = true
capability_storage_protocol = NFS_CIFS
"""


def main() -> int:
    arguments = parse_arguments()
    suite, results = arguments.suite.absolute(), arguments.results.absolute()
    results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="sharewright-conformance-") as name:
        directory = Path(name)
        os.environ["LC_ALL"] = "C.UTF-8"
        password = secrets.token_urlsafe(16)
        administrator = user("root", password, "operators", "admin", "member")
        configuration = backends(directory, arguments.mode)
        configuration += backends(
            directory, OTHER_MODE[arguments.mode], (OTHER_BACKEND,), driver="MIGRATING", first=len(BACKEND_NAMES)
        )
        with serving(directory, Users(users=(administrator,)), configuration, results / "service.log") as base:
            headers = as_administrator(base, password, "operators")
            set_default_type(base, headers, arguments.mode)
            make_default_group_type(base, headers, "default")
            found = run_tempest(suite, directory, base, password, arguments)
        keep(directory, results, arguments.mode)
    return judge(arguments.mode, found, arguments.expression, write=arguments.write)


def keep(directory: Path, results: Path, mode: str) -> None:
    """What a run found, in ``results``."""
    shutil.copy(directory / "results.csv", results / f"{mode}.csv")
    shutil.copy(directory / "failures.txt", results / f"{mode}-failures.txt")


def judge(mode: str, found: dict[str, str], expression: str, *, write: bool) -> int:
    """Compare what was found with what is expected of the tests that were chosen, and tell. The exit code."""
    chosen = re.compile(expression)
    wanted = {test for test in comparing.expected(mode) if chosen.search(test)}
    comparison = comparing.compare(wanted, found)
    report(mode, comparison, found)
    if write and comparison.new:
        both = sorted(comparing.expected(mode) | comparison.passed)
        (comparing.HERE / f"expected-{mode}.txt").write_text("\n".join(both) + "\n")
    return 0 if comparison.is_good else 1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=comparing.MODES, default=comparing.MODES[0])
    parser.add_argument("--suite", type=Path, default=ROOT / "build/conformance/venv")
    parser.add_argument("--results", type=Path, default=ROOT / "build/conformance")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("expression", nargs="?", default="")
    return parser.parse_args()


@contextmanager
def serving(directory: Path, users: Users, configuration: str, log: Path, *, head: str = "") -> Iterator[str]:
    """A Sharewright of its own on a free port; ``head`` and ``configuration`` are before and after what every run has.
    Yields where it is."""
    port = free_port()
    write_users(directory / "users.json", users)
    path = directory / "sharewright.toml"
    path.write_text(head + SERVICE.format(directory=directory, port=port) + configuration)
    command = [str(Path(sys.executable).parent / "sharewright"), "--config", str(path), "serve"]
    base = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        try:
            await_answer(f"{base}/healthcheck", process)
            yield base
        finally:
            end(process)


def user(name: str, password: str, project: str, *roles: str) -> User:
    return User(name=name, password_hash=hash_password(password, rounds=4), roles={project: roles})


def end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def backends(
    directory: Path, mode: str, names: Sequence[str] = BACKEND_NAMES, *, driver: str = "REPLICATING", first: int = 0
) -> str:
    """The back ends' part of the configuration, in zones from the ``first`` on. Each has a machine of an operator's
    where they make no servers."""
    written = []
    for number, name in enumerate(names, first):
        server = None
        if mode == "dhss-false":
            _, server = make_machine(Settings(state_dir=str(directory / "state")), name=f"nas-{name}")
        values = {"name": name, "zone": f"manila-zone-{number}", "number": 252 + number, "driver": driver}
        written.append(BACKENDS[mode].format(server=server, **values))
    return "".join(written)


def await_answer(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (URLError, OSError):
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit("The service did not start; see service.log.") from None
            time.sleep(0.2)


def as_administrator(base: str, password: str, project: str) -> dict[str, str]:
    """The headers of requests of the administrator's."""
    who = {"name": "root", "domain": {"name": "Default"}, "password": password}
    scope = {"project": {"name": project, "domain": {"name": "Default"}}}
    auth = {"identity": {"methods": ["password"], "password": {"user": who}}, "scope": scope}
    _, headers = ask("POST", f"{base}/identity/v3/auth/tokens", {"auth": auth}, {})
    return {"X-Auth-Token": headers["X-Subject-Token"], "X-OpenStack-Manila-API-Version": f"2.{MAXIMUM}"}


def set_default_type(base: str, headers: Mapping[str, str], mode: str) -> None:
    """As an operator does who has back ends of both modes: say which one shares go to that name no type."""
    made, _ = ask("GET", f"{base}/v2/types/default", None, headers)
    specs = {"driver_handles_share_servers": str(mode == "dhss-true")}
    ask("POST", f"{base}/v2/types/{made['share_type']['id']}/extra_specs", {"extra_specs": specs}, headers)


def make_default_group_type(base: str, headers: Mapping[str, str], share_type: str) -> None:
    """What an operator does besides the configuration, in upstream's job too."""
    kind = {"name": "default", "share_types": [share_type]}
    ask("POST", f"{base}/v2/share-group-types", {"share_group_type": kind}, headers)


def ask(method: str, url: str, body: Any, headers: Mapping[str, str]) -> tuple[Any, Message]:
    """What is answered, and the answer's headers. Raises HTTPError for an answer that is no success."""
    sent = {"Content-Type": "application/json", **headers}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, sent, method=method), timeout=30) as answer:
        text = answer.read()
        return json.loads(text) if text else None, answer.headers


def run_tempest(
    suite: Path, directory: Path, base: str, password: str, arguments: argparse.Namespace
) -> dict[str, str]:
    """Run the chosen tests. Returns id → what became of each."""
    workspace = directory / "workspace"
    environment = {**os.environ, "PATH": f"{suite / 'bin'}:{os.environ['PATH']}", "HOME": str(directory)}
    call([str(suite / "bin/tempest"), "init", str(workspace)], directory, environment, quiet=True)
    (workspace / "etc/tempest.conf").write_text(
        TEMPEST.format(
            directory=workspace,
            base=base,
            password=password,
            newest=MAXIMUM,
            multitenancy="true" if arguments.mode == "dhss-true" else "false",
        )
    )
    chosen = choose(suite, directory, workspace, environment, TESTS, arguments.expression)
    run = [
        str(suite / "bin/tempest"), "run", "--include-list", str(directory / "tests.txt"),
        "--concurrency", str(min(CONCURRENCY, len(chosen))),
    ]  # fmt: skip
    call(run, workspace, environment, accepted=(0, 1))
    return results_of(suite, directory, workspace, environment)


def choose(
    suite: Path, directory: Path, workspace: Path, environment: dict[str, str], tests: str, expression: str
) -> list[str]:
    """The tests of a suite that both patterns find, also in ``directory``/tests.txt."""
    listed = call([str(suite / "bin/stestr"), "list", tests], workspace, environment, quiet=True)
    chosen = [test for test in listed.splitlines() if "." in test and re.search(expression, test)]
    if not chosen:
        raise SystemExit("There is no such test.")
    (directory / "tests.txt").write_text("\n".join(re.escape(test) for test in chosen) + "\n")
    return chosen


def results_of(suite: Path, directory: Path, workspace: Path, environment: dict[str, str]) -> dict[str, str]:
    """What became of each test of the last run, which is also left in ``directory`` for people."""
    stream = subprocess.run(
        [str(suite / "bin/stestr"), "last", "--subunit"],
        cwd=workspace,
        env=environment,
        capture_output=True,
        check=False,
    ).stdout
    (directory / "results.csv").write_bytes(
        subprocess.run(
            [str(suite / "bin/subunit2csv"), "--no-passthrough"], input=stream, capture_output=True, check=False
        ).stdout
    )
    (directory / "failures.txt").write_text(
        call([str(suite / "bin/stestr"), "last"], workspace, environment, quiet=True, accepted=(0, 1))
    )
    with (directory / "results.csv").open() as source:
        return comparing.read_results(source)


def call(
    command: Sequence[str],
    directory: Path,
    environment: dict[str, str],
    *,
    quiet: bool = False,
    accepted: Sequence[int] = (0,),
) -> str:
    """Run a command of the suite; its output when ``quiet``, else it goes where ours goes."""
    done = subprocess.run(
        command, cwd=directory, env=environment, stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None, stdin=subprocess.DEVNULL, text=True, check=False,
    )  # fmt: skip
    if done.returncode not in accepted:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}.\n{done.stdout or ''}")
    return done.stdout or ""


def report(mode: str, comparison: comparing.Comparison, results: dict[str, str]) -> None:
    others = comparing.passed_elsewhere(mode)
    counts: dict[str, int] = {}
    for status in results.values():
        counts[status] = counts.get(status, 0) + 1
    print(f"\n{mode}: " + ", ".join(f"{number} {status}" for status, number in sorted(counts.items())))
    what = "that upstream passes" if mode in comparing.MODES else "that there are"
    print(f"of the {len(others)} {what}: {len(others & comparison.passed)} passed in this run")
    for test, status in comparison.missing.items():
        print(f"EXPECTED, {status}: {test}")
    for test in sorted(comparison.new):
        print(f"passed for the first time: {test}")
    print(f"{len(comparison.missing)} expected tests did not pass; {len(comparison.new)} new ones did")


if __name__ == "__main__":
    sys.exit(main())
