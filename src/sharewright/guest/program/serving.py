"""``serve``: the line protocol of sharewright/guest/document.py on standard input and output."""

from __future__ import annotations

import json
import os

from .host import PROGRAM, STATE, CommandFailed, Host, Refusal
from .identity import IDENTITY

GENERATION = f"{STATE}/generation.json"
LOCK_SECONDS = 30.0
LONGEST_REQUEST = 16 * 1024 * 1024


class Lines:
    """Lines from a descriptor, read without a buffer that an exec would lose."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.rest = b""

    def next(self) -> bytes | None:
        """The next line without its end; None at the end of input. Refusal when it is too long."""
        parts = [self.rest]
        size = len(self.rest)
        while b"\n" not in parts[-1]:
            chunk = os.read(self.descriptor, 65536)
            if not chunk:
                return None
            parts.append(chunk)
            size += len(chunk)
            if size > LONGEST_REQUEST:
                raise Refusal("invalid", f"The request is longer than {LONGEST_REQUEST} bytes.")
        line, _, self.rest = b"".join(parts).partition(b"\n")
        return line


def serve(host: Host) -> int:
    """Answer requests until the input ends, or nobody reads the answers any more. Whatever goes wrong in one call is
    its answer, never the end of all."""
    try:
        return _serve(host)
    except BrokenPipeError:
        return 0  # the connection was lost; the work was done, and its answer will be asked for again


def _serve(host: Host) -> int:
    lines = Lines(0)
    while True:
        try:
            line = lines.next()
        except Refusal as error:
            answer_failure("invalid", error.message)
            return 1  # the rest of that line cannot be told from the next one
        if line is None:
            return 0
        if not line.strip():
            continue
        replaced = False
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise Refusal("invalid", "The request is not a JSON object.")
            if request.get("call") == "upgrade" and lines.rest:
                raise Refusal("invalid", "Nothing may follow an upgrade before its answer.")
            fields, replaced = handle(host, request)
            answer({"ok": True, **fields})
        except Refusal as error:
            answer_failure(error.kind, error.message, error.hint)
        except ValueError as error:
            answer_failure("invalid", f"The request cannot be read: {error}")
        except (CommandFailed, OSError) as error:
            answer_failure("failed", str(error))
        except Exception as error:
            answer_failure("failed", f"{type(error).__name__} in the guest program: {error}", "This is a bug.")
        if replaced:
            program = host.at(PROGRAM)
            os.execv(program, [program, "serve"])  # noqa: S606 - the point: the same pipe, the new program


def answer(fields: dict[str, object]) -> None:
    data = json.dumps(fields, separators=(",", ":")).encode() + b"\n"
    while data:
        data = data[os.write(1, data) :]


def answer_failure(kind: str, message: str, hint: str = "") -> None:
    answer({"ok": False, "error": kind, "message": message, "hint": hint})


def handle(host: Host, request: dict[str, object]) -> tuple[dict[str, object], bool]:
    """The answer's fields, and whether this program has replaced itself."""
    call = request.get("call")
    if call == "hello":
        last, owner = _applied(host)
        return {"program": IDENTITY, "boot_id": boot_id(host), "generation": last, "server_id": owner}, False
    if call == "upgrade":
        upgrade(host, request.get("program"), request.get("sha256"))
        return {}, True
    if call in ("apply", "observe"):
        from . import acting
        from .desired import parse_document

        desired = parse_document(request.get("document"), host.memory)
        if call == "observe":
            last = last_generation(host)
            if desired.generation < last:
                raise stale(last, desired.generation)
            state = {**acting.observe(host, desired), "generation": last}
        else:
            lock = host.lock("apply", timeout=LOCK_SECONDS)
            try:
                admit_generation(host, desired.server_id, desired.generation)
                state = acting.apply(host, desired)
            finally:
                os.close(lock)
        return {"state": {**state, "boot_id": boot_id(host), "program": IDENTITY}}, False
    if call == "inspect":
        from . import inspecting

        return {"facts": inspecting.inspect(host)}, False
    if call in ("flush", "freeze", "thaw"):
        from . import freezing
        from .desired import parse_flush, parse_freeze, parse_thaw

        if call == "thaw":
            return freezing.thaw(host, parse_thaw(request)), False
        if call == "flush":
            freezing.flush(host, parse_flush(request))
        else:
            wanted = parse_freeze(request)
            freezing.freeze(host, wanted.share_ids, wanted.token, wanted.seconds)
        return {}, False
    raise Refusal("invalid", f"Unknown call {str(call)[:40]!r}.")


def boot_id(host: Host) -> str:
    return host.read("/proc/sys/kernel/random/boot_id").strip()


def last_generation(host: Host) -> int:
    """The highest generation applied so far; -1 before the first."""
    return _applied(host)[0]


def _applied(host: Host) -> tuple[int, str]:
    """The highest generation applied so far and the server whose it was; -1 and "" before the first."""
    try:
        before = json.loads(host.read(GENERATION))
        return int(before["generation"]), str(before["server_id"])
    except (ValueError, KeyError, TypeError):
        return -1, ""


def admit_generation(host: Host, server_id: str, generation: int) -> None:
    """Remember the generation before anything is done under it. The same one again is fine: an answer was lost.
    Refusal (stale) for a lower one, (invalid) for another server's document."""
    last, owner = _applied(host)
    if owner and owner != server_id:
        raise Refusal(
            "invalid",
            f"This is server {owner}; the document is for server {server_id}.",
            f"If that one is no more, remove {GENERATION} on this machine.",
        )
    if generation < last:
        raise stale(last, generation)
    if generation > last:
        host.replace(GENERATION, json.dumps({"generation": generation, "server_id": server_id}), 0o600)


def stale(last: int, generation: int) -> Refusal:
    return Refusal(
        "stale",
        f"Generation {last} has been applied; the document has generation {generation}.",
        "Build the document again from the store.",
    )


def upgrade(host: Host, encoded: object, expected: object) -> None:
    """Verify the new program and put it in our place. Refusal (invalid) leaves everything as it was."""
    import base64
    import hashlib

    if not isinstance(encoded, str) or not isinstance(expected, str):
        raise Refusal("invalid", "An upgrade needs program and sha256.")
    program = base64.b64decode(encoded, validate=True)
    found = hashlib.sha256(program).hexdigest()
    if found != expected:
        raise Refusal("invalid", f"The new program's SHA-256 is {found}, not {expected}; it was not installed.")
    if not program.startswith(b"#!"):
        raise Refusal("invalid", "The new program does not start with an interpreter line; it was not installed.")
    host.replace(PROGRAM, program, 0o755)
