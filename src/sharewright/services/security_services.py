"""Security services: where the users of a share network's servers are known (LDAP, Kerberos, Active Directory).

They are data of the share network: the generic driver, as upstream's, keeps the users of its shares on the servers
themselves. Passwords are sealed in the database and shown to those who may change them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import structlog
from sqlalchemy import ColumnElement, Connection, delete, exists, func, select, update

from sharewright.context import RequestContext
from sharewright.errors import ConfigurationError, Conflict, Forbidden, InvalidInput, NotFound
from sharewright.identifiers import new_id, utcnow
from sharewright.services import share_networks
from sharewright.services.deployment import Deployment, Record, fetch
from sharewright.services.lists import Page, fetch_page
from sharewright.services.policy import allows, authorize
from sharewright.services.visible import by_columns, find_visible, of_projects
from sharewright.store.secrets import open_access_keys
from sharewright.store.tables import security_services, share_network_security_services, share_servers

TYPES: Final = ("ldap", "kerberos", "active_directory")
COLUMNS: Final[Mapping[str, ColumnElement[Any]]] = {
    name: security_services.c[name] for name in ("id", "name", "type", "status", "project_id", "created_at")
}
_SET_AT_ANY_TIME: Final = ("name", "description")
_VALUES: Final = (
    "name", "description", "dns_ip", "server", "domain", "ou", "default_ad_site", "user",
)  # fmt: skip
_EXACT: Final = ("id", "type", "status", *_VALUES)
_LINK: Final = share_network_security_services.c

log = structlog.get_logger()


def find(
    tx: Connection, context: RequestContext, identifier: str, rule: str = "security_service:show", *, lock: bool = False
) -> dict[str, Any]:
    """A security service's row. Raises NotFound or Forbidden. ``lock`` holds it until the transaction ends."""
    table = security_services
    return find_visible(
        tx, context, select(table), of=table, identifier=identifier, rule=rule, what="Security service", lock=lock
    )


def show(deployment: Deployment, context: RequestContext, identifier: str) -> Record:
    with deployment.store.read() as tx:
        return _read(tx, deployment, context, identifier)


def list_services(
    deployment: Deployment,
    context: RequestContext,
    filters: Mapping[str, Any],
    page: Page,
    *,
    all_projects: bool = False,
) -> list[dict[str, Any]]:
    """The project's security services (an admin: all), or those of the share network ``share_network_id``. Two
    statements, and one for the share network."""
    authorize(context, "security_service:index")
    columns, rule = security_services.c, "security_service:get_all_security_services"
    statement = select(security_services).where(*by_columns(security_services, _EXACT, filters))
    with deployment.store.read() as tx:
        if "share_network_id" in filters:
            network = share_networks.find(tx, context, filters["share_network_id"])
            link = exists().where(_LINK.security_service_id == columns.id, _LINK.share_network_id == network["id"])
            statement = statement.where(link)
        else:
            own = of_projects(context, columns.project_id, filters, rule=rule, all_projects=all_projects)
            statement = statement.where(*own)
        records = fetch_page(tx, statement, page, columns=COLUMNS, identifier=columns.id)
        return _complete(tx, deployment, context, records)


def create(deployment: Deployment, context: RequestContext, values: Mapping[str, Any]) -> Record:
    """A new one: type; name, description, dns_ip, server, domain, ou, default_ad_site, user, password."""
    authorize(context, "security_service:create")
    if values["type"] not in TYPES:
        raise InvalidInput(f"Invalid type provided: '{values['type'][:64]}'. Valid types are {', '.join(TYPES)}.")
    _check_site(values)
    identifier = new_id()
    with deployment.store.begin() as tx:
        tx.execute(
            security_services.insert().values(
                id=identifier,
                project_id=context.project_id,
                type=values["type"],
                status="new",
                password=_seal(deployment, values.get("password")),
                created_at=utcnow(),
                **{name: values.get(name) for name in _VALUES},
            )
        )
        return _read(tx, deployment, context, identifier)


