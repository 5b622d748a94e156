"""Entry point of the ``sharewright`` command.

Exit codes: 0 success, 1 the work failed, 2 wrong usage or configuration, 70 a bug of ours, 130 interrupted. Errors go
to standard error as "error: what happened" and a line that says what to do, without a traceback (unless ``--debug``).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from sharewright.cli import (
    configuration,
    database,
    doctor,
    image,
    keystone,
    named_servers,
    network,
    options,
    purge,
    service,
    users,
    version,
)
from sharewright.cli.complaints import report

EXAMPLES = """\
examples:
  sharewright doctor                       what this host lacks, and how to get it
  sharewright serve --cloud simulated      the API on a laptop, without root; nothing real behind it
  sharewright image build                  build the service image
  sharewright serve                        API, worker and maintenance in one process
  sharewright network create blue 10.20.0.0/24
"""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="sharewright",
        description="Shared file systems for every tenant, behind Manila's API v2.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_global_options(top, default=None)
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (
        service,
        database,
        image,
        network,
        named_servers,
        users,
        keystone,
        doctor,
        configuration,
        purge,
        version,
    ):
        module.add(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parsed = parser().parse_args(arguments)
    try:
        code: int = parsed.run(parsed)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the interpreter's last flush succeeds
        return 1
    except Exception as error:
        return report(error, debug=parsed.debug)
    return code


if __name__ == "__main__":
    sys.exit(main())
