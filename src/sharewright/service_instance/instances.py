"""The life of service instances: made, found, removed. contract.py says what each verb promises; guests.py and
healing.py keep those about a guest that is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import msgspec
import structlog
from sqlalchemy.exc import IntegrityError

from sharewright.clouds.contract import (
    TAG_BACKEND,
    TAG_DEPLOYMENT,
    TAG_OWNER,
    Address,
    AdminNetwork,
    Cidr,
    Cloud,
    Flavor,
    Instance,
    InstanceSpec,
    Subnet,
)
from sharewright.errors import (
    CloudError,
    CloudObjectMissing,
    LeaseLost,
    NotFound,
)
from sharewright.guest.contract import Freeze, GuestAddress, GuestChannels
from sharewright.guest.document import Document, Firewall, State
from sharewright.progress import Progress
from sharewright.service_instance import config_drive, layouts, records
from sharewright.service_instance.contract import Layout, ServiceInstance, ServiceInstanceSettings, TenantNetwork
from sharewright.service_instance.guests import Guests
from sharewright.service_instance.healing import Healing
from sharewright.service_instance.keys import authorized_keys_line, new_key_pair, public_of
from sharewright.service_instance.readiness import console_report
from sharewright.service_instance.records import Record
from sharewright.service_instance.subnets import ServiceSubnets
from sharewright.store.database import Store
from sharewright.store.secrets import SecretBox

log = structlog.get_logger()


class CloudServiceInstances:
    """Contract ServiceInstances on one cloud, for one backend. Thread safe; one per process and backend."""

    def __init__(
        self,
        store: Store,
        cloud: Cloud,
        channels: GuestChannels,
        secrets: SecretBox,
        settings: ServiceInstanceSettings,
    ) -> None:
        self._store = store
        self._cloud = cloud
        self._secrets = secrets
        self._settings = settings
        self._guests = Guests(store, cloud, channels, settings, self._read_address)
        self._healing = Healing(store, cloud, self._guests, settings)
        self._subnets = ServiceSubnets(
            store,
            cloud.networks,
            backend=settings.backend,
            pool=settings.service_network_cidr,
            mask=settings.division_mask,
        )

    # ---- made ----

    def ensure(
        self,
        server_id: str,
        network: TenantNetwork,
        progress: Progress,
        *,
        further: Sequence[TenantNetwork] = (),
        flavor: str | None = None,
    ) -> ServiceInstance:
        chosen = self._settings.find_flavor(flavor)
        record = self._ensure_record(server_id, progress)
        tenants = [self._find_tenant_subnet(each) for each in (network, *further)]
        layouts.refuse_tenants(record.layout, tenants)
        record = self._note_further(record, tenants[1:], progress)
        around = self._surroundings(record, tenants, progress)
        with progress.step("ports"):
            record = self._remove_left_ports(record, tenants, progress)
            nics = self._ensure_ports(record, around, progress)
            known = self._description(record, around, nics)
        # A server that runs is described with a NIC when it has it: documents tell its guest what to find.
        if record.instance_id is None:
            self._change(record, progress, known)
        with progress.step("instance"):
            instance = self._ensure_instance(record, nics, known, chosen, progress)
            if record.instance_id is not None:
                self._change(record, progress, known)
        with progress.step("guest ready"):
            self._guests.await_boot(server_id, instance.id, progress)
        made = self.find(server_id)
        if made is None:
            raise LeaseLost(f"Service instance {server_id} was deleted while it was being made.")
        return made

    def _find_tenant_subnet(self, network: TenantNetwork) -> Subnet:
        found = self._cloud.networks.find_subnet(network.net_id, network.subnet_id, project_id=network.project_id)
        if found is None:
            raise CloudObjectMissing(
                f"The cloud has no network {network.net_id} with subnet {network.subnet_id or '(any)'}.",
                hint="Check neutron_net_id and neutron_subnet_id of the share network subnet.",
            )
        return found

    def _ensure_record(self, server_id: str, progress: Progress) -> Record:
        """The row, written before anything exists in the cloud, with the keys that the VM is going to have."""
        with self._store.read() as tx:
            record = records.find(tx, server_id)
        if record is not None:
            return record
        login, host = new_key_pair(), new_key_pair()
        owner = records.owner(server_id)
        try:
            with self._store.begin() as tx:
                progress.fence(tx)
                records.create(
                    tx,
                    server_id,
                    backend=self._settings.backend,
                    layout=self._settings.layout,
                    host_key=host.public,
                    private_key_secret=self._secrets.put(tx, owner, login.private),
                    host_key_secret=self._secrets.put(tx, owner, host.private),
                )
        except IntegrityError:
            log.info("service instance was begun by somebody else at the same moment", share_server=server_id)
        with self._store.read() as tx:
            record = records.find(tx, server_id)
        if record is None:
            raise LeaseLost(f"Service instance {server_id} was deleted while it was being made.")
        return record

    def _note_further(self, record: Record, subnets: Sequence[Subnet], progress: Progress) -> Record:
        """Before their ports are made, so that a deletion knows that there may be some."""
        wanted = tuple(subnet.id for subnet in subnets)
        if record.further_subnets != wanted:
            self._change(record, progress, {"further_subnets": list(wanted)})
        return replace(record, further_subnets=wanted)

    def _change(self, record: Record, progress: Progress, values: Mapping[str, Any]) -> None:
        with self._store.begin() as tx:
            progress.fence(tx)
            records.change(tx, record.id, **values)

    def _surroundings(self, record: Record, tenants: Sequence[Subnet], progress: Progress) -> layouts.Surroundings:
        """The subnets that the server's layout needs; the service subnet is made."""
        tenant, *further = tenants
        roles = layouts.ROLES[record.layout]
        admin = self._admin_network(record) if "admin" in roles else None
        if admin is not None:
            for each in tenants:
                layouts.refuse_admin_network(each, admin.subnet)
        service = None
        if "service" in roles:
            with progress.step("service subnet"):
                beside = [each.cidr for each in (*further, *([admin.subnet] if admin else []))]
                service = self._ensure_service_subnet(record, tenant, beside, progress)
            management = self._cloud.networks.management_sources(service)
        else:
            assert admin is not None  # noqa: S101  every layout has one of the two
            management = admin.management
        return layouts.Surroundings(
            layout=record.layout,
            tenant=tenant,
            further=tuple(further),
            service=service,
            admin=None if admin is None else admin.subnet,
            management=management,
        )

    def _admin_network(self, record: Record) -> AdminNetwork:
        """The one that the server has a port on, whatever the configuration says now."""
        network_id, subnet_id = self._settings.admin_network_id, self._settings.admin_subnet_id
        port = record.port("admin")
        if port is not None:
            network_id, subnet_id = port.network_id, port.subnet_id
        found = self._cloud.networks.find_admin_network(network_id, subnet_id) if network_id else None
        if found is None:
            raise CloudObjectMissing(
                f"The cloud has no admin network {network_id} with subnet {subnet_id}.",
                hint=f"Check admin_network_id and admin_subnet_id of backend {self._settings.backend}.",
            )
        return found

    def _ensure_service_subnet(
        self, record: Record, tenant: Subnet, beside: Sequence[Cidr], progress: Progress
    ) -> Subnet:
        layout = layouts.service_subnet_layout(record.layout)
        block = self._subnets.allocate(record.id, tenant, layout, progress, beside=beside)
        spec = layouts.service_subnet_spec(
            record.layout,
            name=block.name,
            cidr=block.cidr,
            tags=self._tags(block.owner),
            tenant=tenant,
            client_ports=self._settings.client_ports,
        )
        subnet = self._cloud.networks.ensure_service_subnet(spec, timeout=self._settings.network_seconds)
        self._subnets.record(block, subnet, progress)
        return subnet

    def _ensure_ports(
        self, record: Record, around: layouts.Surroundings, progress: Progress
    ) -> tuple[layouts.Nic, ...]:
        specs = layouts.port_specs(
            around,
            server_id=record.id,
            client_ports=self._settings.client_ports,
            tags=self._tags(records.owner(record.id)),
            known=record.ports,
        )
        nics: list[layouts.Nic] = []
        known = record.ports
        for role, spec in specs:
            port = self._cloud.networks.ensure_port(spec, timeout=self._settings.network_seconds)
            nics.append(layouts.Nic(role=role, port=port))
            known = records.with_port(known, role, port)
            if known != record.ports:
                with self._store.begin() as tx:
                    progress.fence(tx)
                    records.change(tx, record.id, ports=records.ports_json(known))
        return tuple(nics)

    def _remove_left_ports(self, record: Record, tenants: Sequence[Subnet], progress: Progress) -> Record:
        """Take away the tenant NICs on subnets that are not asked for any more."""
        wanted = {subnet.id for subnet in tenants} | {""}
        left = [port for port in record.ports if port.role == "tenant" and port.subnet_id not in wanted]
        for port in left:
            if record.instance_id is not None:
                timeout = self._settings.attach_seconds
                self._cloud.compute.detach_port(record.instance_id, port.port_id, timeout=timeout)
            self._cloud.networks.delete_port(port.port_id, timeout=self._settings.network_seconds)
            record = replace(record, ports=tuple(each for each in record.ports if each != port))
            self._change(record, progress, {"ports": records.ports_json(record.ports)})
        return record

    def _description(self, record: Record, around: layouts.Surroundings, nics: Sequence[layouts.Nic]) -> dict[str, Any]:
        """What the row says of a server with these NICs."""
        firewall = layouts.firewall(around, nics, client_ports=self._settings.client_ports)
        exports = layouts.with_role(nics, layouts.client_role(record.layout))
        return {
            "management_address": str(self._ensure_reachable(record.layout, nics)),
            "export_addresses": [str(port.address) for port in exports],
            "firewall": msgspec.to_builtins(firewall),
            "network_data": config_drive.network_data(layouts.links(record.layout, nics)),
        }

    def _ensure_reachable(self, layout: Layout, nics: Sequence[layouts.Nic]) -> Address:
        """Where the controllers log in. The way to the admin network is the operator's."""
        role = layouts.management_role(layout)
        (port,) = layouts.with_role(nics, role)
        if role == "admin":
            return port.address
        return self._cloud.networks.ensure_reachable(port, timeout=self._settings.network_seconds)

    def _ensure_instance(
        self,
        record: Record,
        nics: Sequence[layouts.Nic],
        known: Mapping[str, Any],
        flavor: Flavor,
        progress: Progress,
    ) -> Instance:
        with self._store.read() as tx:
            current = records.find(tx, record.id)
            if current is None:
                raise LeaseLost(f"Service instance {record.id} was deleted while it was being made.")
            login = self._secrets.get(tx, current.private_key_secret)
            host = self._secrets.get(tx, current.host_key_secret)
        name = f"manila-{record.id}"
        spec = InstanceSpec(
            name=name,
            image=self._settings.image,
            flavor=flavor,
            ports=tuple(nic.port for nic in nics),
            files=config_drive.build(
                server_id=record.id,
                name=name,
                links=layouts.links(record.layout, nics),
                authorized_keys=(authorized_keys_line(public_of(login)),),
                host_private_key=host,
                firewall=msgspec.convert(known["firewall"], Firewall),
            ),
            tags=self._tags(records.owner(record.id)),
            availability_zone=self._settings.availability_zone,
        )
        instance = self._cloud.compute.ensure_instance(spec, timeout=self._settings.start_seconds)
        if instance.id != current.instance_id:
            with self._store.begin() as tx:
                progress.fence(tx)
                records.change(tx, record.id, instance_id=instance.id)
            self._guests.hang_up(record.id)
        if not instance.running:
            why = f": {instance.failure}" if instance.failure else ""
            raise CloudError(
                f"The cloud made the service VM {name} but it does not run{why}."
                f"{console_report(self._cloud.compute, instance.id)}",
                hint="See the cloud's own logs for this VM.",
            )
        return instance

    # ---- found ----

    def find(self, server_id: str) -> ServiceInstance | None:
        record = self._store.look_up(records.find_several, server_id)
        return None if record is None else record.as_service_instance()

    def check(self, server_id: str, networks: Sequence[TenantNetwork], progress: Progress) -> ServiceInstance:
        with self._store.read() as tx:
            record = records.find(tx, server_id)
        server = None if record is None else record.as_service_instance()
        if record is None or server is None:
            raise CloudObjectMissing(f"There is no VM of a share server {server_id}.")
        if record.backend != self._settings.backend:
            raise CloudError(f"The VM {server.instance_id} is one of backend {record.backend}.", hint="Name its host.")
        with progress.step("networks"):
            tenants = {self._find_tenant_subnet(each).id for each in networks}
            if layouts.is_routed(record.layout):
                present = {self._subnets.tenant_of(server_id)}
            else:
                present = {port.subnet_id for port in record.ports if port.role == "tenant"}
            if present != tenants:
                raise CloudError(
                    f"The VM {server.instance_id} is on subnet {', '.join(sorted(present))}, and the share network on "
                    f"{', '.join(sorted(tenants))}.",
                    hint="Name a share network with the subnet that the VM is on.",
                )
        with progress.step("running"):
            instance = self._cloud.compute.find_instance(server.instance_id)
            if instance is None:
                raise CloudObjectMissing(f"The cloud has no VM {server.instance_id} any more.")
            if not instance.running:
                self._cloud.compute.start_instance(instance.id, timeout=self._settings.start_seconds)
            self._guests.hang_up(server_id)
            self._guests.await_boot(server_id, instance.id, progress)
        return server

    def look(self, server_id: str) -> Instance | None:
        server = self.find(server_id)
        return None if server is None else self._cloud.compute.find_instance(server.instance_id)

    def _read_address(self, server_id: str) -> tuple[GuestAddress, bool | None]:
        with self._store.read() as tx:
            row = records.find_address(tx, server_id)
        if row is None or row.management_address is None:
            raise NotFound(f"Share server {server_id} has no service VM.", hint="Make the server first.")
        address = GuestAddress(
            server_id=server_id,
            host=row.management_address,
            host_key=row.host_key,
            private_key=self._secrets.open(row.private_key_ciphertext),
        )
        return address, row.healthy

    # ---- removed ----

    def delete(self, server_id: str, progress: Progress) -> None:
        with self._store.read() as tx:
            record = records.find(tx, server_id)
        with progress.step("instance"):
            self._guests.hang_up(server_id)
            for instance_id in self._instances_of(server_id, record):
                self._cloud.compute.delete_instance(instance_id, timeout=self._settings.start_seconds)
        with progress.step("ports"):
            for port_id in self._ports_of(server_id, record):
                self._cloud.networks.delete_port(port_id, timeout=self._settings.network_seconds)
        with progress.step("service subnet"):
            free = self._subnets.release(server_id, progress)
            if free is not None:
                progress.record(service_subnet=free)
            self._subnets.remove_free(
                progress,
                required=free or progress.recall("service_subnet"),
                timeout=self._settings.network_seconds,
            )
        with self._store.begin() as tx:
            progress.fence(tx)
            self._secrets.delete(tx, records.owner(server_id))
            records.remove(tx, server_id)
        self._guests.health.forget(server_id)

    def _instances_of(self, server_id: str, record: Record | None) -> list[str]:
        if record is not None and record.instance_id is not None:
            return [record.instance_id]
        # Its maker may have died between the cloud's answer and our note of it; the tag tells.
        owner = records.owner(server_id)
        return [each.id for each in self._cloud.compute.list_instances() if each.tags.get(TAG_OWNER) == owner]

    def _ports_of(self, server_id: str, record: Record | None) -> list[str]:
        known = [] if record is None else [port.port_id for port in record.ports]
        if record is not None and len(known) == len(layouts.ROLES[record.layout]) + len(record.further_subnets):
            return known
        owner = records.owner(server_id)
        listed = [port.id for port in self._cloud.networks.list_ports() if port.tags.get(TAG_OWNER) == owner]
        return list(dict.fromkeys([*known, *listed]))

    # ---- talked to and healed ----

    def apply(self, server_id: str, document: Document, *, timeout: float | None = None) -> State:
        return self._guests.apply(server_id, document, timeout=timeout)

    def observe(self, server_id: str, document: Document, *, timeout: float | None = None) -> State:
        return self._guests.observe(server_id, document, timeout=timeout)

    def flush(self, server_id: str, share_ids: Sequence[str]) -> None:
        self._guests.flush(server_id, share_ids)

    def frozen(self, server_id: str, share_ids: Sequence[str], *, seconds: float) -> AbstractContextManager[Freeze]:
        return self._guests.frozen(server_id, share_ids, seconds=seconds)

    def ensure_running(self, server_id: str, progress: Progress, *, ask: Callable[[], object] | None = None) -> bool:
        return self._healing.ensure_running(server_id, progress, ask=ask)

    # ---- volumes ----

    def attach_volume(self, server_id: str, volume_id: str, progress: Progress) -> ServiceInstance:
        instance = self.find(server_id)
        if instance is None:
            raise NotFound(f"Share server {server_id} has no VM to attach a volume to.", hint="Make the server first.")
        progress.check()
        self._cloud.compute.attach_volume(instance.instance_id, volume_id, timeout=self._settings.attach_seconds)
        return instance

    def detach_volume(self, server_id: str, volume_id: str, progress: Progress) -> None:
        instance = self.find(server_id)
        if instance is None:
            return
        progress.check()
        self._cloud.compute.detach_volume(instance.instance_id, volume_id, timeout=self._settings.attach_seconds)

    # ---- common ----

    def _tags(self, owner: str) -> dict[str, str]:
        return {
            TAG_DEPLOYMENT: self._cloud.deployment,
            TAG_BACKEND: self._settings.backend,
            TAG_OWNER: owner,
        }
