"""The document: the whole desired state of one service VM, and the observed state it answers with.

One JSON value each way over the SSH channel (guest/channel.py carries it, guest/program/ acts on it). Both sides of the
protocol are defined here and only here; the program, being one file of standard library, reads plain dictionaries of
exactly these shapes.

Framing: the forced command runs ``sharewright-guest serve``, which reads one request per line (compact JSON, UTF-8,
``\\n``) from stdin and writes one answer per line to stdout until end of input. A request is ``{"call": NAME, ...}``:

* ``hello``   → ``{"ok": true, "program": "<identity>", "boot_id": "...", "generation": N, …}``; the identity is
  :func:`sharewright.guest.package.program_identity`, N the highest generation applied, -1 before the first;
  ``"server_id"``: the server whose documents it applies, "" before the first.
* ``upgrade`` (``"program"``: the new file in base64, ``"sha256"`` of the file) → ``{"ok": true}``; verifies, replaces
  itself by rename, and re-executes: the next line is read by the new program. Nothing may be sent before the answer.
* ``apply``   (``"document"``: Document) → ``{"ok": true, "state": State}``
* ``observe`` (``"document"``: Document) → the same, changing nothing: ``generation`` is the highest applied, and
  ``changed`` says what an apply would do.
* ``inspect`` → ``{"ok": true, "facts": Facts}``: what the machine lacks for the job; changes nothing.
* ``flush``  (``"share_ids"``) → ``{"ok": true}`` when what clients have written is on the disks; clients go on.
* ``freeze`` (``"share_ids"``, ``"token"``, ``"seconds"``) → ``{"ok": true}`` when the mounted shares' file systems all
  stand still, for ``seconds`` at most, whatever happens to us; when one cannot, none does. One at a time on a server:
  ``busy``. The same token: the same.
* ``thaw``   (``"token"``) → ``{"ok": true, "held": bool, "seconds": S}``; ``held`` false: for one of them at least it
  had ended by itself before, or never began.

A failure of the call as a whole is ``{"ok": false, "error": KIND, "message": ..., "hint": ...}`` with KIND one of
``stale`` (a newer generation has been applied), ``invalid`` (the document, or it is another server's), ``busy`` (ask
again soon), ``failed``.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

FORMAT_VERSION = 1

FilesystemType = Literal["ext4", "xfs"]
Squash = Literal["no_root_squash", "root_squash", "all_squash"]
SmbEncryption = Literal["off", "desired", "required"]


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One access rule. ``access_to`` of an ``ip`` rule is an address or CIDR in canonical form; ``0.0.0.0/0`` is
    everybody (IPv4). That of a ``user`` rule (CIFS only) is a user name in lower case, and ``access_key`` the user's
    password: letters, digits, ``_`` and ``-``."""

    id: str
    access_to: str
    access_level: Literal["rw", "ro"]
    access_type: Literal["ip", "user"] = "ip"
    access_key: str = ""

    def __repr__(self) -> str:  # without the key
        return f"Rule({self.id!r}, {self.access_type} {self.access_to!r}, {self.access_level})"


class Filesystem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``uuid`` is chosen by the controller and never changes. ``create``: our journal says that the volume is new; the
    guest formats it only if it also carries no signature. A volume that already carries ``uuid`` is simply used.
    ``clone_of``: the volume began as a copy of another share's file system, of that UUID; it gets ``uuid`` before it is
    mounted, and is never formatted. ``size`` is what the share should have, in bytes: a smaller file system grows to
    it, mounted, once its disk has grown; a larger one stays as it is. 0: any size will do."""

    type: FilesystemType
    uuid: str
    create: bool = False
    size: int = 0
    clone_of: str = ""


class Successor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The new, blank disk of ``size`` bytes that an ext4 share moves to, with every inode number kept. The copy made on
    it has the identity ``copy_uuid`` and gets ``uuid`` at the switch: from then on it, not the old disk, is served.
    Clients wait for at most ``stall`` seconds, and for the start of the NFS server.

    ``step``: ``copy`` (in the background, until it is ``ready``); ``switch`` (now, in this call, if it is ready);
    ``cancel`` (stop copying; the answer ``stopped`` means that no switch was made and none comes). With ``switch`` and
    ``cancel`` a share whose new disk is missing is served only by a guest that knows that it has not switched."""

    serial: str
    uuid: str
    copy_uuid: str
    size: int
    step: Literal["copy", "switch", "cancel"]
    stall: float