def change(deployment: Deployment, context: RequestContext, identifier: str, values: Mapping[str, Any]) -> Record:
    """Change values; of one that share servers use only name and description."""
    with deployment.store.begin() as tx:
        current = find(tx, context, identifier, "security_service:update", lock=True)
        if any(name not in _SET_AT_ANY_TIME for name in values) and _is_used_by_servers(tx, identifier):
            raise Forbidden(
                f"Cannot update security service {identifier}: share servers use it.",
                hint="Only its name and description can be changed; make another one.",
            )
        _check_site({**current, **values})
        if "type" in values and values["type"] not in TYPES:
            raise InvalidInput(f"Invalid type provided: '{values['type'][:64]}'. Valid types are {', '.join(TYPES)}.")
        changed = {name: values[name] for name in ("type", *_VALUES) if name in values}
        if "password" in values:
            changed["password"] = _seal(deployment, values["password"])
        tx.execute(
            update(security_services).where(security_services.c.id == identifier).values(**changed, updated_at=utcnow())
        )
        return _read(tx, deployment, context, identifier)


def remove(deployment: Deployment, context: RequestContext, identifier: str) -> None:
    """Delete one that no share network has."""
    with deployment.store.begin() as tx:
        find(tx, context, identifier, "security_service:delete", lock=True)
        query = select(func.count()).select_from(share_network_security_services)
        if number := tx.execute(query.where(_LINK.security_service_id == identifier)).scalar_one():
            raise Forbidden(
                f"Cannot delete security service {identifier}: {number} share networks have it.",
                hint="Remove it from them first.",
            )
        tx.execute(delete(security_services).where(security_services.c.id == identifier))


# ---- share networks --------------------------------------------------------------------------------------------------


def add_to_network(
    deployment: Deployment, context: RequestContext, share_network_id: str, identifier: str, *, to_servers: bool
) -> Record:
    """Give a share network a security service. ``to_servers``: the caller's microversion knows of share servers that
    take further ones, which none of ours do."""
    with deployment.store.begin() as tx:
        network = share_networks.find(tx, context, share_network_id, "share_network:add_security_service", lock=True)
        if not to_servers and _has_servers(tx, share_network_id):
            raise Forbidden("Cannot add security services. Share network is used by share servers.")
        service = _find_for(tx, context, network, identifier)
        _check_addition(tx, network, service)
        tx.execute(
            share_network_security_services.insert().values(
                share_network_id=share_network_id, security_service_id=identifier
            )
        )
        return share_networks.read(tx, share_network_id)


def replace_on_network(
    deployment: Deployment, context: RequestContext, share_network_id: str, current_id: str, new_id: str
) -> Record:
    """Put another security service of the same type in a share network's one's place."""
    with deployment.store.begin() as tx:
        network = share_networks.find(tx, context, share_network_id, "share_network:update_security_service", lock=True)
        _check_replacement(tx, context, network, current_id, new_id)
        tx.execute(
            update(share_network_security_services)
            .where(_LINK.share_network_id == share_network_id, _LINK.security_service_id == current_id)
            .values(security_service_id=new_id)
        )
        return share_networks.read(tx, share_network_id)


def check_addition(deployment: Deployment, context: RequestContext, share_network_id: str, identifier: str) -> None:
    """Raise as ``add_to_network`` would."""
    with deployment.store.read() as tx:
        network = share_networks.find(tx, context, share_network_id, "share_network:add_security_service_check")
        try:
            service = _find_for(tx, context, network, identifier)
        except NotFound as error:
            raise InvalidInput(error.message) from None
        _check_addition(tx, network, service)


def check_replacement(
    deployment: Deployment, context: RequestContext, share_network_id: str, current_id: str, new_id: str
) -> None:
    """Raise as ``replace_on_network`` would."""
    with deployment.store.read() as tx:
        network = share_networks.find(tx, context, share_network_id, "share_network:update_security_service_check")
        _check_replacement(tx, context, network, current_id, new_id)


def remove_from_network(
    deployment: Deployment, context: RequestContext, share_network_id: str, identifier: str
) -> Record:
    """Take a security service from a share network that no share server uses."""
    with deployment.store.begin() as tx:
        network = share_networks.find(tx, context, share_network_id, "share_network:remove_security_service", lock=True)
        if _has_servers(tx, share_network_id):
            raise Forbidden("Cannot remove security services. Share network is used by share servers.")
        _find_for(tx, context, network, identifier)
        removed = tx.execute(
            delete(share_network_security_services).where(
                _LINK.share_network_id == share_network_id, _LINK.security_service_id == identifier
            )
        )
        if not removed.rowcount:
            raise InvalidInput(f"Share network {share_network_id} has no security service {identifier}.")
        return share_networks.read(tx, share_network_id)


# ---- parts -----------------------------------------------------------------------------------------------------------


