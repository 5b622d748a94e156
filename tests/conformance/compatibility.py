"""docs/compatibility.md, made of the tables of the API and of the lists of what the conformance suite passes.

usage: python tests/conformance/compatibility.py [--check]

Writes the page; ``--check`` says only whether it is up to date (exit code 1: it is not).
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import comparing

from sharewright.api import openapi, share_backups, share_migrations, share_replicas, share_server_migrations
from sharewright.api.app import ROUTES
from sharewright.api.resource import Constant, Field, Resource
from sharewright.api.routing import Route
from sharewright.api.versions import MAXIMUM, MINIMUM, show

PAGE = Path(__file__).resolve().parents[2] / "docs/compatibility.md"

# Modules whose operations need a driver with a capability that the generic one does not have.
BY_CAPABILITY = tuple(
    module.__name__ for module in (share_backups, share_migrations, share_replicas, share_server_migrations)
)

INTRODUCTION = """\
# Compatibility with Manila

This page is generated: `python tests/conformance/compatibility.py`. A test holds it against the tables that the API
is made of, and against the lists of what the conformance suite passes. [api.md](api.md) has what differs in behaviour,
with the reasons.

Who judges:

- **Manila's own API tests** (manila-tempest-plugin) in `./check --conformance`, against Sharewright on the simulated
  cloud: `tests/conformance/expected-*.txt` has what passes, `reasons-*.txt` why the others do not. *Tests* below is
  what passes of the tests that Manila {upstream} with its dummy driver passes.
- **schemathesis** in `./check --unit`: every operation answers as `/openapi.json` describes it, at the first
  microversion of each description ({descriptions} different ones in {documents} documents).
- **The clients**: `openstack share …`, python-manilaclient and openstacksdk, in the API tests and on real clouds; in
  `./check --conformance` their own functional tests ({clients}).

