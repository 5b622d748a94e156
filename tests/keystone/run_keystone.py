"""Prepare a Keystone with an empty database, and serve it. Runs in the environment of requirements.txt.

usage: run_keystone.py CONFIGURATION PORT     (the administrator's password in OS_BOOTSTRAP_PASSWORD)

What ``keystone-manage`` would be called for four times is done in child processes of one that has loaded it once:
loading it takes 2 s.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import waitress
from keystone.cmd import cli


def main() -> None:
    configuration, port = sys.argv[1:]
    del sys.argv[1:]  # Keystone would read them
    url = f"http://127.0.0.1:{port}/v3"
    account = ["--keystone-user", str(os.getuid()), "--keystone-group", str(os.getgid())]
    urls = [part for kind in ("admin", "public", "internal") for part in (f"--bootstrap-{kind}-url", url)]
    for command in (
        ["fernet_setup", *account],
        ["credential_setup", *account],
        ["db_sync"],
        ["bootstrap", "--bootstrap-region-id", "RegionOne", *urls],
    ):
        manage(configuration, command)
    del os.environ["OS_BOOTSTRAP_PASSWORD"]
    os.environ["OS_KEYSTONE_CONFIG_FILES"] = configuration
    from keystone.server import wsgi  # reads the configuration

    waitress.serve(wsgi.initialize_public_application(), host="127.0.0.1", port=int(port), threads=4)


def manage(configuration: str, command: Sequence[str]) -> None:
    """``keystone-manage COMMAND``. Raises SystemExit when it fails."""
    child = os.fork()
    if not child:
        status = 1
        try:
            cli.main(argv=["keystone-manage", "--config-file", configuration, *command])
            status = 0
        except SystemExit as ended:
            status = int(bool(ended.code))
        finally:
            sys.stderr.flush()
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if status:
        raise SystemExit(f"keystone-manage {command[0]} failed")


if __name__ == "__main__":
    main()
