"""Instances of the simulated cloud. They boot by the clock; clouds/simulated/guest.py is what runs inside them."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives import serialization

from sharewright.clouds.contract import Flavor, Instance, InstanceSpec
from sharewright.clouds.simulated.state import SimulatedState, dump, load
from sharewright.clouds.tags import refuse_share_server, several_named, tags_to_store
from sharewright.errors import CloudError, CloudObjectMissing
from sharewright.identifiers import new_id


def _instance(row: sqlite3.Row, macs: frozenset[str] | None = None) -> Instance:
    return Instance(id=row["id"], name=row["name"], running=bool(row["running"]), tags=load(row["tags"]), macs=macs)


class SimulatedCompute:
    def __init__(self, state: SimulatedState, deployment: str) -> None:
        self._state = state
        self._deployment = deployment

    def ensure_instance(self, spec: InstanceSpec, *, timeout: float) -> Instance:
        tags = tags_to_store(spec.tags, self._deployment, spec.name)
        query = "SELECT * FROM instances WHERE deployment = ? AND name = ?"
        with self._state.call("ensure_instance", timeout=timeout), self._state.transaction() as tx:
            row = tx.execute(query, (self._deployment, spec.name)).fetchone()
            wanted = [port.id for port in spec.ports]
            if row is None:
                host_key, authorized_keys = _keys(spec.files)
                instance_id = new_id()
                tx.execute(
                    "INSERT INTO instances (id, deployment, name, image, running, tags, boot_id, ready_at, host_key,"
                    " authorized_keys) VALUES (?, ?, ?, ?, 0, ?, '', 0, ?, ?)",
                    (
                        instance_id,
                        self._deployment,
                        spec.name,
                        spec.image,
                        dump(tags),
                        host_key,
                        dump(authorized_keys),
                    ),
                )
                tx.execute(
                    "INSERT INTO flavors VALUES (?, ?, ?)", (instance_id, spec.flavor.vcpus, spec.flavor.memory_mib)
                )
                network = _user_data(spec.files).get("network_data")
                if network is not None:
                    tx.execute("INSERT INTO guest_networks VALUES (?, ?)", (instance_id, dump(network)))
                self._plug(tx, instance_id, wanted, spec.name)
                self._boot(tx, instance_id)
            else:
                ports = tx.execute(
                    "SELECT id FROM ports WHERE instance_id = ? ORDER BY position", (row["id"],)
                ).fetchall()
                present = [port["id"] for port in ports]
                if not set(present) <= set(wanted):
                    raise CloudError(f"Instance {spec.name} exists with other ports.", hint="Delete it first.")
                missing = [port_id for port_id in wanted if port_id not in present]
                self._plug(tx, row["id"], missing, spec.name, first=len(present))
                if not row["running"]:
                    self._boot(tx, row["id"])
            row = tx.execute(query, (self._deployment, spec.name)).fetchone()
        return _instance(row)

    def _plug(
        self, tx: sqlite3.Connection, instance_id: str, port_ids: Sequence[str], name: str, *, first: int = 0
    ) -> None:
        for position, port_id in enumerate(port_ids, first):
            taken = tx.execute(
                "UPDATE ports SET instance_id = ?, position = ? WHERE deployment = ? AND id = ?"
                " AND instance_id IS NULL",
                (instance_id, position, self._deployment, port_id),
            )
            if taken.rowcount != 1:
                raise CloudObjectMissing(
                    f"Port {port_id} for instance {name} does not exist or is in use.", hint="Make the port again."
                )

    def detach_port(self, instance_id: str, port_id: str, *, timeout: float) -> None:
        with self._state.call("detach_port", timeout=timeout), self._state.transaction() as tx:
            tx.execute(
                "UPDATE ports SET instance_id = NULL, position = NULL WHERE deployment = ? AND id = ?"
                " AND instance_id = ?",
                (self._deployment, port_id, instance_id),
            )

    def find_instance(self, instance_id: str) -> Instance | None:
        with self._state.call("find_instance"), self._state.transaction(write=False) as tx:
            row = self._row(tx, instance_id)
            ports = tx.execute("SELECT mac FROM ports WHERE instance_id = ?", (instance_id,)).fetchall()
        return _instance(row, frozenset(port["mac"] for port in ports)) if row else None

    def list_instances(self) -> Sequence[Instance]:
        with self._state.call("list_instances"), self._state.transaction(write=False) as tx:
            rows = tx.execute(
                "SELECT * FROM instances WHERE deployment = ? ORDER BY name", (self._deployment,)
            ).fetchall()
        return [_instance(row) for row in rows]

    def find_named_instance(self, reference: str) -> Instance | None:
        with self._state.call("find_named_instance"), self._state.transaction(write=False) as tx:
            rows = (
                tx.execute("SELECT * FROM instances WHERE id = ?", (reference,)).fetchall()
                or tx.execute("SELECT * FROM instances WHERE name = ? ORDER BY id", (reference,)).fetchall()
            )
            if len(rows) > 1:
                raise several_named(reference, [row["id"] for row in rows])
            if not rows:
                return None
            refuse_share_server(load(rows[0]["tags"]), rows[0]["name"])
            addresses: dict[str, tuple[str, ...]] = {}
            for row in tx.execute(
                "SELECT subnets.name, address FROM ports JOIN subnets ON subnets.id = subnet_id WHERE instance_id = ?"
                " ORDER BY position",
                (rows[0]["id"],),
            ):
                addresses[row["name"]] = (*addresses.get(row["name"], ()), row["address"])
        return replace(_instance(rows[0]), addresses=addresses)

    def start_instance(self, instance_id: str, *, timeout: float) -> None:
        with self._state.call("start_instance", timeout=timeout), self._state.transaction() as tx:
            if not self._existing(tx, instance_id)["running"]:
                self._boot(tx, instance_id)

    def stop_instance(self, instance_id: str) -> None:
        """For tests, and not in the contract: the VM lost its power."""
        with self._state.transaction() as tx:
            self._existing(tx, instance_id)
            tx.execute("UPDATE instances SET running = 0 WHERE id = ?", (instance_id,))
            tx.execute("UPDATE guest_shares SET mounted = 0 WHERE instance_id = ?", (instance_id,))

    def flavor_of(self, instance_id: str) -> Flavor:
        """For tests: what the instance was made of."""
        with self._state.transaction(write=False) as tx:
            row = tx.execute("SELECT * FROM flavors WHERE instance_id = ?", (instance_id,)).fetchone()
        return Flavor(vcpus=row["vcpus"], memory_mib=row["memory_mib"])

    def reboot_instance(self, instance_id: str, *, timeout: float) -> None:
        with self._state.call("reboot_instance", timeout=timeout), self._state.transaction() as tx:
            self._existing(tx, instance_id)
            self._boot(tx, instance_id)

    def delete_instance(self, instance_id: str, *, timeout: float) -> None:
        with self._state.call("delete_instance", timeout=timeout), self._state.transaction() as tx:
            if self._row(tx, instance_id) is None:
                return
            tx.execute("UPDATE volumes SET instance_id = NULL WHERE instance_id = ?", (instance_id,))
            tx.execute("UPDATE ports SET instance_id = NULL, position = NULL WHERE instance_id = ?", (instance_id,))
            tx.execute("DELETE FROM instances WHERE id = ?", (instance_id,))

    def attach_volume(self, instance_id: str, volume_id: str, *, timeout: float) -> None:
        with self._state.call("attach_volume", timeout=timeout), self._state.transaction() as tx:
            if tx.execute("SELECT 1 FROM instances WHERE id = ?", (instance_id,)).fetchone() is None:
                raise _no_instance(instance_id)
            volume = self._volume(tx, volume_id)
            if volume is None:
                raise CloudObjectMissing(f"There is no volume {volume_id}.", hint="It may have been deleted.")
            if volume["instance_id"] not in (None, instance_id):
                raise CloudError(
                    f"Volume {volume['name']} is attached to instance {volume['instance_id']}.",
                    hint="Detach it there first.",
                )
            tx.execute("UPDATE volumes SET instance_id = ? WHERE id = ?", (instance_id, volume_id))

    def detach_volume(self, instance_id: str, volume_id: str, *, timeout: float) -> None:
        with self._state.call("detach_volume", timeout=timeout), self._state.transaction() as tx:
            volume = self._volume(tx, volume_id)
            if volume is None or volume["instance_id"] != instance_id:
                return
            mounted = tx.execute(
                "UPDATE guest_shares SET mounted = 0 WHERE instance_id = ? AND serial = ? AND mounted",
                (instance_id, volume["id"]),
            )
            if mounted.rowcount:
                tx.execute(
                    "INSERT INTO violations (what) VALUES (?)",
                    (f"volume {volume['name']} was detached from {instance_id} while mounted",),
                )
            tx.execute("UPDATE volumes SET instance_id = NULL WHERE id = ?", (volume_id,))

    def console_log(self, instance_id: str, *, length: int = 8192) -> str:
        with self._state.call("console_log"), self._state.transaction(write=False) as tx:
            row = self._row(tx, instance_id)
        return str(row["console"])[-length:] if row else ""

    # ---- rows ----

    def _row(self, tx: sqlite3.Connection, instance_id: str) -> sqlite3.Row | None:
        row: sqlite3.Row | None = tx.execute(
            "SELECT * FROM instances WHERE deployment = ? AND id = ?", (self._deployment, instance_id)
        ).fetchone()
        return row

    def _existing(self, tx: sqlite3.Connection, instance_id: str) -> sqlite3.Row:
        row = self._row(tx, instance_id)
        if row is None:
            raise _no_instance(instance_id)
        return row

    def _volume(self, tx: sqlite3.Connection, volume_id: str) -> sqlite3.Row | None:
        row: sqlite3.Row | None = tx.execute(
            "SELECT * FROM volumes WHERE deployment = ? AND id = ?", (self._deployment, volume_id)
        ).fetchone()
        return row

    def _boot(self, tx: sqlite3.Connection, instance_id: str) -> None:
        """Power (off and) on. The guest mounts by itself what its fstab names and what is attached."""
        delay = tx.execute("SELECT seconds FROM delays WHERE method = 'boot'").fetchone()
        tx.execute(
            "UPDATE instances SET running = 1, boot_id = ?, ready_at = ?, console = console || ? WHERE id = ?",
            (new_id(), time.time() + (delay["seconds"] if delay else 0.0), "simulated boot\n", instance_id),
        )
        tx.execute(
            "UPDATE guest_shares SET mounted = EXISTS (SELECT 1 FROM volumes WHERE volumes.id = guest_shares.serial"
            " AND volumes.instance_id = guest_shares.instance_id"
            " AND volumes.filesystem_uuid = guest_shares.filesystem_uuid) WHERE instance_id = ?",
            (instance_id,),
        )


def _no_instance(instance_id: str) -> CloudObjectMissing:
    return CloudObjectMissing(f"There is no instance {instance_id}.", hint="It may have been deleted.")


def _user_data(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Ours; nothing when the config drive has none."""
    try:
        found = json.loads(files.get("user_data", b"{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _keys(files: Mapping[str, bytes]) -> tuple[str, list[str]]:
    """The public host key and the authorised public keys that the config drive gives the VM ("" and [] when none).

    Only public parts are kept.
    """
    try:
        user_data = _user_data(files)
        private = serialization.load_ssh_private_key(user_data["ssh_host_ed25519_key"].encode(), None)
        public = private.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        return public.decode(), [str(line) for line in user_data["authorized_keys"]]
    except (KeyError, TypeError, ValueError):
        return "", []
