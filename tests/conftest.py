"""Fixtures for every test."""

from __future__ import annotations

import hypothesis
import pytest
import structlog

# How long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

pytest_plugins = ["databases"]
pytest.register_assert_rewrite("stories_on_clouds", "keystone_stories", "keystone_world")


@pytest.fixture(scope="session", autouse=True)
def plain_logs() -> None:
    """Log lines as plain text on standard output, where pytest keeps them for failures. The default renderer's pretty
    tracebacks cost half a second each."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["level", "event"]),
        ],
        logger_factory=structlog.PrintLoggerFactory(),
        cache_logger_on_first_use=False,
    )
