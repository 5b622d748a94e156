"""Upstream Manila on the loopback interface, from nothing: MariaDB, RabbitMQ, memcached, Keystone, and Manila's API,
scheduler and share service with the driver that does nothing.

``Site`` is the state of one in a directory of its own, and its ports; ``running`` starts all its services as children
of this process and ends them. What is kept in the directory between two starts are databases and keys.
"""

from __future__ import annotations

import functools
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from ports import free_port

_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"

# As durable as a MariaDB of Debian is by default; memory as PostgreSQL's in api.py.
_MARIADB: Final = (
    "--no-defaults", "--user=root", "--skip-networking", "--skip-name-resolve", "--max-connections=400",
    "--innodb-buffer-pool-size=256M", "--character-set-server=utf8mb3",
)  # fmt: skip

# RabbitMQ advises machines with few processors against Erlang's busy waiting, which would be at others' cost here.
_ERLANG: Final = "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none"

_RABBITMQ: Final = """\
listeners.tcp.default = 127.0.0.1:{broker}
default_user = bench
default_pass = {password}
"""

# Warnings only, as Sharewright in api.py: upstream writes two lines a request otherwise.
_LEVELS: Final = ",".join(
    f"{name}=WARNING" for name in ("manila", "keystone", "keystonemiddleware", "oslo_messaging", "amqp", "sqlalchemy")
)

_KEYSTONE: Final = """\
[DEFAULT]
log_file = {directory}/log/keystone.log
default_log_levels = {levels}

[database]
connection = {database}/keystone?unix_socket={directory}/mariadb.sock

[cache]
enabled = true
backend = dogpile.cache.pymemcache
memcache_servers = 127.0.0.1:{cache}

[token]
provider = fernet
expiration = 86400

[fernet_tokens]
key_repository = {directory}/fernet

[credential]
key_repository = {directory}/credential
"""

_MANILA: Final = """\
[DEFAULT]
host = bench
my_ip = 127.0.0.1
state_path = {directory}/manila
log_dir = {directory}/log
default_log_levels = {levels}
transport_url = rabbit://bench:{password}@127.0.0.1:{broker}/
auth_strategy = keystone
api_paste_config = {environment}/etc/manila/api-paste.ini
default_share_type = default
enabled_share_protocols = NFS,CIFS
enabled_share_backends = {backends}

[database]
connection = {database}/manila?unix_socket={directory}/mariadb.sock

[oslo_concurrency]
lock_path = {directory}/manila/lock

[coordination]
backend_url = file://{directory}/manila/coordination

[keystone_authtoken]
auth_type = password
auth_url = http://127.0.0.1:{identity}/v3
www_authenticate_uri = http://127.0.0.1:{identity}/v3
memcached_servers = 127.0.0.1:{cache}
username = admin
password = {password}
project_name = admin
user_domain_id = default
project_domain_id = default

[quota]
shares = -1
gigabytes = -1
"""

# Methods that are not named wait for as long as the default; without any named, some would wait longer.
_BACKEND: Final = """
[{name}]
share_driver = manila.tests.share.drivers.dummy.DummyDriver
driver_handles_share_servers = False
share_backend_name = {name}
dummy_driver_default_driver_method_delay = 0
dummy_driver_driver_methods_delays = create_share:0
"""


