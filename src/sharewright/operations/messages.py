"""User messages: why something that was accepted did not work out, for its owner to read (API: /messages).

Action and detail numbers are Manila's, because clients filter by them; the wording is ours. Next to the number a
message keeps the real reason, which is the text of a SharewrightError and therefore free of secrets.
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum

from sqlalchemy import Connection

from sharewright.errors import SharewrightError
from sharewright.identifiers import new_id, utcnow
from sharewright.operations.contract import Operation
from sharewright.store.tables import messages

LIFETIME = timedelta(days=30)  # as Manila's message_ttl
_LONGEST_DETAIL = 4000


class Action(StrEnum):
    """What was being done (Manila's action ids)."""

    ALLOCATE_HOST = "001"
    CREATE = "002"
    DELETE_ACCESS_RULES = "003"
    PROMOTE = "004"
    UPDATE = "005"
    REVERT_TO_SNAPSHOT = "006"
    DELETE = "007"
    EXTEND = "008"
    SHRINK = "009"
    UPDATE_ACCESS_RULES = "010"
    ADD_UPDATE_SECURITY_SERVICE = "011"
    TRANSFER_ACCEPT = "026"
    UPDATE_METADATA = "027"
    RESTORE_BACKUP = "028"


class Detail(StrEnum):
    """What went wrong (Manila's detail ids)."""

    UNKNOWN_ERROR = "001"
    NO_VALID_HOST = "002"
    UNEXPECTED_NETWORK = "003"
    NO_SHARE_SERVER = "004"
    NO_ACTIVE_AVAILABLE_REPLICA = "005"
    NO_ACTIVE_REPLICA = "006"
    FILTER_AVAILABILITY = "007"
    FILTER_CAPABILITIES = "008"
    FILTER_CAPACITY = "009"
    FILTER_DRIVER = "010"
    FILTER_IGNORE = "011"
    FILTER_JSON = "012"
    FILTER_RETRY = "013"
    FILTER_REPLICATION = "014"
    DRIVER_FAILED_EXTEND = "015"
    FILTER_CREATE_FROM_SNAPSHOT = "016"
    DRIVER_FAILED_CREATING_FROM_SNAP = "017"
    DRIVER_REFUSED_SHRINK = "018"
    DRIVER_FAILED_SHRINK = "019"
    FORBIDDEN_CLIENT_ACCESS = "020"
    UNSUPPORTED_CLIENT_ACCESS = "021"
    UNSUPPORTED_ADD_UPDATE_SECURITY_SERVICE = "022"
    SECURITY_SERVICE_FAILED_AUTH = "023"
    NO_DEFAULT_SHARE_TYPE = "024"
    MISSING_SECURITY_SERVICE = "025"
    DRIVER_FAILED_TRANSFER_ACCEPT = "026"
    SHARE_NETWORK_PORT_QUOTA_LIMIT_EXCEEDED = "027"
    SHARE_BACKEND_NOT_READY_YET = "028"
    UPDATE_METADATA_SUCCESS = "029"
    UPDATE_METADATA_FAILURE = "030"
    UPDATE_METADATA_NOT_DELETED = "031"
    TARGETED_RESTORE_UNSUPPORTED = "032"
    NEUTRON_SUBNET_FULL = "033"


class Resource(StrEnum):
    """What the message is about (Manila's names)."""

    SHARE = "SHARE"
    SHARE_BACKUP = "SHARE_BACKUP"  # ours: Manila has only one message of backups, and that is of the share
    SHARE_GROUP = "SHARE_GROUP"
    SHARE_GROUP_SNAPSHOT = "SHARE_GROUP_SNAPSHOT"  # ours: Manila writes no message about one
    SHARE_REPLICA = "SHARE_REPLICA"
    SHARE_SNAPSHOT = "SHARE_SNAPSHOT"
    SECURITY_SERVICE = "SECURITY_SERVICE"
    SHARE_NETWORK_SUBNET = "SHARE_NETWORK_SUBNET"
    SHARE_SERVER = "SHARE_SERVER"  # ours: Manila has no messages of share servers


_ACTIONS = {
    Action.ALLOCATE_HOST: "allocate host",
    Action.CREATE: "create",
    Action.DELETE_ACCESS_RULES: "delete access rules",
    Action.PROMOTE: "promote",
    Action.UPDATE: "update",
    Action.REVERT_TO_SNAPSHOT: "revert to snapshot",
    Action.DELETE: "delete",
    Action.EXTEND: "extend",
    Action.SHRINK: "shrink",
    Action.UPDATE_ACCESS_RULES: "update access rules",
    Action.ADD_UPDATE_SECURITY_SERVICE: "add or update security service",
    Action.TRANSFER_ACCEPT: "accept transfer",
    Action.UPDATE_METADATA: "update metadata",
    Action.RESTORE_BACKUP: "restore backup",
}

_NO_STORAGE = "No storage could be allocated for this share request"
_DETAILS = {
    Detail.UNKNOWN_ERROR: "It failed.",
    Detail.NO_VALID_HOST: f"{_NO_STORAGE}; another size or share type may fit.",
    Detail.UNEXPECTED_NETWORK: "The share type works without a share network, but one was given.",
    Detail.NO_SHARE_SERVER: "No share server could be found or made on the share network.",
    Detail.NO_ACTIVE_AVAILABLE_REPLICA: "A new replica needs an active replica that is available.",
    Detail.NO_ACTIVE_REPLICA: "The share has no active replica.",
    Detail.FILTER_AVAILABILITY: f"{_NO_STORAGE} in the availability zone.",
    Detail.FILTER_CAPABILITIES: f"{_NO_STORAGE} with what its share type asks for.",
    Detail.FILTER_CAPACITY: f"{_NO_STORAGE}: there is not enough room.",
    Detail.FILTER_DRIVER: f"{_NO_STORAGE}: the backends' own conditions are not met.",
    Detail.FILTER_IGNORE: f"{_NO_STORAGE} other than where it failed already.",
    Detail.FILTER_JSON: f"{_NO_STORAGE} that meets the given hints.",
    Detail.FILTER_RETRY: f"{_NO_STORAGE} after several tries.",
    Detail.FILTER_REPLICATION: f"{_NO_STORAGE} that can hold a replica of it.",
    Detail.DRIVER_FAILED_EXTEND: "The share could not be extended; it has the size that it had.",
    Detail.FILTER_CREATE_FROM_SNAPSHOT: f"{_NO_STORAGE} that can take over the snapshot.",
    Detail.DRIVER_FAILED_CREATING_FROM_SNAP: "The share could not be made from the snapshot.",
    Detail.DRIVER_REFUSED_SHRINK: "The share holds more data than the smaller size; it was left as it is.",
    Detail.DRIVER_FAILED_SHRINK: "The share could not be shrunk.",
    Detail.FORBIDDEN_CLIENT_ACCESS: "This client may not be given access.",
    Detail.UNSUPPORTED_CLIENT_ACCESS: "This type or level of access is not supported here.",
    Detail.UNSUPPORTED_ADD_UPDATE_SECURITY_SERVICE: "A security service of the share network could not be set up.",
    Detail.SECURITY_SERVICE_FAILED_AUTH: "The security service refused the user or password given for it.",
    Detail.NO_DEFAULT_SHARE_TYPE: "There is no default share type, so a share type must be named.",
    Detail.MISSING_SECURITY_SERVICE: "The share network has no security service, and this share needs one.",
    Detail.DRIVER_FAILED_TRANSFER_ACCEPT: "The transfer can be accepted only when the access rules are removed.",
    Detail.SHARE_NETWORK_PORT_QUOTA_LIMIT_EXCEEDED: "The network's limit of ports is reached.",
    Detail.SHARE_BACKEND_NOT_READY_YET: f"{_NO_STORAGE}: the backends are not ready yet.",
    Detail.UPDATE_METADATA_SUCCESS: "The backend took the metadata over.",
    Detail.UPDATE_METADATA_FAILURE: "The backend did not take the metadata over.",
    Detail.UPDATE_METADATA_NOT_DELETED: "The metadata was deleted, but the backend goes on using it.",
    Detail.TARGETED_RESTORE_UNSUPPORTED: "The backup cannot be restored into another share here.",
    Detail.NEUTRON_SUBNET_FULL: "The subnet has no free address left for a share server.",
}


def write_message(
    tx: Connection,
    operation: Operation | None,
    *,
    project_id: str,
    resource_id: str,
    action: Action,
    detail: Detail = Detail.UNKNOWN_ERROR,
    error: SharewrightError | str = "",
    resource_type: Resource = Resource.SHARE,
    level: str = "ERROR",
) -> str:
    """Write a message for a project and return its id. ``error`` is the real reason, shown after the standard text;
    ``operation`` gives the request id that the user got when asking."""
    identifier = new_id()
    now = utcnow()
    tx.execute(
        messages.insert().values(
            id=identifier,
            project_id=project_id,
            request_id=operation.request_id if operation else None,
            resource_type=str(resource_type),
            resource_id=resource_id,
            action_id=str(action),
            detail_id=str(detail),
            message_level=level,
            detail=str(error)[:_LONGEST_DETAIL] or None,
            created_at=now,
            expires_at=now + LIFETIME,
        )
    )
    return identifier


def user_message(action_id: str, detail_id: str | None, detail: str | None = None) -> str:
    """The text of a message row: what was being done, what went wrong, and the real reason where there is one.

    The standard text of an unknown error adds nothing to a real reason and is left out then.
    """
    action = _ACTIONS[Action(action_id)] if action_id in set(Action) else "unknown action"
    known = Detail(detail_id) if detail_id in set(Detail) else Detail.UNKNOWN_ERROR
    parts = [] if detail and known is Detail.UNKNOWN_ERROR else [_DETAILS[known]]
    if detail:
        parts.append(detail)
    return f"{action}: {' '.join(parts)}"