def _read(tx: Connection, deployment: Deployment, context: RequestContext, identifier: str) -> dict[str, Any]:
    return _complete(tx, deployment, context, [find(tx, context, identifier)])[0]


def _complete(
    tx: Connection, deployment: Deployment, context: RequestContext, records: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Attach the ids of share networks; open passwords for those who may change them."""
    networks: dict[str, list[str]] = {record["id"]: [] for record in records}
    if records:
        query = select(_LINK.security_service_id, _LINK.share_network_id)
        query = query.where(_LINK.security_service_id.in_(list(networks))).order_by(_LINK.share_network_id)
        for row in fetch(tx, query):
            networks[row["security_service_id"]].append(row["share_network_id"])
    for record in records:
        record["share_networks"] = networks[record["id"]]
        own = record["project_id"] == context.project_id
        shown = own and allows(context, "security_service:update", record["project_id"])
        record["password"] = _open(deployment, record) if shown and record["password"] is not None else None
    return records


def _seal(deployment: Deployment, password: str | None) -> str | None:
    if password is None:
        return None
    box = open_access_keys(deployment.settings)
    if box is None:
        raise InvalidInput(
            "A security service cannot have a password: this deployment has no key to keep it with.",
            hint="Its operator can set database.access_key_file.",
        )
    return box.seal(password)


def _open(deployment: Deployment, record: Record) -> str | None:
    try:
        box = open_access_keys(deployment.settings)
        return None if box is None else box.open(record["password"])
    except ConfigurationError as error:
        log.error("a password cannot be opened", security_service=record["id"], reason=error.message)
        return None


def _check_site(values: Mapping[str, Any]) -> None:
    if values.get("server") and values.get("default_ad_site"):
        raise InvalidInput("Cannot create security service with both 'server' and 'default_ad_site' set.")


def _find_for(tx: Connection, context: RequestContext, network: Record, identifier: str) -> dict[str, Any]:
    """A security service that the share network may have: one of the same project, or, for an administrator, any."""
    service = find(tx, context, identifier)
    if service["project_id"] != network["project_id"] and not context.is_admin:
        raise NotFound(f"Security service {identifier[:64]} could not be found.")
    return service


def _check_addition(tx: Connection, network: Record, service: Record) -> None:
    """A share network has one security service of a type at most, and share servers take no further ones."""
    share_networks.check_active(network)
    same = (
        select(security_services.c.id)
        .join(share_network_security_services, _LINK.security_service_id == security_services.c.id)
        .where(_LINK.share_network_id == network["id"], security_services.c.type == service["type"])
    )
    if tx.execute(same).first() is not None:
        raise Conflict(
            f"Cannot add security service {service['id']} to share network {network['id']}: it has one of type"
            f" '{service['type']}' already."
        )
    _refuse_servers(tx, network["id"])


def _check_replacement(tx: Connection, context: RequestContext, network: Record, current_id: str, new_id: str) -> None:
    share_networks.check_active(network)
    try:
        current, new = (_find_for(tx, context, network, identifier) for identifier in (current_id, new_id))
    except NotFound as error:
        raise InvalidInput(error.message) from None
    linked = select(_LINK.share_network_id).where(
        _LINK.share_network_id == network["id"], _LINK.security_service_id == current_id
    )
    if tx.execute(linked).first() is None:
        raise Conflict(f"Share network {network['id']} has no security service {current_id}.")
    if current["type"] != new["type"]:
        raise Conflict(
            f"A security service is only replaced by one of the same type, '{current['type']}'; {new_id} is of type"
            f" '{new['type']}'."
        )
    _refuse_servers(tx, network["id"])


def _refuse_servers(tx: Connection, share_network_id: str) -> None:
    if _has_servers(tx, share_network_id):
        raise InvalidInput(
            f"Updating security services is not supported on share network {share_network_id} while it has share"
            " servers: see the capability 'security_service_update_support'."
        )


def _has_servers(tx: Connection, share_network_id: str) -> bool:
    query = select(share_servers.c.id).where(share_servers.c.share_network_id == share_network_id).limit(1)
    return tx.execute(query).first() is not None


def _is_used_by_servers(tx: Connection, identifier: str) -> bool:
    query = (
        select(share_servers.c.id)
        .join(share_network_security_services, _LINK.share_network_id == share_servers.c.share_network_id)
        .where(_LINK.security_service_id == identifier)
        .limit(1)
    )
    return tx.execute(query).first() is not None