@dataclass(frozen=True)
class Site:
    """``environment``: the virtual environment with Manila and Keystone; ``processes``: of each of the two APIs."""

    directory: Path
    environment: Path
    processes: int = 2
    backends: tuple[str, ...] = ("alpha", "beta", "gamma")
    password: str = field(default_factory=lambda: secrets.token_hex(16))
    broker: int = field(default_factory=free_port)
    broker_distribution: int = field(default_factory=free_port)
    names: int = field(default_factory=free_port)  # of epmd, which Erlang asks for the node
    cache: int = field(default_factory=free_port)
    identity: int = field(default_factory=free_port)
    shares: int = field(default_factory=free_port)

    @property
    def manila_configuration(self) -> Path:
        return self.directory / "manila.conf"

    @property
    def _keystone_configuration(self) -> Path:
        return self.directory / "keystone.conf"

    def prepare(self) -> None:
        """Write configurations, make and fill both databases. MariaDB and memcached serve meanwhile, nothing else."""
        for name in ("log", "home", "rabbitmq", "manila/lock", "manila/coordination"):
            (self.directory / name).mkdir(parents=True)
        values = {
            **vars(self), "database": "mysql+pymysql://root@localhost", "backends": ",".join(self.backends),
            "levels": _LEVELS,
        }  # fmt: skip
        sections = "".join(_BACKEND.format(name=name) for name in self.backends)
        (self.directory / "rabbitmq.conf").write_text(_RABBITMQ.format(**values))
        (self.directory / "plugins").write_text("[].\n")
        self._keystone_configuration.write_text(_KEYSTONE.format(**values))
        self.manila_configuration.write_text(_MANILA.format(**values) + sections)
        install = ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={self.directory}/mariadb"]
        self.run(*install, "--auth-root-authentication-method=normal", "--skip-test-db")
        with self._stores():
            for name in ("keystone", "manila"):
                self.statement(f"CREATE DATABASE {name} CHARACTER SET utf8mb3")
            keystone = [f"{self.environment}/bin/keystone-manage", "--config-file", str(self._keystone_configuration)]
            account = ["--keystone-user", str(os.getuid()), "--keystone-group", str(os.getgid())]
            url = f"http://127.0.0.1:{self.identity}/v3"
            urls = [part for kind in ("admin", "public", "internal") for part in (f"--bootstrap-{kind}-url", url)]
            self.run(*keystone, "fernet_setup", *account)
            self.run(*keystone, "credential_setup", *account)
            self.run(*keystone, "db_sync")
            self.run(*keystone, "bootstrap", *urls, variables={"OS_BOOTSTRAP_PASSWORD": self.password})
            manage = f"{self.environment}/bin/manila-manage"
            self.run(manage, "--config-file", str(self.manila_configuration), "db", "sync")

    @contextmanager
    def running(self) -> Iterator[None]:
        """All services, which answer; the scheduler may not know of all backends yet. Raises RuntimeError with the end
        of its output when one does not answer."""
        with ExitStack() as stack:
            stack.enter_context(self._stores())

            def start(name: str, command: list[str], ready: Callable[[], bool]) -> None:
                self._wait(name, stack.enter_context(self._process(name, command)), ready)

            epmd = ["epmd", "-address", "127.0.0.1", "-port", str(self.names)]
            start("epmd", epmd, lambda: _listens(self.names))
            start("rabbitmq", ["/usr/lib/rabbitmq/bin/rabbitmq-server"], lambda: _listens(self.broker))
            keystone = self._uwsgi("keystone.wsgi.api", self.identity)
            start("keystone", keystone, lambda: _answers(self.identity))
            options = ["--config-file", str(self.manila_configuration)]
            interface = [*self._uwsgi("manila.wsgi.api", self.shares), "--pyargv", " ".join(options)]
            start("manila-api", interface, lambda: _answers(self.shares))
            begun = datetime.now(UTC).replace(tzinfo=None).isoformat()
            for name, number in (("manila-scheduler", 1), ("manila-share", len(self.backends))):
                reported = functools.partial(self._have_reported, name, number, begun)
                start(name, [f"{self.environment}/bin/{name}", *options], reported)
            yield

    def token(self) -> str:
        """Of the administrator, for the project admin; good for a day."""
        domain = {"id": "default"}
        user = {"name": "admin", "domain": domain, "password": self.password}
        body = {
            "auth": {
                "identity": {"methods": ["password"], "password": {"user": user}},
                "scope": {"project": {"name": "admin", "domain": domain}},
            }
        }
        status, headers, _ = _ask(self.identity, "POST", "/v3/auth/tokens", {}, json.dumps(body))
        assert status == 201, status
        return str(headers["X-Subject-Token"])

    def pools(self) -> int:
        """How many pools (one of each backend) the scheduler knew when it last placed a share; it keeps that."""
        return len(self._get("/v2/scheduler-stats/pools")["pools"])

    def statement(self, text: str) -> None:
        """Have the database carry out a statement."""
        options = ["--no-defaults", f"--socket={self.directory}/mariadb.sock", "--user=root"]
        self.run("mariadb", *options, "--execute", text)

    def run(self, *command: str, variables: Mapping[str, str] | None = None) -> None:
        """A command that ends by itself. Raises RuntimeError with its output when it fails."""
        ended = subprocess.run(
            command, env=self._variables(variables), cwd=self.directory, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        if ended.returncode:
            raise RuntimeError(f"{' '.join(command)} failed ({ended.returncode}):\n{ended.stdout[-3000:]}")

    # ---- parts -------------------------------------------------------------------------------------------------------

    def _variables(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """None of the caller's: what they say about clouds, databases and Python must not reach the services."""
        directory = str(self.directory)
        return {
            "PATH": _PATH, "LC_ALL": "C.UTF-8", "HOME": f"{directory}/home",
            "OS_KEYSTONE_CONFIG_FILES": str(self._keystone_configuration),
            "ERL_EPMD_ADDRESS": "127.0.0.1", "ERL_EPMD_PORT": str(self.names),
            "ERL_CRASH_DUMP": f"{directory}/log/erlang.dump",
            "RABBITMQ_NODENAME": "bench@localhost", "RABBITMQ_DIST_PORT": str(self.broker_distribution),
            "RABBITMQ_MNESIA_BASE": f"{directory}/rabbitmq", "RABBITMQ_LOG_BASE": f"{directory}/log",
            "RABBITMQ_CONFIG_FILE": f"{directory}/rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{directory}/plugins",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _ERLANG,
            **(more or {}),
        }  # fmt: skip

    @contextmanager
    def _stores(self) -> Iterator[None]:
        data, socket_path = self.directory / "mariadb", self.directory / "mariadb.sock"
        options = [*_MARIADB, f"--datadir={data}", f"--socket={socket_path}", f"--pid-file={data}/pid"]
        with self._process("mariadb", ["mariadbd", *options]) as process:

            def serves() -> bool:
                with suppress(RuntimeError):
                    self.statement("SELECT 1")
                    return True
                return False

            self._wait("mariadb", process, serves)
            command = ["memcached", "-u", "root", "-l", "127.0.0.1", "-p", str(self.cache), "-U", "0"]
            with self._process("memcached", command) as cache:
                self._wait("memcached", cache, lambda: _listens(self.cache))
                yield

    def _uwsgi(self, module: str, port: int) -> list[str]:
        """As DevStack serves the APIs, but without a proxy in front: processes with one thread each, of which every one
        loads the application itself, and a connection for each request."""
        return [
            f"{self.environment}/bin/uwsgi", "--http-socket", f"127.0.0.1:{port}", "--module", f"{module}:application",
            "--master", "--die-on-term", "--no-orphans", "--lazy-apps", "--need-app", "--enable-threads",
            "--thunder-lock", "--processes", str(self.processes), "--buffer-size", "65535", "--listen", "128",
            "--add-header", "Connection: close", "--disable-logging",
        ]  # fmt: skip

    @contextmanager
    def _process(self, name: str, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
        """A service in a session of its own, so that all that it starts can be ended with it. It must not outlive this
        program, not even when that is killed: hence the parent-death signal."""
        with (self.directory / "log" / f"{name}.out").open("ab") as output:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig=TERM", "--", *command], env=self._variables(), cwd=self.directory,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(60)
            with suppress(ProcessLookupError):  # that none is left is what is expected
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _wait(self, name: str, process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
        end = time.monotonic() + 180
        while not ready():
            if process.poll() is not None or time.monotonic() > end:
                output = (self.directory / "log" / f"{name}.out").read_text(errors="replace")
                raise RuntimeError(f"{name} does not answer:\n{output[-3000:]}")
            time.sleep(0.2)

    def _have_reported(self, name: str, number: int, since: str) -> bool:
        """Whether so many services of this name have reported since then; they do every ten seconds."""
        services = self._get("/v2/services")["services"]
        fresh = [each for each in services if each["binary"] == name and (each["updated_at"] or "") > since]
        return len(fresh) == number

    def _get(self, path: str) -> Any:
        headers = {"X-Auth-Token": self.token(), "X-OpenStack-Manila-API-Version": "2.70"}
        status, _, body = _ask(self.shares, "GET", path, headers)
        assert status == 200, (status, body)
        return json.loads(body)


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
        return True
    return False


def _answers(port: int) -> bool:
    with suppress(OSError, http.client.HTTPException):
        return _ask(port, "GET", "/", {})[0] < 500
    return False


def _ask(port: int, method: str, path: str, headers: Mapping[str, str], body: str = "") -> tuple[int, Any, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body or None, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()