States: **served**; **by capability**: served on backends whose driver has the capability, which the generic driver has
not: there the operations answer as Manila with a driver that reports it as false.
"""

# Name, which operations it has, and which of the suite's tests are about it (a pattern for module and class). The first
# one that matches counts.
SUBJECTS: tuple[tuple[str, str, str], ...] = (
    ("replicas", r"^/share-replicas", r"eplica"),
    ("backups", r"^/share-backups", r"ackup"),
    ("migration of share servers", r"^/share-servers.* migration_", r"share_servers_migration"),
    ("migration of shares", r"migration-progress| migration_| reset_task_state", r"test_migration"),
    ("QoS types", r"^/qos-types", r"qos_type"),
    ("resource locks", r"^/resource-locks", r"resource_lock|lock"),
    ("transfers", r"^/share-transfers", r"transfer"),
    ("security services", r"^/security-services|security_service", r"security_service"),
    ("share network subnets", r"/subnets|subnet_create_check", r"subnet"),
    ("share networks", r"^/share-networks", r"share_network"),
    ("share group snapshots", r"^/share-group-snapshots", r"share_group_snapshot"),
    ("share group types", r"^/share-group-types", r"share_group_type"),
    ("share groups", r"^/share-groups", r"share_group"),
    ("share types", r"^/types", r"share_type"),
    ("quotas and limits", r"^/(os-)?quota-|^/limits", r"quota|limits"),
    ("user messages", r"^/messages", r"user_message"),
    ("services and pools", r"^/(os-)?services|^/scheduler-stats", r"test_services|scheduler_stats"),
    ("availability zones", r"availability-zone", r"availability_zone"),
    ("share servers", r"^/share-servers", r"share_server"),
    ("share instances", r"^/share_instances|/instances$", r"share_instance"),
    ("snapshot instances", r"^/snapshot-instances", r"snapshot_instance"),
    ("snapshots", r"^/snapshots|action revert$", r"snapshot"),
    ("access rules", r"^/share-access-rules|access", r"rules|access"),
    ("export locations", r"/export_locations", r"export_location"),
    ("metadata of shares", r"^/shares/{share_id}/metadata", r"metadata"),
    ("managing shares", r"manage", r"manage"),
    ("extensions", r"^/extensions", r"extension"),
    ("shares", r"^/shares", r""),
)


def page() -> str:
    documents = list(openapi.breaks(ROUTES))
    clients = ", ".join(
        f"{package}: {len(comparing.expected(client))} of {len(comparing.passed_elsewhere(client))} pass"
        for client, package in zip(comparing.CLIENTS, ("python-manilaclient", "openstacksdk"), strict=True)
    )
    head = INTRODUCTION.format(
        upstream="23.0.1", descriptions=len(openapi.descriptions(ROUTES)), documents=len(documents), clients=clients
    )
    return "".join([head, *_resources(), *_changes(documents)])


def subject_of(route: Route) -> str:
    text = f"{route.path} {route.action}".strip()
    return next(name for name, pattern, _ in SUBJECTS if re.search(pattern, text))


def subject_of_test(test: str) -> str:
    named = ".".join(test.split(".")[3:-1])
    return next(name for name, _, pattern in SUBJECTS if re.search(pattern, named) or re.search(f"^{pattern}$", named))


# ---- the resources ---------------------------------------------------------------------------------------------------


def _resources() -> Iterator[str]:
    yield "\n## Resources\n\n| resource | operations | microversions | state | "
    yield " | ".join(f"tests, {mode}" for mode in comparing.MODES) + " |\n"
    yield "|---|---|---|---|" + "---|" * len(comparing.MODES) + "\n"
    for name in sorted({subject for subject, _, _ in SUBJECTS}, key=str.lower):
        routes = [route for route in ROUTES if subject_of(route) == name]
        operations = {
            (route.method, route.path.replace("os-", ""), route.action.removeprefix("os-")) for route in routes
        }
        judged = [_judged(name, mode) for mode in comparing.MODES]
        cells = [name, str(len(operations)), _ranges(routes), _state(routes), *judged]
        yield "| " + " | ".join(cells) + " |\n"


def _ranges(routes: Sequence[Route]) -> str:
    plain = [route for route in routes if not route.experimental]
    trial = [route for route in routes if route.experimental]
    parts = []
    if plain:
        parts.append(_range(plain))
    if trial and (not plain or min(each.since for each in trial) < min(each.since for each in plain)):
        parts.append(f"{_range(trial)} with the experimental header")
    return ", ".join(parts)


def _range(routes: Sequence[Route]) -> str:
    since, until = min(each.since for each in routes), max(each.until for each in routes)
    return f"{show(since)} – {show(min(until, MAXIMUM))}"


def _state(routes: Sequence[Route]) -> str:
    return "by capability" if any(route.handler.__module__ in BY_CAPABILITY for route in routes) else "served"


def judged(subject: str, mode: str) -> tuple[set[str], set[str]]:
    """Of the tests about a resource: those that pass, and all that pass upstream."""
    of = {test for test in comparing.upstream(mode) if subject_of_test(test) == subject}
    return of & comparing.expected(mode), of


def _judged(subject: str, mode: str) -> str:
    passed, of = judged(subject, mode)
    return f"{len(passed)} of {len(of)}" if of else "–"


# ---- the microversions -----------------------------------------------------------------------------------------------


def _changes(documents: Sequence[int]) -> Iterator[str]:
    yield "\n## Microversions\n\nWhat is new in what is described, and what ended the microversion before.\n"
    yield "*Always* says where that is all there is to it: no backend has the capability.\n\n"
    yield "| microversion | operations | fields and parameters |\n|---|---|---|\n"
    for version in range(MINIMUM + 1, MAXIMUM + 1):
        operations, fields = sorted(_operations(version)), sorted(_fields(version))
        if operations or fields:
            yield f"| {show(version)} | {', '.join(operations) or '–'} | {', '.join(fields) or '–'} |\n"
        elif version in documents:
            yield f"| {show(version)} | – | in bodies of requests |\n"
        else:
            yield f"| {show(version)} | – | nothing that is described |\n"


def _operations(version: int) -> Iterator[str]:
    before = Counter(_label(route) for route in ROUTES if route.since <= version - 1 <= route.until)
    after = Counter(_label(route) for route in ROUTES if route.since <= version <= route.until)
    yield from after.keys() - before.keys()
    for label in before.keys() - after.keys():
        yield f"no more {label}"
    for route in ROUTES:
        ended = [each for each in ROUTES if each.experimental and each.until == version - 1]
        if route.since == version and not route.experimental and _label(route) in {_label(each) for each in ended}:
            yield f"{_label(route)} without the experimental header"


def _label(route: Route) -> str:
    path = re.sub(r"{\w+}", "{}", route.path)
    return f"`{route.action}` of `{path.removesuffix('/action')}`" if route.action else f"`{route.method} {path}`"


def _fields(version: int) -> Iterator[str]:
    for resource in resources():
        for field in resource.fields:
            if field.since == version:
                yield f"`{resource.name}.{field.name}`{_note(field)}"
            if field.until == version - 1 and not any(
                each.name == field.name and each.exists_at(version) for each in resource.fields
            ):
                yield f"no more `{resource.name}.{field.name}`"
        for entry in resource.filters:
            if entry.since == version:
                yield f"`?{entry.name}` of `{resource.plural}`"


def _note(field: Field) -> str:
    if isinstance(field.source, Constant):
        always = f" (always {field.source.value!r})"
        return always.replace("None", "null").replace("False", "false").replace("True", "true")
    return " (in requests)" if not field.shown else ""


def resources() -> list[Resource]:
    """The tables that the handlers' modules have, each once."""
    found: dict[int, Resource] = {}
    for module in {route.handler.__module__ for route in ROUTES}:
        for value in vars(sys.modules[module]).values():
            if isinstance(value, Resource) and value.name:
                found[id(value)] = value
    return sorted(found.values(), key=lambda each: each.name)


def main() -> int:
    made = page()
    if "--check" in sys.argv[1:]:
        current = PAGE.read_text() if PAGE.exists() else ""
        if current != made:
            print("docs/compatibility.md is out of date. Run: python tests/conformance/compatibility.py")
        return int(current != made)
    PAGE.write_text(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
