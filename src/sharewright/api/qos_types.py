"""QoS types and their specs: /qos-types, from 2.94 on."""

from __future__ import annotations

from typing import Any, Final

from sharewright.api.resource import Field, Filter, Identifier, Name, Resource, StringMap, Timestamp, timestamp
from sharewright.api.routing import Call, Route
from sharewright.api.shapes import body, contract, listing, mapping, one, under
from sharewright.errors import InvalidInput, NotFound
from sharewright.services import qos_types as service

QOS_TYPE: Final = Resource(
    name="qos_type",
    plural="qos_types",
    collection="qos-types",
    lenient=True,
    fields=(
        Field("id", Identifier),
        Field("name", Name, create=True),
        Field("description", Name, create=True, update=True),
        Field("specs", StringMap, create=True, accepts=StringMap | None),
        Field("created_at", Timestamp, source=timestamp("created_at")),
        Field("updated_at", Timestamp | None, source=timestamp("updated_at")),
    ),
    filters=(Filter("name", kind="like"), Filter("description", kind="like")),
    sort_keys={name: name for name in service.COLUMNS},
)


@listing(QOS_TYPE)
def list_all(call: Call) -> Any:
    page = call.page(QOS_TYPE)
    records = service.list_types(call.deployment, call.context, call.filters(QOS_TYPE), page)
    return QOS_TYPE.show_all(records, call) | call.next_page(QOS_TYPE, records, page)


@contract(gives=one(QOS_TYPE))
def show(call: Call, qos_type_id: str) -> Any:
    return QOS_TYPE.show(service.show(call.deployment, call.context, qos_type_id), call)


@contract(takes=body(QOS_TYPE, "create"), gives=one(QOS_TYPE))
def create(call: Call) -> Any:
    values = QOS_TYPE.parse(call.body, call.version, "create")
    return QOS_TYPE.show(service.create(call.deployment, call.context, values), call)


@contract(takes=body(QOS_TYPE, "update"), gives=one(QOS_TYPE))
def update(call: Call, qos_type_id: str) -> Any:
    values = QOS_TYPE.parse(call.body, call.version, "update")
    return QOS_TYPE.show(service.change(call.deployment, call.context, qos_type_id, values), call)


@contract()
def delete(call: Call, qos_type_id: str) -> None:
    service.remove(call.deployment, call.context, qos_type_id)


@contract(gives=under("specs", mapping()))
def list_specs(call: Call, qos_type_id: str) -> Any:
    return {"specs": service.read_specs(call.deployment, call.context, qos_type_id)}


@contract(gives=mapping(items=1))
def show_spec(call: Call, qos_type_id: str, key: str) -> Any:
    specs = service.read_specs(call.deployment, call.context, qos_type_id, "qos_type_specs:show")
    if key not in specs:
        raise NotFound(f"QoS type {qos_type_id} has no spec {key[:64]}.")
    return {key: specs[key]}


@contract(takes=under("specs", mapping()), gives=under("specs", mapping()))
def create_specs(call: Call, qos_type_id: str) -> Any:
    if not isinstance(call.body.get("specs"), dict):
        raise InvalidInput("Malformed request body: expected an object with the key 'specs' holding an object.")
    return {"specs": service.write_specs(call.deployment, call.context, qos_type_id, call.body["specs"])}


@contract(takes=mapping(items=1), gives=mapping(items=1))
def update_spec(call: Call, qos_type_id: str, key: str) -> Any:
    service.read_specs(call.deployment, call.context, qos_type_id, "qos_type_specs:update")
    if key not in call.body:
        raise InvalidInput("Request body and URI mismatch.")
    if len(call.body) > 1:
        raise InvalidInput("Request body contains too many items.")
    return service.write_specs(call.deployment, call.context, qos_type_id, call.body, "qos_type_specs:update")


@contract()
def delete_spec(call: Call, qos_type_id: str, key: str) -> None:
    service.delete_spec(call.deployment, call.context, qos_type_id, key)


_ONE = "/qos-types/{qos_type_id}"
ROUTES: Final = (
    Route("GET", "/qos-types", list_all, since=94),
    Route("POST", "/qos-types", create, since=94, rule="qos_type:create"),
    Route("GET", _ONE, show, since=94),
    Route("PUT", _ONE, update, since=94, rule="qos_type:update"),
    Route("DELETE", _ONE, delete, since=94, status=204),
    Route("GET", f"{_ONE}/specs", list_specs, since=94),
    Route("POST", f"{_ONE}/specs", create_specs, since=94, rule="qos_type_specs:create"),
    Route("GET", f"{_ONE}/specs/{{key}}", show_spec, since=94),
    Route("PUT", f"{_ONE}/specs/{{key}}", update_spec, since=94, rule="qos_type_specs:update"),
    Route("DELETE", f"{_ONE}/specs/{{key}}", delete_spec, since=94, status=204),
)
