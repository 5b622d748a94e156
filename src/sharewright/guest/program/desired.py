"""The document of sharewright/guest/document.py, read strictly from plain JSON values into small classes.

Nothing from outside reaches a file or a command before it has passed through here, or through firewall.parse_firewall.
"""

from __future__ import annotations

import re
from functools import lru_cache

from . import extension, values
from .firewall import parse_firewall
from .host import SHARES, Refusal
from .network import macs_of, placements

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .memory import Memory

FORMAT_VERSION = 1
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
SERIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{3,127}")
PROTOCOLS = ("NFS", "CIFS", "NONE")
ENCRYPTIONS = ("", "off", "desired", "required")
ACCESS_KEY = re.compile(r"[A-Za-z0-9_-]{0,128}")
RULE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
FILESYSTEMS = ("ext4", "xfs")
STEPS = ("copy", "switch", "cancel")
SQUASHES = ("no_root_squash", "root_squash", "all_squash")
LONGEST_FREEZE = 300.0  # seconds
LONGEST_STALL = 600.0
MOUNT_PATH = re.compile(re.escape(SHARES) + "/share-(" + UUID.pattern + ")")


class Rule:
    __slots__ = ("access_key", "access_level", "access_to", "access_type", "id")

    def __init__(
        self, id: str, access_to: str, access_level: str, *, access_type: str = "ip", access_key: str = ""
    ) -> None:
        self.id = id
        self.access_to = access_to
        self.access_level = access_level
        self.access_type = access_type
        self.access_key = access_key


class Successor:
    """The disk that a share moves to; guest/document.py says what the fields mean."""

    __slots__ = ("copy_uuid", "serial", "size", "stall", "step", "uuid")

    def __init__(self, serial: str, uuid: str, copy_uuid: str, *, size: int, step: str, stall: float) -> None:
        self.serial = serial
        self.uuid = uuid
        self.copy_uuid = copy_uuid
        self.size = size
        self.step = step
        self.stall = stall


class Share:
    __slots__ = (
        "by_serial",
        "clients",
        "clone_of",
        "create",
        "encryption",
        "entries",
        "filesystem",
        "id",
        "judged",
        "protocol",
        "read_only",
        "replaces",
        "rules",
        "serial",
        "size",
        "squash",
        "successor",
        "uuid",
    )

    def __init__(
        self,
        id: str,
        serial: str,
        filesystem: str,
        uuid: str,
        *,
        create: bool = False,
        rules: tuple[Rule, ...] = (),
        squash: str = "no_root_squash",
        size: int = 0,
        successor: Successor | None = None,
        clone_of: str = "",
        by_serial: bool = False,
        protocol: str = "NFS",
        encryption: str = "",
        replaces: str = "",
        read_only: bool = False,
    ) -> None:
        self.id = id
        self.serial = serial
        self.filesystem = filesystem
        self.uuid = uuid
        self.create = create
        self.rules = rules
        self.clients: tuple[list[tuple[str, str]], dict[str, str]] | None = None  # exports.clients of the rules
        self.entries: dict[tuple[str, str], frozenset[str]] | None = None  # exports.entries_of
        self.squash = squash
        self.size = size
        self.successor = successor
        self.clone_of = clone_of
        self.by_serial = by_serial
        self.protocol = protocol
        self.judged: tuple[dict[str, str], tuple[dict[str, str], dict[str, str], dict[str, str]]] | None = (
            None  # smb.judge
        )
        self.encryption = encryption
        self.replaces = replaces
        self.read_only = read_only

    @property
    def path(self) -> str:
        return mount_path(self.id)

    def moved(self) -> Share:
        """The share on its successor, to which it has moved."""
        new = self.successor
        if new is None:
            return self
        return Share(
            self.id,
            new.serial,
            self.filesystem,
            new.uuid,
            rules=self.rules,
            squash=self.squash,
            size=new.size,
            successor=new,
            protocol=self.protocol,
            encryption=self.encryption,
        )

    @property
    def has_moved(self) -> bool:
        return self.successor is not None and self.uuid == self.successor.uuid


