"""Logs: one form for everything, the request id on every line, no secret in any."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from sharewright.logging import HIDDEN, bound, configure, redact, without_secrets

PEM = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n-----END OPENSSH PRIVATE KEY-----"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level, configuration = list(root.handlers), root.level, structlog.get_config()
    output = io.StringIO()
    yield output
    root.handlers[:] = before
    root.setLevel(level)
    structlog.configure(**configuration)


def test_request_id_is_on_every_line_also_of_other_libraries(stream: io.StringIO) -> None:
    configure(form="json", stream=stream)
    with bound(request_id="req-1", operation_id=None):
        structlog.get_logger("ours").info("first", size=3)
        logging.getLogger("theirs").warning("second %s", "line")
    structlog.get_logger("ours").info("third")
    first, second, third = map(json.loads, stream.getvalue().splitlines())
    assert (first["event"], first["size"], first["request_id"], first["logger"]) == ("first", 3, "req-1", "ours")
    assert (second["event"], second["request_id"], second["level"]) == ("second line", "req-1", "warning")
    assert "request_id" not in third
    assert "operation_id" not in first


def test_level(stream: io.StringIO) -> None:
    configure(level="warning", stream=stream)
    structlog.get_logger("ours").info("quiet")
    structlog.get_logger("ours").warning("loud")
    assert "quiet" not in stream.getvalue()
    assert "loud" in stream.getvalue()


def test_configuring_again_does_not_double_lines(stream: io.StringIO) -> None:
    configure(form="json", stream=stream)
    configure(form="json", stream=stream)
    structlog.get_logger("ours").info("once")
    assert len(stream.getvalue().splitlines()) == 1


@pytest.mark.parametrize("form", ["text", "json"])
def test_secrets_do_not_reach_the_log(stream: io.StringIO, form: str) -> None:
    configure(form="json" if form == "json" else "text", stream=stream)
    log = structlog.get_logger("ours")
    log.info(
        f"key {PEM}",
        password="hunter2",
        database="postgresql://user:hunter2@host/db",
        nested={"rows": [{"auth_token": "hunter2", "private_key": "hunter2"}]},
        headers="Authorization: Basic aHVudGVyMg==",
        data=PEM.encode(),
    )
    logging.getLogger("theirs").error("X-Auth-Token: hunter2 and %s", PEM)
    try:
        raise ValueError(f"postgresql://user:hunter2@host {PEM}")
    except ValueError:
        log.exception("failed", error=ValueError(PEM))
    text = stream.getvalue()
    assert HIDDEN in text
    for secret in ("hunter2", "b3BlbnNzaC1rZXk", "aHVudGVyMg=="):
        assert secret not in text


def test_what_is_no_secret_stays() -> None:
    event = {"token_seconds": 3600, "key": "share:1", "private_key": None, "password": "", "monkey": "x", "passed": 3}
    assert redact(event) == event
    assert without_secrets("http://host:8786/v2 user@host a:b@c") == "http://host:8786/v2 user@host a:b@c"


def test_a_truncated_key_is_hidden_too() -> None:
    assert "b3Blbn" not in without_secrets("-----BEGIN PRIVATE KEY-----\nb3BlbnNzaC1rZXk")


def test_a_value_cannot_forge_a_line_of_the_text_log(stream: io.StringIO) -> None:
    configure(form="text", stream=stream)
    structlog.get_logger("ours").info("share created", name="x\n2026-01-01 [info] all is well\x1b[2J")
    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b[2J" not in stream.getvalue()
