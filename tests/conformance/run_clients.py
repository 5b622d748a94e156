"""The functional tests that python-manilaclient and openstacksdk have of their own, against a Sharewright on the
simulated cloud, with identity by the mode ``builtin``.

usage: run_clients.py --client CLIENT [--suite DIRECTORY] [--results DIRECTORY] [--write] [REGULAR EXPRESSION]

The rest is as in run_suite.py: ``--write`` adds what passed for the first time to what is expected, and writes down
which tests there are. The service has back ends of both kinds, and the share type that both suites take for granted.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import comparing
from network_endpoint import network_endpoint
from run_suite import (
    CONCURRENCY,
    ROOT,
    as_administrator,
    ask,
    backends,
    call,
    choose,
    end,
    judge,
    keep,
    make_default_group_type,
    results_of,
    serving,
    user,
)

sys.path.append(str(Path(__file__).resolve().parents[1]))

from sharewright.api.identity.users import Users
from sharewright.api.versions import MAXIMUM

SERVER = comparing.HERE / "clients/openstack_server.py"
START_SECONDS = 120.0
# Of both suites: the share type of what names none, on machines that somebody has made.
SHARE_TYPE = "dhss_false"
SPECS = {
    "driver_handles_share_servers": "False", "snapshot_support": "True", "create_share_from_snapshot_support": "True",
    "revert_to_snapshot_support": "True", "mount_snapshot_support": "True",
    "replication_type": "readable",
}  # fmt: skip
# User → project and roles. The suites' administrator is one of the user's project, as in devstack.
PEOPLE = {"root": ("demo", "admin", "member"), "demo": ("demo", "member"), "alt": ("alt", "member")}
FUNCTIONAL = {
    "manilaclient": "manilaclient/tests/functional",
    "openstacksdk": "openstack/tests/functional/shared_file_system",
}
# Tests of which some remove what is another's: they are run one after the other.
TOGETHER = {"manilaclient": "", "openstacksdk": ".*?test_share_(group|replica)"}

MANILACLIENT = """\
[DEFAULT]
username = demo
tenant_name = demo
password = {password}
auth_url = {base}/identity/v3
project_domain_name = Default
user_domain_name = Default
admin_username = root
admin_tenant_name = demo
admin_password = {password}
admin_auth_url = {base}/identity/v3
admin_project_domain_name = Default
admin_user_domain_name = Default
manila_exec_dir = {directory}
max_api_microversion = 2.{newest}
build_interval = 1
build_timeout = 120
suppress_errors_in_cleanup = false
run_replication_tests = true
run_snapshot_tests = true
run_mount_snapshot_tests = true
run_manage_tests = true
"""
CLOUDS = {"devstack": "demo", "devstack-alt": "alt", "devstack-admin": "root", "devstack-system-admin": "root"}


@dataclass(frozen=True)
class Run:
    """A service that answers at ``base``, whose users have one password, and a suite that is to run against it."""

    suite: Path
    directory: Path
    base: str
    password: str

    def environment(self, **changes: str) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("OS_")}
        path = f"{self.suite / 'bin'}:{os.environ['PATH']}"
        return {**kept, "PATH": path, "HOME": str(self.directory), "PYTHONWARNINGS": "ignore", **changes}


def main() -> int:
    arguments = parse_arguments()
    suite, results = arguments.suite.absolute(), arguments.results.absolute()
    results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="sharewright-clients-") as name:
        directory, password = Path(name), secrets.token_urlsafe(16)
        os.environ["LC_ALL"] = "C.UTF-8"
        people = Users(users=tuple(user(each, password, *whose) for each, whose in PEOPLE.items()))
        head = f'default_share_type = "{SHARE_TYPE}"\n'
        configuration = backends(directory, "dhss-true") + backends(directory, "dhss-false", ("gamma", "delta"))
        with serving(directory, people, configuration, results / "service.log", head=head) as base:
            run = Run(suite, directory, base, password)
            make_types(run)
            found = RUNS[arguments.client](run, arguments)
        keep(directory, results, arguments.client)
    if arguments.write and not arguments.expression:
        (comparing.HERE / f"all-{arguments.client}.txt").write_text("\n".join(sorted(found)) + "\n")
    return judge(arguments.client, found, arguments.expression, write=arguments.write)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--client", choices=comparing.CLIENTS, required=True)
    parser.add_argument("--suite", type=Path, default=ROOT / "build/conformance/clients/venv")
    parser.add_argument("--results", type=Path, default=ROOT / "build/conformance")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("expression", nargs="?", default="")
    return parser.parse_args()


def make_types(run: Run) -> None:
    """As devstack's plugin for Manila does: the share type, in place of the one that a first start makes, and the share
    group type of groups that name none."""
    headers = as_administrator(run.base, run.password, PEOPLE["root"][0])
    made, _ = ask("GET", f"{run.base}/v2/types/default", None, headers)
    ask("DELETE", f"{run.base}/v2/types/{made['share_type']['id']}", None, headers)
    ask("POST", f"{run.base}/v2/types", {"share_type": {"name": SHARE_TYPE, "extra_specs": SPECS}}, headers)
    make_default_group_type(run.base, headers, SHARE_TYPE)


def run_manilaclient(run: Run, arguments: argparse.Namespace) -> dict[str, str]:
    settings = run.directory / "manilaclient.conf"
    settings.write_text(
        MANILACLIENT.format(directory=run.directory, base=run.base, password=run.password, newest=newest_of_client(run))
    )
    environment = run.environment(OS_MANILACLIENT_CONFIG_DIR=str(run.directory))
    with commanding(run):
        return run_tests(run, environment, arguments)


def newest_of_client(run: Run) -> int:
    """The microversion that both know."""
    code = "from manilaclient import api_versions; print(api_versions.MAX_VERSION)"
    said = call([str(run.suite / "bin/python"), "-c", code], run.directory, run.environment(), quiet=True)
    return min(MAXIMUM, int(said.strip().rpartition(".")[2]))


@contextmanager
def commanding(run: Run) -> Iterator[None]:
    """The command ``openstack`` in the run's directory."""
    process = subprocess.Popen([str(run.suite / "bin/python"), str(SERVER), str(run.directory)], env=run.environment())
    try:
        limit = time.monotonic() + START_SECONDS
        while not (run.directory / "openstack").exists():
            if process.poll() is not None or time.monotonic() > limit:
                raise SystemExit("The client did not start.")
            time.sleep(0.1)
        yield
    finally:
        end(process)


