"""What is answered is what the OpenAPI documents say: schemathesis asks every operation, at every microversion range.

Each distinct description of an operation is held against the service at the first microversion that has it: with
SHAREWRIGHT_CONFORMANCE_EXAMPLES=n by n made-up requests, in turn of an administrator and of a member (2 if not said;
``./check --conformance`` makes more), and at the last one too where there are more than that. Values that are ids are
mostly those of things that are there, of both projects, because a made-up id leads to 404 and no further.
"""

from __future__ import annotations

import copy
import os
from base64 import b64encode
from collections.abc import Iterator
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any

import hypothesis
import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed
from hypothesis import strategies as st
from populated import Populated, populate
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from site_for_tests import PASSWORD

from sharewright.api import openapi
from sharewright.api.app import ROUTES, create_app
from sharewright.api.openapi import Description
from sharewright.api.versions import VERSION_HEADER, show

EXAMPLES = int(os.environ.get("SHAREWRIGHT_CONFORMANCE_EXAMPLES", "2"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
TAGS = sorted({route.path.split("/")[1] for route in ROUTES})
MISSING = "00000000-0000-4000-8000-000000000000"
# Keys of bodies that hold ids by another name than the path parameter's.
ALSO = {
    "share_type": "share_type_id",
    "volume_type": "share_type_id",
    "consistency_group_id": "share_group_id",
    "source_share_group_snapshot_id": "share_group_snapshot_id",
    "resource_id": "share_id",
    "current_service_id": "security_service_id",
    "new_service_id": "security_service_id",
    "new_share_network_id": "share_network_id",
    "new_share_type_id": "share_type_id",
    "share_network_subnet_id": "subnet_id",
    "identifier": "share_server_id",
}
OF_SNAPSHOTS = {"access_id": "snapshot_access_id", "export_location_id": "snapshot_location_id"}
WORDS = {
    "project_id": ("blue", "green"),
    "project": ("blue", "green"),
    "class_name": ("default",),
    "change": ("enable", "disable"),
    "key": ("a", "snapshot_support", "iops"),
    "protocol": ("NFS",),
    "share_proto": ("NFS", "CIFS"),
    "size": (1, 2),
    "new_size": (1, 2, 3),
    "status": ("available", "error", "active"),
    "task_state": ("migration_error", None),
    "access_type": ("ip", "user"),
    "access_to": ("10.2.0.1", "10.3.0.0/16", "2001:db8::1", "nobody-else"),
    "access_level": ("rw", "ro"),
    "type": ("ldap", "kerberos", "active_directory"),
    "neutron_net_id": (MISSING, None),
    "neutron_subnet_id": (MISSING, None),
    "availability_zone": ("zone-1", None),
    "driver_options": ({}, None),
    "host": ("node1@one#pool", "node1@one", "node1"),
    "service_host": ("node1@one#pool",),
    "binary": ("manila-share",),
    "nova_net_id": (None,),
    "mount_point_name": (None,),
    "encryption_key_ref": (None,),
}


@cache  # a few seconds, which collecting the tests should not take
def distinct() -> tuple[Description, ...]:
    return tuple(openapi.descriptions(ROUTES))


@pytest.fixture(scope="module")
def populated(tmp_path_factory: pytest.TempPathFactory) -> Populated:
    return populate(tmp_path_factory.mktemp("populated"))


def likely(document: dict[str, Any], path: str, ids: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    """The document of one path, with values that lead further than made-up ones do."""
    made = {**document, "paths": {path: copy.deepcopy(document["paths"][path])}}
    made["components"] = copy.deepcopy(document["components"])
    renamed = OF_SNAPSHOTS if path.startswith("/v2/snapshot") else {}

    def values(name: str) -> tuple[Any, ...]:
        name = renamed.get(name, ALSO.get(name, name))
        return (*ids[name], MISSING) if name in ids else WORDS.get(name, ())

    def visit(value: Any) -> None:
        if isinstance(value, dict):
            for name, schema in (value.get("properties") or {}).items():
                if isinstance(schema, dict) and values(name) and not name.startswith("fault"):
                    schema.clear()
                    schema["enum"] = list(values(name))
                else:
                    visit(schema)
            for key, each in value.items():
                if key not in ("properties", "responses"):
                    visit(each)
        elif isinstance(value, list):
            for each in value:
                visit(each)

    for name, schema in made["components"]["schemas"].items():
        if name.endswith((".create", ".update")):
            visit(schema)
    for operation in made["paths"][path].values():
        visit(operation.get("requestBody"))
        for parameter in operation["parameters"]:
            if parameter.get("in") == "path" and values(parameter["name"]):
                parameter["schema"] = {"type": "string", "enum": [each for each in values(parameter["name"]) if each]}
    return made


def cases(operation: Description, version: int, ids: dict[str, tuple[str, ...]]) -> Any:
    document = likely(openapi.document(tuple(ROUTES), version), operation.path, ids)
    schema = schemathesis.openapi.from_dict(document)
    return schema[operation.path][operation.method.upper()]


def credentials(user: str) -> str:
    return "Basic " + b64encode(f"{user}:{PASSWORD}".encode()).decode()


def check_answer_of_action(case: Any, response: Any, document: dict[str, Any]) -> None:
    """What OpenAPI cannot say: which answer belongs to which action."""
    described = document["paths"][case.operation.path][case.method.lower()].get("x-actions")
    if not described or not isinstance(case.body, dict) or len(case.body) != 1 or response.status_code >= 300:
        return
    action = described[next(iter(case.body))]
    if "answer" not in action:
        assert response.content == b"", f"{case.body}: {response.text}"
        return
    schema = {**action["answer"], "components": document["components"]}
    jsonschema_rs.validate(schema, response.json())


@pytest.mark.parametrize("tag", TAGS)
def test_every_answer_is_as_described(tag: str, populated: Populated, tmp_path: Path) -> None:
    failures: list[str] = []
    for operation in (each for each in distinct() if each.path.split("/")[2] == tag):
        for version in [operation.first] if EXAMPLES <= 2 else sorted({operation.first, operation.last}):
            failures += ask(operation, version, populated, tmp_path)
    assert not failures, f"{len(failures)} failures\n" + "\n".join(failures[:20])


def ask(operation: Description, version: int, populated: Populated, directory: Path) -> Iterator[str]:
    document = openapi.document(tuple(ROUTES), version)
    described = cases(operation, version, dict(populated.ids))
    headers = {VERSION_HEADER: show(version), "X-OpenStack-Manila-API-Experimental": "True"}
    users = cycle(("root", "alice"))
    with populated.copy(directory) as store:
        app = create_app(store, populated.settings)

        @seed(7)
        @hypothesis.settings(
            max_examples=EXAMPLES,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.data())
        def run(data: Any) -> None:
            headers["Authorization"] = credentials(next(users))
            case = data.draw(described.as_strategy(generation_mode=GenerationMode.POSITIVE))
            response = case.call(app=app, headers=headers, base_url="http://127.0.0.1")
            case.validate_response(response, checks=CHECKS, headers=headers)
            check_answer_of_action(case, response, document)

        try:
            run()
        except BaseException as error:  # groups of failures, too
            if isinstance(error, KeyboardInterrupt):
                raise
            text = str(error) + " ".join(str(each) for each in getattr(error, "exceptions", ()))
            yield f"{operation.method} {operation.path} {show(version)}: {type(error).__name__} {text[:1500]}"