class Desired:
    """A whole document. ``firewall`` is None when the document leaves it as it is, and so is ``network``; ``ports`` are
    the firewall's client ports;
    ``extension`` is what the extension understood of its part, None when there is none; ``borrowed``: the machine is
    not ours (borrowed.py)."""

    __slots__ = (
        "borrowed",
        "device_timeout",
        "extension",
        "firewall",
        "generation",
        "look",
        "network",
        "ports",
        "saved_firewall",
        "server_id",
        "shares",
    )

    def __init__(
        self,
        server_id: str,
        generation: int,
        shares: tuple[Share, ...],
        *,
        firewall: dict[str, list[str]] | None = None,
        ports: list[int] | None = None,
        saved_firewall: dict[str, object] | None = None,
        network: dict[str, object] | None = None,
        device_timeout: float = 30.0,
        extension: object = None,
        look: tuple[str, ...] = (),
        borrowed: bool = False,
    ) -> None:
        self.borrowed = borrowed
        self.server_id = server_id
        self.generation = generation
        self.shares = shares
        self.firewall = firewall
        self.ports = ports or []
        self.saved_firewall = saved_firewall
        self.network = network
        self.device_timeout = device_timeout
        self.extension = extension
        self.look = look

    @property
    def moves(self) -> bool:
        """Whether any share moves to another disk."""
        return any(share.successor is not None for share in self.shares)

    def with_shares(self, shares: tuple[Share, ...]) -> Desired:
        """The same document with these shares instead."""
        return Desired(
            self.server_id,
            self.generation,
            shares,
            firewall=self.firewall,
            ports=self.ports,
            saved_firewall=self.saved_firewall,
            network=self.network,
            device_timeout=self.device_timeout,
            extension=self.extension,
            look=self.look,
            borrowed=self.borrowed,
        )


class FreezeRequest:
    """What a ``freeze`` asks for."""

    __slots__ = ("seconds", "share_ids", "token")

    def __init__(self, share_ids: list[str], token: str, seconds: float) -> None:
        self.share_ids = share_ids
        self.token = token
        self.seconds = seconds


def mount_path(share_id: str) -> str:
    return f"{SHARES}/share-{share_id}"


@lru_cache(maxsize=4096)
def share_of(path: str) -> str | None:
    """The id of the share whose mount point ``path`` is, or None."""
    match = MOUNT_PATH.fullmatch(path)
    return match.group(1) if match else None


def parse_document(value: object, memory: Memory | None = None) -> Desired:
    """Refusal (invalid) names the first field that is wrong. A share that came just so in the document before is not
    read again."""
    document = values.table(
        value,
        "document",
        ("server_id", "generation", "shares"),
        ("firewall", "network", "device_timeout", "extension", "look", "borrowed", "format_version"),
    )
    if document.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
        values.wrong(
            "format_version", document["format_version"], f"{FORMAT_VERSION}; the controller and the guest differ"
        )
    items = values.items(document["shares"], "shares")
    shares = tuple(_share_or_known(item, memory) for item in items)
    if memory is not None:
        memory.shares = {share.id: (item, share) for item, share in zip(items, shares, strict=True)}
    successors = [share.moved() for share in shares if share.successor is not None]
    for name in ("id", "serial", "uuid"):
        seen: set[str] = set()
        for share in shares if name == "id" else [*shares, *successors]:
            item = getattr(share, name)
            if item in seen:
                values.wrong(f"shares[].{name}", item, "unique")
            seen.add(item)
    timeout = document.get("device_timeout", 30.0)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 <= timeout <= 3600:
        values.wrong("device_timeout", timeout, "seconds from 0 to 3600")
    borrowed = values.boolean(document.get("borrowed", False), "borrowed")
    firewall = document.get("firewall")
    for name in ("firewall", "network"):
        if borrowed and document.get(name) is not None:
            values.wrong(name, document[name], "null, on a machine of an operator's")
    parsed, ports = parse_firewall(firewall) if firewall is not None else (None, [])
    return Desired(
        values.text(document["server_id"], "server_id", UUID),
        values.integer(document["generation"], "generation", 0, 2**63 - 1),
        shares,
        firewall=parsed,
        ports=ports,
        saved_firewall=firewall if isinstance(firewall, dict) else None,
        network=_network_data(document.get("network")),
        device_timeout=float(timeout),
        extension=_extension(document.get("extension")),
        look=tuple(values.text(serial, "look", SERIAL) for serial in values.items(document.get("look", []), "look")),
        borrowed=borrowed,
    )


def parse_freeze(value: object) -> FreezeRequest:
    """Refusal (invalid) names the first field that is wrong."""
    table = values.table(value, "request", ("call", "share_ids", "token", "seconds"), ())
    seconds = values.seconds(table["seconds"], "seconds", LONGEST_FREEZE)
    return FreezeRequest(_share_ids(table), values.text(table["token"], "token", UUID), seconds)


def parse_thaw(value: object) -> str:
    """The token. Refusal as of :func:`parse_freeze`."""
    return values.text(values.table(value, "request", ("call", "token"), ())["token"], "token", UUID)


def parse_flush(value: object) -> list[str]:
    """Ids of shares. Refusal as of :func:`parse_freeze`."""
    return _share_ids(values.table(value, "request", ("call", "share_ids"), ()))


def _share_ids(table: dict[str, object]) -> list[str]:
    found = [values.text(each, "share_ids[]", UUID) for each in values.items(table["share_ids"], "share_ids")]
    if not found or len(set(found)) < len(found):
        values.wrong("share_ids", found, "at least one id, each once")
    return found