def run_openstacksdk(run: Run, arguments: argparse.Namespace) -> dict[str, str]:
    with network_endpoint() as networks:
        return _run_openstacksdk(run, arguments, networks)


def _run_openstacksdk(run: Run, arguments: argparse.Namespace, networks: str) -> dict[str, str]:
    clouds = {
        cloud: {
            "auth": {
                "auth_url": f"{run.base}/identity/v3", "username": name, "password": run.password,
                "project_name": PEOPLE[name][0], "user_domain_id": "default", "project_domain_id": "default",
            },
            "region_name": "RegionOne",
            "network_endpoint_override": networks,
        }
        for cloud, name in CLOUDS.items()
    }  # fmt: skip
    path = run.directory / "clouds.json"
    path.write_text(json.dumps({"clouds": clouds}))
    environment = run.environment(
        OS_CLIENT_CONFIG_FILE=str(path), OS_LOG_CAPTURE="1", OS_TEST_TIMEOUT="300", OPENSTACKSDK_FUNC_TEST_TIMEOUT="120"
    )
    return run_tests(run, environment, arguments)


def run_tests(run: Run, environment: dict[str, str], arguments: argparse.Namespace) -> dict[str, str]:
    """Run the chosen tests of the client's package. Returns id → what became of each."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = call([str(run.suite / "bin/python"), "-c", code], run.directory, environment, quiet=True).strip()
    workspace = run.directory / "workspace"
    workspace.mkdir()
    together = f"group_regex={TOGETHER[arguments.client]}\n" if TOGETHER[arguments.client] else ""
    (workspace / ".stestr.conf").write_text(
        f"[DEFAULT]\ntest_path={packages}/{FUNCTIONAL[arguments.client]}\ntop_dir={packages}\n{together}"
    )
    call([str(run.suite / "bin/stestr"), "init"], workspace, environment, quiet=True)
    chosen = choose(run.suite, run.directory, workspace, environment, "", arguments.expression)
    stestr = [
        str(run.suite / "bin/stestr"), "run", "--include-list", str(run.directory / "tests.txt"),
        "--concurrency", str(min(CONCURRENCY, len(chosen))),
    ]  # fmt: skip
    call(stestr, workspace, environment, accepted=(0, 1))
    return results_of(run.suite, run.directory, workspace, environment)


RUNS = {"manilaclient": run_manilaclient, "openstacksdk": run_openstacksdk}

if __name__ == "__main__":
    sys.exit(main())
