"""Backups of shares: /share-backups, from 2.80 on with the experimental header."""

from __future__ import annotations

from typing import Any, Final

from sharewright.api.lists import all_projects
from sharewright.api.resource import (
    Field,
    Filter,
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
from sharewright.api.shapes import anything, body, contract, given, listing, one, shown, under
from sharewright.api.shares import wanted_status
from sharewright.errors import InvalidInput
from sharewright.services import share_backups as service


def _topic(record: Record, viewer: Viewer) -> str:
    """Which of Manila's services has it: the one of shares, as there is no data service."""
    return "manila-share"


BACKUP: Final = Resource(
    name="share_backup",
    plural="share_backups",
    collection="share-backups",
    lenient=True,
    fields=(
        Field("id", Identifier, summary=True),
        Field("name", Name, summary=True, create=True, update=True),
        Field("share_id", Identifier, summary=True),
        Field("status", str, summary=True),
        Field("description", Name, create=True, update=True),
        Field("size", int),
        Field("created_at", Timestamp, source=timestamp("created_at")),
        Field("updated_at", Timestamp | None, source=timestamp("updated_at")),
        Field("availability_zone", Name),
        Field("progress", str),
        Field("restore_progress", str),
        Field("backup_type", Name, since=85),
        Field("host", Name, admin=True),
        Field("topic", str, source=_topic, admin=True),
    ),
    filters=(
        Filter("name", kind="like"),
        Filter("description", kind="like"),
        Filter("status"),
        Filter("share_id"),
        Filter("project_id", admin=True),
    ),
    sort_keys={name: name for name in service.COLUMNS},
)


@listing(BACKUP, summary=True, projects=True)
def list_summaries(call: Call) -> Any:
    return _list(call, summary=True)


@listing(BACKUP, projects=True)
def list_details(call: Call) -> Any:
    return _list(call, summary=False)


def _list(call: Call, *, summary: bool) -> Any:
    page = call.page(BACKUP)
    records = service.list_backups(
        call.deployment, call.context, call.filters(BACKUP), page, all_projects=all_projects(call)
    )
    return BACKUP.show_all(records, call, summary=summary) | call.next_page(BACKUP, records, page)


@contract(gives=one(BACKUP))
def show(call: Call, share_backup_id: str) -> Any:
    return BACKUP.show(service.show(call.deployment, call.context, share_backup_id), call)


@contract(
    takes=under(
        "share_backup",
        given(
            Field("share_id", Identifier, required=True),
            Field("name", Name),
            Field("description", Name),
            Field("backup_options", StringMap | None),
        ),
    ),
    gives=one(BACKUP),
)
def create(call: Call) -> Any:
    given_values = unwrap(call.body, "share_backup")
    if not given_values.get("share_id"):
        raise InvalidInput("'share_id' is missing from the request body.")
    values = {
        **BACKUP.parse_values(given_values, call.version, "create"),
        "share_id": convert(given_values["share_id"], Identifier, "share_backup.share_id"),
        "backup_options": convert(given_values.get("backup_options"), StringMap | None, "share_backup.backup_options"),
    }
    return BACKUP.show(service.create(call.deployment, call.context, values), call)


@contract(takes=body(BACKUP, "update"), gives=one(BACKUP))
def update(call: Call, share_backup_id: str) -> Any:
    values = BACKUP.parse(call.body, call.version, "update")
    return BACKUP.show(service.change(call.deployment, call.context, share_backup_id, values), call)


@contract()
def delete(call: Call, share_backup_id: str) -> None:
    service.delete(call.deployment, call.context, share_backup_id)


@contract(takes=anything, gives=under("restore", shown(Field("backup_id", str), Field("share_id", str))))
def restore(call: Call, share_backup_id: str) -> Any:
    """From 2.91 on to a share that may be named: its id is the action's value."""
    target = call.body["restore"] if call.version >= 91 else None
    target = convert(target, Identifier, "restore") if target else None
    return {"restore": service.restore(call.deployment, call.context, share_backup_id, target)}


@contract(takes=given(Field("status", str, required=True)))
def reset_status(call: Call, share_backup_id: str) -> None:
    service.reset_status(call.deployment, call.context, share_backup_id, wanted_status(call))


_ONE = "/share-backups/{share_backup_id}"
ROUTES: Final = (
    Route("GET", "/share-backups", list_summaries, since=80, experimental=True),
    Route("GET", "/share-backups/detail", list_details, since=80, experimental=True),
    Route("POST", "/share-backups", create, since=80, status=202, experimental=True),
    Route("GET", _ONE, show, since=80, experimental=True),
    Route("PUT", _ONE, update, since=80, experimental=True),
    Route("DELETE", _ONE, delete, since=80, status=202, experimental=True),
    Route("POST", f"{_ONE}/action", restore, since=80, status=202, action="restore", experimental=True),
    Route(
        "POST",
        f"{_ONE}/action",
        reset_status,
        since=80,
        status=202,
        action="reset_status",
        experimental=True,
        rule="share_backup:reset_status",
    ),
)