def _network_data(value: object) -> dict[str, object] | None:
    if value is None:
        return None
    table = values.table(value, "network", ("links", "networks"), ("services",))
    placements(table, {mac: mac for mac in macs_of(table)})  # Refusal when it is malformed
    if not macs_of(table):
        raise Refusal("invalid", "network has no links.")
    return table


def _extension(section: object) -> object:
    if section is None:
        return None
    try:
        return extension.parse(section)
    except ValueError as error:
        raise Refusal("invalid", f"extension: {error}.") from None


def _share_or_known(item: object, memory: Memory | None) -> Share:
    """It is never changed once it is parsed, but for what is worked out of it once."""
    kept = memory.shares.get(str(item.get("id"))) if memory is not None and isinstance(item, dict) else None
    return kept[1] if kept is not None and kept[0] == item else _share(item)


def _share(value: object) -> Share:
    table = values.table(
        value,
        "share",
        ("id", "serial", "filesystem", "protocol"),
        ("rules", "squash", "encryption", "successor", "by_serial", "replaces", "read_only"),
    )
    filesystem = values.table(table["filesystem"], "filesystem", ("type", "uuid"), ("create", "size", "clone_of"))
    create = values.boolean(filesystem.get("create", False), "filesystem.create")
    protocol = values.one_of(table["protocol"], "protocol", PROTOCOLS)
    if protocol == "NONE" and table.get("rules"):
        raise Refusal("invalid", "A share of protocol NONE is only mounted; it cannot have rules.")
    clone_of = filesystem.get("clone_of", "")
    if clone_of and create:
        raise Refusal("invalid", "A file system is either a copy or to be made, not both.")
    replaces = table.get("replaces", "")
    by_serial = values.boolean(table.get("by_serial", False), "share.by_serial")
    read_only = values.boolean(table.get("read_only", False), "share.read_only")
    if read_only and (create or filesystem.get("size") or replaces or table.get("successor") is not None):
        raise Refusal("invalid", "A read-only share is not made, grown, moved or reverted.")
    rules = tuple(_rule(item, protocol) for item in values.items(table.get("rules", []), "rules"))
    if read_only:
        for rule in rules:
            rule.access_level = "ro"
    return Share(
        values.text(table["id"], "share.id", UUID),
        values.text(table["serial"], "share.serial", SERIAL),
        values.one_of(filesystem["type"], "filesystem.type", FILESYSTEMS),
        values.text(filesystem["uuid"], "filesystem.uuid", UUID),
        create=create,
        rules=rules,
        squash=values.one_of(table.get("squash", "no_root_squash"), "squash", SQUASHES),
        size=values.integer(filesystem.get("size", 0), "filesystem.size", 0, 2**63 - 1),
        protocol=protocol,
        encryption=values.one_of(table.get("encryption", ""), "encryption", ENCRYPTIONS),
        successor=_successor(table.get("successor"), str(filesystem["type"])),
        clone_of=values.text(clone_of, "filesystem.clone_of", UUID) if clone_of else "",
        by_serial=by_serial,
        replaces=values.text(replaces, "share.replaces", SERIAL) if replaces else "",
        read_only=read_only,
    )


def _successor(value: object, filesystem: str) -> Successor | None:
    if value is None:
        return None
    table = values.table(value, "successor", ("serial", "uuid", "copy_uuid", "size", "step", "stall"), ())
    if filesystem != "ext4":
        raise Refusal("invalid", f"A share with {filesystem} cannot move: inode numbers can only be kept with ext4.")
    stall = values.seconds(table["stall"], "successor.stall", LONGEST_STALL)
    return Successor(
        values.text(table["serial"], "successor.serial", SERIAL),
        values.text(table["uuid"], "successor.uuid", UUID),
        values.text(table["copy_uuid"], "successor.copy_uuid", UUID),
        size=values.integer(table["size"], "successor.size", 1, 2**63 - 1),
        step=values.one_of(table["step"], "successor.step", STEPS),
        stall=stall,
    )


def _rule(value: object, protocol: str) -> Rule:
    """``access_to`` is judged later, by itself: a rule that is wrong hinders no other."""
    table = values.table(value, "rule", ("id", "access_to", "access_level"), ("access_type", "access_key"))
    access_to = table["access_to"]
    if not isinstance(access_to, str):
        values.wrong("rule.access_to", access_to, "a string")
    key = table.get("access_key", "")
    if not isinstance(key, str) or not ACCESS_KEY.fullmatch(key):
        raise Refusal("invalid", "rule.access_key is not a key.")  # without its value
    kinds = ("ip", "user") if protocol == "CIFS" else ("ip",)
    return Rule(
        values.text(table["id"], "rule.id", RULE_ID),
        str(access_to),
        values.one_of(table["access_level"], "rule.access_level", ("rw", "ro")),
        access_type=values.one_of(table.get("access_type", "ip"), "rule.access_type", kinds),
        access_key=key,
    )
