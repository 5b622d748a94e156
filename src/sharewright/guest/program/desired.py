"""The document of sharewright/guest/document.py, read strictly from plain JSON values into small classes.

Nothing from outside reaches a file or a command before it has passed through here.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

from . import extension
from .host import SHARES, Refusal
from .network import macs_of, placements

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from .memory import Memory

FORMAT_VERSION = 1
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
SERIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{3,127}")
MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
PROTOCOLS = ("NFS", "CIFS", "NONE")
ENCRYPTIONS = ("", "off", "desired", "required")
ACCESS_KEY = re.compile(r"[A-Za-z0-9_-]{0,128}")
RULE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
FILESYSTEMS = ("ext4", "xfs")
STEPS = ("copy", "switch", "cancel")
SQUASHES = ("no_root_squash", "root_squash", "all_squash")
LONGEST_FREEZE = 300.0  # seconds
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
    document = _table(
        value,
        "document",
        ("server_id", "generation", "shares"),
        ("firewall", "network", "device_timeout", "extension", "look", "borrowed", "format_version"),
    )
    if document.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
        _wrong("format_version", document["format_version"], f"{FORMAT_VERSION}; the controller and the guest differ")
    items = _list(document["shares"], "shares")
    shares = tuple(_share_or_known(item, memory) for item in items)
    if memory is not None:
        memory.shares = {share.id: (item, share) for item, share in zip(items, shares, strict=True)}
    successors = [share.moved() for share in shares if share.successor is not None]
    for name in ("id", "serial", "uuid"):
        seen: set[str] = set()
        for share in shares if name == "id" else [*shares, *successors]:
            item = getattr(share, name)
            if item in seen:
                _wrong(f"shares[].{name}", item, "unique")
            seen.add(item)
    timeout = document.get("device_timeout", 30.0)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 <= timeout <= 3600:
        _wrong("device_timeout", timeout, "seconds from 0 to 3600")
    borrowed = document.get("borrowed", False)
    if not isinstance(borrowed, bool):
        _wrong("borrowed", borrowed, "true or false")
    firewall = document.get("firewall")
    for name in ("firewall", "network"):
        if borrowed and document.get(name) is not None:
            _wrong(name, document[name], "null, on a machine of an operator's")
    parsed, ports = parse_firewall(firewall) if firewall is not None else (None, [])
    return Desired(
        _text(document["server_id"], "server_id", UUID),
        _integer(document["generation"], "generation", 0, 2**63 - 1),
        shares,
        firewall=parsed,
        ports=ports,
        saved_firewall=firewall if isinstance(firewall, dict) else None,
        network=_network_data(document.get("network")),
        device_timeout=float(timeout),
        extension=_extension(document.get("extension")),
        look=tuple(_text(serial, "look", SERIAL) for serial in _list(document.get("look", []), "look")),
        borrowed=borrowed,
    )


def parse_freeze(value: object) -> FreezeRequest:
    """Refusal (invalid) names the first field that is wrong."""
    table = _table(value, "request", ("call", "share_ids", "token", "seconds"), ())
    seconds = table["seconds"]
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= LONGEST_FREEZE:
        _wrong("seconds", seconds, f"seconds up to {LONGEST_FREEZE:g}")
    return FreezeRequest(_share_ids(table), _text(table["token"], "token", UUID), float(seconds))


def parse_thaw(value: object) -> str:
    """The token. Refusal as of :func:`parse_freeze`."""
    return _text(_table(value, "request", ("call", "token"), ())["token"], "token", UUID)


def parse_flush(value: object) -> list[str]:
    """Ids of shares. Refusal as of :func:`parse_freeze`."""
    return _share_ids(_table(value, "request", ("call", "share_ids"), ()))


def _share_ids(table: dict[str, object]) -> list[str]:
    found = [_text(each, "share_ids[]", UUID) for each in _list(table["share_ids"], "share_ids")]
    if not found or len(set(found)) < len(found):
        _wrong("share_ids", found, "at least one id, each once")
    return found


def _network_data(value: object) -> dict[str, object] | None:
    if value is None:
        return None
    table = _table(value, "network", ("links", "networks"), ("services",))
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


def parse_firewall(value: object) -> tuple[dict[str, list[str]], list[int]]:
    """A Firewall of guest/document.py → its MACs in lower case and canonical CIDRs, and its ports."""
    table = _table(
        value,
        "firewall",
        ("management_macs", "management_from", "client_macs"),
        ("client_from", "admin_macs", "client_ports"),
    )
    parsed: dict[str, list[str]] = {}
    for name in ("management_macs", "client_macs", "admin_macs"):
        macs = _list(table.get(name, []), name)
        parsed[name] = [_text(mac.lower() if isinstance(mac, str) else mac, name, MAC) for mac in macs]
    for name in ("management_from", "client_from"):
        parsed[name] = [str(network(cidr, name)) for cidr in _list(table.get(name, []), name)]
    ports = [_integer(port, "client_ports", 1, 65535) for port in _list(table.get("client_ports", [2049]), "ports")]
    return parsed, ports


def network(value: object, name: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """An address or CIDR; host bits, zones and IPv4-mapped IPv6 are refused."""
    try:
        if not isinstance(value, str):
            raise ValueError("not a string")
        parsed = ipaddress.ip_network(value)
        if isinstance(parsed, ipaddress.IPv6Network):
            if "%" in value:
                raise ValueError("has a zone")
            if parsed.network_address.ipv4_mapped is not None:
                raise ValueError("is an IPv4 address in IPv6 clothes")
    except ValueError as error:
        _wrong(name, value, f"an address or CIDR without host bits ({error})")
    return parsed


def _share_or_known(item: object, memory: Memory | None) -> Share:
    """It is never changed once it is parsed, but for what is worked out of it once."""
    kept = memory.shares.get(str(item.get("id"))) if memory is not None and isinstance(item, dict) else None
    return kept[1] if kept is not None and kept[0] == item else _share(item)


def _share(value: object) -> Share:
    table = _table(
        value,
        "share",
        ("id", "serial", "filesystem", "protocol"),
        ("rules", "squash", "encryption", "successor", "by_serial", "replaces", "read_only"),
    )
    filesystem = _table(table["filesystem"], "filesystem", ("type", "uuid"), ("create", "size", "clone_of"))
    create = filesystem.get("create", False)
    if not isinstance(create, bool):
        _wrong("filesystem.create", create, "true or false")
    protocol = _one_of(table["protocol"], "protocol", PROTOCOLS)
    if protocol == "NONE" and table.get("rules"):
        raise Refusal("invalid", "A share of protocol NONE is only mounted; it cannot have rules.")
    clone_of = filesystem.get("clone_of", "")
    if clone_of and create:
        raise Refusal("invalid", "A file system is either a copy or to be made, not both.")
    replaces = table.get("replaces", "")
    by_serial = table.get("by_serial", False)
    if not isinstance(by_serial, bool):
        _wrong("share.by_serial", by_serial, "true or false")
    read_only = table.get("read_only", False)
    if not isinstance(read_only, bool):
        _wrong("share.read_only", read_only, "true or false")
    if read_only and (create or filesystem.get("size") or replaces or table.get("successor") is not None):
        raise Refusal("invalid", "A read-only share is not made, grown, moved or reverted.")
    rules = tuple(_rule(item, protocol) for item in _list(table.get("rules", []), "rules"))
    if read_only:
        for rule in rules:
            rule.access_level = "ro"
    return Share(
        _text(table["id"], "share.id", UUID),
        _text(table["serial"], "share.serial", SERIAL),
        _one_of(filesystem["type"], "filesystem.type", FILESYSTEMS),
        _text(filesystem["uuid"], "filesystem.uuid", UUID),
        create=create,
        rules=rules,
        squash=_one_of(table.get("squash", "no_root_squash"), "squash", SQUASHES),
        size=_integer(filesystem.get("size", 0), "filesystem.size", 0, 2**63 - 1),
        protocol=protocol,
        encryption=_one_of(table.get("encryption", ""), "encryption", ENCRYPTIONS),
        successor=_successor(table.get("successor"), str(filesystem["type"])),
        clone_of=_text(clone_of, "filesystem.clone_of", UUID) if clone_of else "",
        by_serial=by_serial,
        replaces=_text(replaces, "share.replaces", SERIAL) if replaces else "",
        read_only=read_only,
    )


def _successor(value: object, filesystem: str) -> Successor | None:
    if value is None:
        return None
    table = _table(value, "successor", ("serial", "uuid", "copy_uuid", "size", "step", "stall"), ())
    if filesystem != "ext4":
        raise Refusal("invalid", f"A share with {filesystem} cannot move: inode numbers can only be kept with ext4.")
    stall = table["stall"]
    if isinstance(stall, bool) or not isinstance(stall, int | float) or not 0 < stall <= 600:
        _wrong("successor.stall", stall, "seconds up to 600")
    return Successor(
        _text(table["serial"], "successor.serial", SERIAL),
        _text(table["uuid"], "successor.uuid", UUID),
        _text(table["copy_uuid"], "successor.copy_uuid", UUID),
        size=_integer(table["size"], "successor.size", 1, 2**63 - 1),
        step=_one_of(table["step"], "successor.step", STEPS),
        stall=float(stall),
    )


def _rule(value: object, protocol: str) -> Rule:
    """``access_to`` is judged later, by itself: a rule that is wrong hinders no other."""
    table = _table(value, "rule", ("id", "access_to", "access_level"), ("access_type", "access_key"))
    access_to = table["access_to"]
    if not isinstance(access_to, str):
        _wrong("rule.access_to", access_to, "a string")
    key = table.get("access_key", "")
    if not isinstance(key, str) or not ACCESS_KEY.fullmatch(key):
        raise Refusal("invalid", "rule.access_key is not a key.")  # without its value
    kinds = ("ip", "user") if protocol == "CIFS" else ("ip",)
    return Rule(
        _text(table["id"], "rule.id", RULE_ID),
        str(access_to),
        _one_of(table["access_level"], "rule.access_level", ("rw", "ro")),
        access_type=_one_of(table.get("access_type", "ip"), "rule.access_type", kinds),
        access_key=key,
    )


def _wrong(name: str, value: object, expected: str) -> NoReturn:
    raise Refusal("invalid", f"{name} is {str(value)[:80]!r}; expected {expected}.")


def _table(value: object, name: str, required: tuple[str, ...], optional: tuple[str, ...]) -> dict[str, object]:
    if not isinstance(value, dict):
        raise Refusal("invalid", f"{name} is not an object.")
    for key in required:
        if key not in value:
            raise Refusal("invalid", f"{name} lacks {key}.")
    for key in value:
        if key not in required and key not in optional:
            raise Refusal("invalid", f"{name} has an unknown field {str(key)[:40]!r}.")
    return value


def _list(value: object, name: str) -> list[object]:
    if not isinstance(value, list):
        raise Refusal("invalid", f"{name} is not a list.")
    return value


def _text(value: object, name: str, pattern: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise Refusal("invalid", f"{name} is {str(value)[:80]!r}; expected {pattern.pattern}.")
    return value


def _integer(value: object, name: str, lowest: int, highest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise Refusal("invalid", f"{name} is {str(value)[:80]!r}; expected a number from {lowest} to {highest}.")
    return value


def _one_of(value: object, name: str, choices: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise Refusal("invalid", f"{name} is {str(value)[:80]!r}; expected one of {', '.join(choices)}.")
    return value
