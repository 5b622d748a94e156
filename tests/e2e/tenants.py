"""A tenant of the e2e tests, and what it does with shares through the stock SDK."""

from __future__ import annotations

from dataclasses import dataclass

from openstack.connection import Connection

from client_vm import ClientVm
from deployment import wait_for


@dataclass
class Tenant:
    name: str
    network_id: str
    subnet_id: str
    cidr: str
    client: ClientVm
    sdk: Connection
    share_network_id: str


class Shares:
    """What the tests do with shares, through the stock SDK."""

    def __init__(self, tenant: Tenant, *, protocol: str = "NFS") -> None:
        self.tenant = tenant
        self.client = tenant.client
        self.protocol = protocol
        self.api = tenant.sdk.shared_file_system

    def create(self, name: str, *, share_type: str = "two_nics", size: int = 1) -> str:
        share = self.api.create_share(
            name=name,
            share_protocol=self.protocol,
            size=size,
            share_type=share_type,
            share_network_id=self.tenant.share_network_id,
        )
        return str(share.id)

    def wait(self, share_id: str, status: str = "available", *, seconds: float = 240) -> None:
        def reached() -> bool:
            now = self.api.get_share(share_id).status
            if now != status and now in ("error", "error_deleting", "manage_error"):
                messages = [m.user_message for m in self.api.user_messages() if m.resource_id == share_id]
                raise AssertionError(f"share {share_id} is {now}: {messages}")
            return bool(now == status)

        wait_for(f"share {share_id} {status}", reached, seconds=seconds)

    def export(self, share_id: str) -> str:
        return next(str(location.path) for location in self.api.export_locations(share_id))

    def allow(self, share_id: str, to: str, level: str = "rw", *, kind: str = "ip", wait: bool = True) -> str:
        rule = self.api.create_access_rule(share_id, access_type=kind, access_to=to, access_level=level)
        if wait:
            wait_for(f"rule {to} active", lambda: self.api.get_access_rule(rule.id).state == "active", seconds=60)
        return str(rule.id)

    def deny(self, rule_id: str, share_id: str) -> None:
        self.api.delete_access_rule(rule_id, share_id)
        wait_for(
            "the rule to be gone",
            lambda: rule_id not in {rule.id for rule in self.api.access_rules(self.api.get_share(share_id))},
            seconds=60,
        )

    def delete(self, share_id: str, *, seconds: float = 120) -> None:
        self.api.delete_share(share_id)
        self.wait_gone(share_id, seconds=seconds)

    def wait_gone(self, share_id: str, *, seconds: float = 120) -> None:
        wait_for(
            f"share {share_id} gone",
            lambda: self.api.find_share(share_id, ignore_missing=True) is None,
            seconds=seconds,
        )