class Share(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A share instance that should be mounted at ``/shares/share-<id>`` and exported to exactly ``rules``, the oldest
    first. Protocol ``NONE``: only mounted, for a driver's extension of the guest program to serve; it has no rules.
    ``encryption`` is for CIFS; "" leaves it to the client. ``by_serial``: another disk may carry the same UUID for now,
    so a boot must not find this one by its UUID. ``replaces``: serial of the disk that the share had before it was
    reverted; where that is mounted, it is unmounted for ``serial``, and clients lose what they have open there.
    ``read_only``: nobody ever writes to it, whatever its rules say; it is mounted so, and exported so."""

    id: str
    serial: str
    filesystem: Filesystem
    protocol: Literal["NFS", "CIFS", "NONE"]
    rules: tuple[Rule, ...] = ()
    squash: Squash = "no_root_squash"
    by_serial: bool = False
    encryption: SmbEncryption | Literal[""] = ""
    successor: Successor | None = None
    replaces: str = ""
    read_only: bool = False


class Firewall(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """NICs by MAC. SSH is admitted on ``management_macs`` only, from ``management_from``; client ports (TCP) on
    ``client_macs``, from ``client_from`` (CIDRs; empty: any), and on ``admin_macs``, from anywhere."""

    management_macs: tuple[str, ...]
    management_from: tuple[str, ...]
    client_macs: tuple[str, ...]
    client_from: tuple[str, ...] = ()
    admin_macs: tuple[str, ...] = ()
    client_ports: tuple[int, ...] = (2049,)


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that the server should serve. What the guest has and ``shares`` lacks is unexported and unmounted
    (never formatted, never wiped). ``firewall`` None leaves the firewall as it is. ``generation`` grows by one with
    each document built for the server; the guest refuses one lower than the highest it has applied, so a delayed writer
    cannot undo newer work. ``network`` is the server's NICs with their addresses and routes, in the format of the
    config drive's network data; None leaves them as they are. ``extension`` is any JSON value for a driver's extension
    of the guest program; None leaves what that serves as it is. ``look``: serials of further disks; what they carry is
    told, and they are not touched. ``borrowed``: the machine is an operator's, and others have exports there: these
    stay as they are, and what cannot be beside them is refused."""

    server_id: str
    generation: int
    shares: tuple[Share, ...]
    firewall: Firewall | None = None
    network: Any = None
    device_timeout: float = 30.0  # seconds to wait for the disks of attached volumes to appear, all together
    extension: Any = None
    look: tuple[str, ...] = ()
    borrowed: bool = False
    format_version: int = FORMAT_VERSION


class ShareState(msgspec.Struct, frozen=True):
    """What became of one share. ``error`` is empty or ``device_missing``, ``not_blank``, ``mkfs_failed``,
    ``clone_failed``, ``replace_failed``, ``mount_failed``, ``filesystem_mismatch``, ``export_failed``; other shares are
    unaffected by it. With ``disk_small`` (it should have grown and has not yet) and ``grow_failed`` the share goes on
    being served at its old size. ``exported`` is False for a share without rules, which is not exported to anybody.
    Sizes are those of the file system; None: it is not mounted, or did not answer in time. ``bytes_read`` and
    ``bytes_written`` are what NFS clients read and wrote since its exports were last changed.

    ``move``, of one with a successor: ``copying``, ``ready``, ``moved`` (for good), ``stopped``, ``late`` (a switch was
    tried and given up: copy again), ``in_use`` (it was not even tried, because SMB clients have files open: the same),
    ``does_not_fit``, ``failed``; or empty, when copying has not begun.
    ``move_message`` says why."""

    id: str
    mounted: bool
    exported: bool
    formatted: bool = False  # by this call
    error: str = ""
    message: str = ""
    rule_errors: dict[str, str] = {}  # rule id → why it is not in force
    bytes_total: int | None = None
    bytes_used: int | None = None
    inodes_total: int | None = None
    inodes_used: int | None = None
    bytes_read: int = 0
    bytes_written: int = 0
    move: str = ""
    move_message: str = ""


class Found(msgspec.Struct, frozen=True):
    """What a disk that was looked at carries as a whole: an ext4 or xfs (``type``) with that ``uuid``; or both are
    empty and ``error`` is ``device_missing`` (it may still appear) or ``no_filesystem``, and ``message`` says why."""

    type: str = ""
    uuid: str = ""
    error: str = ""
    message: str = ""


class Usage(msgspec.Struct, frozen=True):
    """What clients ask of a whole server. Counters begin with the boot of its VM. ``nfs_clients`` are those (of NFSv4)
    that hold a lease now; ``nfs_operations`` are counts by the operation's number (RFC 8881, section 16.2);
    those of SMB begin with Samba. ``smb_sessions`` and other numbers of SMB are None where Samba does not run or does
    not tell; ``smb_clients`` are machines that have a session, ``smb_connections`` those to each share by its id,
    ``smb_operations`` counts under Samba's own names of them."""

    nfs_clients: int = 0
    nfs_calls: int = 0
    nfs_bytes_read: int = 0
    nfs_bytes_written: int = 0
    nfs_operations: tuple[int, ...] = ()
    smb_sessions: int | None = None
    smb_clients: int | None = None
    smb_connections: dict[str, int] = {}
    smb_bytes_read: int | None = None
    smb_bytes_written: int | None = None
    smb_operations: dict[str, int] = {}


class State(msgspec.Struct, frozen=True):
    """Observed after the change. ``unmounted`` names shares (by id) that this call took away and that are safe to
    detach; ``busy`` those it could not unmount, with the reason. One that was not there in the first place (or went in
    an earlier call whose answer was lost) is in neither, and safe to detach. ``missing_nics`` are the MACs of the
    document's NICs that the server does not have. ``timings`` are seconds per phase;
    ``extension`` is what a driver's extension of the program answers; ``usage`` is told by ``observe`` only; ``found``
    is what the disks of ``look`` carry, by serial."""

    generation: int
    shares: tuple[ShareState, ...]
    unmounted: tuple[str, ...] = ()
    busy: dict[str, str] = {}
    missing_nics: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()  # the plan's actions in words; empty when nothing had to be done
    boot_id: str = ""
    program: str = ""
    timings: dict[str, float] = {}
    extension: dict[str, Any] = {}
    usage: Usage | None = None
    found: dict[str, Found] = {}


class Facts(msgspec.Struct, frozen=True):
    """What an operator's machine lacks: without ``missing`` it serves no share; with ``warnings`` not all, or worse."""

    missing: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def encode_request(call: str, **fields: Any) -> bytes:
    """One request line."""
    return msgspec.json.encode({"call": call, **fields}) + b"\n"
