"""``sharewright-guest boot | serve | version``, and ``copy``, which the program starts itself."""

from __future__ import annotations

import os
import sys

from .host import Host
from .identity import IDENTITY

USAGE = "usage: sharewright-guest boot | serve | version"


def main(arguments: list[str]) -> int:
    """Exit status: 0 success, 1 failure, 2 wrong arguments."""
    host = Host(os.environ.get("SHAREWRIGHT_GUEST_ROOT", ""))  # a scratch root, for tests; sshd passes no environment
    if arguments == ["boot"]:
        from . import boot

        return boot.main(host)
    if arguments == ["serve"]:
        from . import serving

        return serving.serve(host)
    if len(arguments) == 2 and arguments[0] == "copy":
        from . import moving

        return moving.main(host, arguments[1])
    if arguments == ["version"]:
        print(IDENTITY)
        return 0
    print(USAGE, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
