"""``sharewright keystone register``: this service in the catalogue of a real Keystone."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import urlsplit

import msgspec

from sharewright.api.identity.access_rules import SERVICE_TYPES
from sharewright.cli.options import CommandFailed, Commands, add_command, add_group, print_table, read_settings

if TYPE_CHECKING:
    from openstack.connection import Connection
    from openstack.identity.v3._proxy import Proxy
    from openstack.identity.v3.service import Service

# Tells our entries from those of a Manila, which are never touched.
DESCRIPTION: Final = "Shared file systems (Sharewright)"
NAMES: Final = dict(zip(SERVICE_TYPES, ("manila", "manilav2"), strict=True))
INTERFACES: Final = ("public", "internal", "admin")


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint, and what was done about it."""

    type: str
    interface: str
    region: str
    url: str
    change: str  # created, updated, unchanged or removed


def add(commands: Commands) -> None:
    group = add_group(commands, "keystone", help='a real Keystone (identity.mode = "keystone")')
    parser = add_command(
        group,
        "register",
        run,
        help="put this service into Keystone's catalogue, or take it out",
        description="Put this service into Keystone's catalogue, where clients find it: the service types\n"
        "shared-file-system and sharev2, each with public, internal and admin endpoints in one region. What is\n"
        "right already stays as it is; entries of another service are never changed. The credentials are an\n"
        "administrator's, from OS_… variables or clouds.yaml.",
        examples="  . openrc; sharewright keystone register https://shares.example.org\n"
        "  sharewright keystone register --os-cloud admin --region RegionOne https://shares.example.org\n"
        "  sharewright keystone register --remove",
    )
    parser.add_argument(
        "url", nargs="?", type=api_url, metavar="URL", help="where clients reach the API (default: api.base_url)"
    )
    parser.add_argument("--internal-url", type=api_url, metavar="URL", help="of the internal endpoint (default: URL)")
    parser.add_argument("--admin-url", type=api_url, metavar="URL", help="of the admin endpoint (default: URL)")
    parser.add_argument("--region", metavar="ID", help="default: that of the credentials, or the only one there is")
    parser.add_argument("--os-cloud", metavar="NAME", help="a cloud of clouds.yaml, instead of OS_… variables")
    parser.add_argument("--remove", action="store_true", help="take our entries of the region out again")
    parser.add_argument("--json", action="store_true", help="print JSON")


def api_url(text: str) -> str:
    """The endpoint of a URL: with ``/v2`` at its end, once."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment or "%" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no URL such as https://shares.example.org")
    url = text.rstrip("/")
    return url if url.endswith("/v2") else f"{url}/v2"


def run(arguments: argparse.Namespace) -> int:
    url = arguments.url or _configured_url(arguments)
    if not url and not arguments.remove:
        raise CommandFailed("Where do clients reach the API?", hint="Name the URL, or set api.base_url.")
    with connected(arguments.os_cloud) as connection:
        # The proxy of version 2 is in the attribute's type, and nowhere else any more.
        identity = cast("Proxy", connection.identity)
        region = choose_region(identity, arguments.region or connection.config.get_region_name())
        if arguments.remove:
            entries = unregister(identity, region)
        else:
            urls = {"public": url, "internal": arguments.internal_url or url, "admin": arguments.admin_url or url}
            entries = register(identity, urls, region)
    if arguments.json:
        print(msgspec.json.encode(entries).decode())
    else:
        headings = ("type", "interface", "region", "url", "change")
        print_table(headings, [[getattr(entry, name) for name in headings] for entry in entries])
    return 0


@contextmanager
def connected(cloud: str | None) -> Iterator[Connection]:
    """Keystone, as the administrator whose credentials the environment holds. Requests are tried again, because some
    servers close a connection without saying so. Raises CommandFailed for Keystone's errors."""
    try:
        import openstack
        from keystoneauth1.exceptions import ClientException
        from openstack.exceptions import SDKException
    except ModuleNotFoundError as error:
        raise CommandFailed(
            f"The Python package {error.name} is missing.", hint="pip install 'sharewright[keystone]'"
        ) from error
    try:
        with openstack.connect(cloud=cloud, app_name="sharewright", connect_retries=3) as connection:
            yield connection
    except (ClientException, SDKException) as error:
        raise CommandFailed(
            f"Keystone: {str(error).rstrip('.')}.",
            hint="It takes an administrator's credentials: OS_AUTH_URL, OS_USERNAME, … (. openrc), or --os-cloud.",
        ) from error


def choose_region(identity: Proxy, wanted: str | None) -> str:
    """The region to register in. Raises CommandFailed."""
    regions = sorted(region.id for region in identity.regions())
    listed = ", ".join(regions) or "none"
    if wanted and wanted not in regions:
        raise CommandFailed(
            f"Keystone has no region {wanted}.", hint=f"It has: {listed}. To make one: openstack region create {wanted}"
        )
    if not wanted and len(regions) != 1:
        raise CommandFailed(f"Which region? Keystone has: {listed}.", hint="Name it with --region.")
    return wanted or regions[0]


def register(identity: Proxy, urls: Mapping[str, str], region: str) -> list[Entry]:
    """Make the catalogue name these URLs (interface → URL). Raises CommandFailed, before any change, when another
    service has one of our types."""
    present = {kind: _service(identity, kind) for kind in SERVICE_TYPES}
    entries = []
    for kind, service in present.items():
        if service is None:
            service = identity.create_service(type=kind, name=NAMES[kind], description=DESCRIPTION)
        endpoints = {
            endpoint.interface: endpoint for endpoint in identity.endpoints(service_id=service.id, region_id=region)
        }
        for interface in INTERFACES:
            url = urls[interface]
            endpoint = endpoints.get(interface)
            if endpoint is None:
                identity.create_endpoint(service_id=service.id, interface=interface, region_id=region, url=url)
                change = "created"
            elif endpoint.url != url:
                identity.update_endpoint(endpoint, url=url)
                change = "updated"
            else:
                change = "unchanged"
            entries.append(Entry(type=kind, interface=interface, region=region, url=url, change=change))
    return entries


def unregister(identity: Proxy, region: str) -> list[Entry]:
    """Remove our endpoints of a region, and our services that have none left in any."""
    entries = []
    for kind in SERVICE_TYPES:
        for service in [found for found in identity.services(type=kind) if _is_ours(found)]:
            for endpoint in identity.endpoints(service_id=service.id, region_id=region):
                identity.delete_endpoint(endpoint)
                entries.append(
                    Entry(type=kind, interface=endpoint.interface, region=region, url=endpoint.url, change="removed")
                )
            if next(iter(identity.endpoints(service_id=service.id)), None) is None:
                identity.delete_service(service)
    return entries


def _service(identity: Proxy, kind: str) -> Service | None:
    """Our service of a type, if there is one."""
    services = list(identity.services(type=kind))
    for service in services:
        if not _is_ours(service):
            raise CommandFailed(
                f"The catalogue has another service of type {kind}: {service.name} ({service.id}).",
                hint=f"If nobody needs it any more: openstack service delete {service.id}",
            )
    return services[0] if services else None


def _is_ours(service: Service) -> bool:
    return bool(service.description == DESCRIPTION)


def _configured_url(arguments: argparse.Namespace) -> str:
    base = read_settings(arguments).api.base_url
    return api_url(base) if base else ""
