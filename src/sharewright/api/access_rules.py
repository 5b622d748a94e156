"""Access rules: actions on a share, and /share-access-rules from 2.45 on."""

from __future__ import annotations

from typing import Any, Final

from sharewright.api.metadata import all_items
from sharewright.api.resource import (
    Computed,
    Field,
    Filter,
    Flag,
    Identifier,
    Name,
    Record,
    Resource,
    StringMap,
    Timestamp,
    Viewer,
    convert,
    timestamp,
    unwrap,
)
from sharewright.api.routing import Call, Route
from sharewright.api.shapes import (
    METADATA,
    TAKES_METADATA,
    anything,
    contract,
    given,
    inputs,
    many,
    one,
    parameters,
    under,
)
from sharewright.errors import InvalidInput, NotFound
from sharewright.services import access_rules as service
from sharewright.states import AccessState

IPV6_SINCE: Final = 38
LOCKS_SINCE: Final = 82


def _old_state(record: Record, viewer: Viewer) -> str:
    """Before 2.28 there was one state on the way in and one on the way out."""
    if record["state"] in AccessState.LEAVING:
        return "deleting"
    return "new" if record["state"] in AccessState.TRANSITIONAL else str(record["state"])


def _visible(name: str) -> Computed:
    """A field that a visibility lock covers."""

    def compute(record: Record, viewer: Viewer) -> Any:
        return "******" if record["restricted"] else record[name]

    return compute


ACCESS_RULE: Final = Resource(
    name="access",
    plural="access_list",
    collection="share-access-rules",
    fields=(
        Field("id", Identifier, summary=True),
        Field("share_id", Identifier),
        Field("access_type", Identifier, summary=True, create=True, required=True),
        Field("access_to", Identifier, source=_visible("access_to"), summary=True, create=True, required=True),
        Field("access_level", Name, summary=True, create=True),
        Field("state", str, source=_old_state, until=27, summary=True),
        Field("state", str, since=28, summary=True),
        Field("access_key", Name, source=_visible("access_key"), since=21, summary=True),
        Field("created_at", Timestamp, source=timestamp("created_at"), since=33, summary=True),
        Field("updated_at", Timestamp | None, source=timestamp("updated_at"), since=33, summary=True),
        Field("metadata", StringMap, since=45, summary=True, create=True, accepts=StringMap | None),
        Field("lock_visibility", Flag, since=82, shown=False, create=True),
        Field("lock_deletion", Flag, since=82, shown=False, create=True),
        Field("lock_reason", str | None, since=82, shown=False, create=True),
    ),
    filters=(
        Filter("metadata", kind="map", since=45),
        Filter("access_type", since=82),
        Filter("access_to", since=82),
        Filter("access_level", since=82),
        Filter("access_key", since=82),
    ),
)


@contract(takes=inputs(ACCESS_RULE, "create"), gives=one(ACCESS_RULE))
def allow(call: Call, share_id: str) -> Any:
    body = unwrap(call.body, "allow_access", "os-allow_access")
    values = ACCESS_RULE.parse_values(body, call.version, "create")
    record = service.allow(
        call.deployment,
        call.context,
        share_id,
        values,
        ipv6=call.version >= IPV6_SINCE,
        whole=call.version < 74,
    )
    return ACCESS_RULE.show(record, call)


@contract(takes=given(Field("access_id", Identifier, required=True), Field("unrestrict", Flag, since=82)))
def deny(call: Call, share_id: str) -> None:
    body = unwrap(call.body, "deny_access", "os-deny_access")
    access_id = body.get("access_id")
    if not isinstance(access_id, str) or not access_id:
        raise InvalidInput("access_id is required.")
    unrestrict = call.version >= LOCKS_SINCE and convert(body.get("unrestrict", False), bool, "unrestrict")
    service.deny(call.deployment, call.context, share_id, access_id, unrestrict=unrestrict)


@contract(takes=anything, gives=many(ACCESS_RULE, summary=True))
def list_of_share(call: Call, share_id: str) -> Any:
    records = service.list_rules(call.deployment, call.context, share_id, rule="share:access_get_all")
    return ACCESS_RULE.show_all(records, call, summary=True)


@contract(gives=many(ACCESS_RULE, summary=True), query=parameters(ACCESS_RULE, more=(Filter("share_id"),)))
def list_all(call: Call) -> Any:
    share_id = call.query.get("share_id", "")
    if not share_id:
        raise InvalidInput("The field 'share_id' has to be specified.")
    try:
        records = service.list_rules(call.deployment, call.context, share_id, call.filters(ACCESS_RULE))
    except NotFound as error:  # as Manila: the query is wrong, the list is there
        raise InvalidInput(error.message) from None
    return ACCESS_RULE.show_all(records, call, summary=True)


@contract(gives=one(ACCESS_RULE))
def show(call: Call, access_id: str) -> Any:
    return ACCESS_RULE.show(service.show(call.deployment, call.context, access_id), call)


@contract(takes=under("update_access", given(Field("access_level", Identifier, required=True))), gives=one(ACCESS_RULE))
def update(call: Call, access_id: str) -> Any:
    level = unwrap(call.body, "update_access").get("access_level")
    if not level:
        raise InvalidInput("Invalid input. Missing 'access_level' in update request.")
    changed = service.change_level(
        call.deployment, call.context, access_id, convert(level, Identifier, "update_access.access_level")
    )
    return ACCESS_RULE.show(changed, call)


@contract(takes=TAKES_METADATA, gives=METADATA)
def write_metadata(call: Call, access_id: str) -> Any:
    items = all_items(call)
    return {"metadata": service.write_metadata(call.deployment, call.context, access_id, items)}


@contract()
def delete_metadata(call: Call, access_id: str, key: str) -> None:
    service.delete_metadata(call.deployment, call.context, access_id, key)


_ACTION = "/shares/{share_id}/action"
ROUTES: Final = (
    Route("POST", _ACTION, allow, until=6, action="os-allow_access"),
    Route("POST", _ACTION, allow, since=7, action="allow_access"),
    Route("POST", _ACTION, deny, until=6, status=202, action="os-deny_access"),
    Route("POST", _ACTION, deny, since=7, status=202, action="deny_access"),
    Route("POST", _ACTION, list_of_share, until=6, action="os-access_list"),
    Route("POST", _ACTION, list_of_share, since=7, until=44, action="access_list"),
    Route("GET", "/share-access-rules", list_all, since=45),
    Route("GET", "/share-access-rules/{access_id}", show, since=45),
    Route("PUT", "/share-access-rules/{access_id}", update, since=88),
    Route("PUT", "/share-access-rules/{access_id}/metadata", write_metadata, since=45),
    Route("DELETE", "/share-access-rules/{access_id}/metadata/{key}", delete_metadata, since=45),
)
