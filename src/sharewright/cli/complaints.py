"""How a command says what went wrong."""

from __future__ import annotations

import os
import sys
import traceback

from sharewright.errors import ConfigurationError, SharewrightError
from sharewright.logging import without_secrets


def report(error: Exception, *, debug: bool) -> int:
    """Say on standard error what went wrong; return the exit code."""
    if debug:
        print(without_secrets(traceback.format_exc()), file=sys.stderr)
    if isinstance(error, SharewrightError):
        complain(error.message, error.hint)
        return 2 if isinstance(error, ConfigurationError) else 1
    if isinstance(error, OSError):
        hint = "Are you root?" if isinstance(error, PermissionError) and os.geteuid() != 0 else ""
        complain(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}.", hint)
        return 1
    complain(
        f"Unexpected {type(error).__name__}: {error}",
        "This is a bug in Sharewright." + ("" if debug else " Run again with --debug to see where."),
    )
    return 70


def complain(message: str, hint: str = "") -> None:
    """One error: what, then what to do about it."""
    print(f"error: {without_secrets(message)}", file=sys.stderr)
    if hint:
        print(f"       {without_secrets(hint)}", file=sys.stderr)
