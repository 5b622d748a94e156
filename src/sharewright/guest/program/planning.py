"""What to do, from what is there and what is wanted: a pure function. Applied and planned again, the plan is empty."""

from __future__ import annotations

from .desired import Desired, Share
from .exports import clients_of, exports_text, found_entries, wanted_entries
from .filesystems import Disk, Superblock, is_small
from .firewall import firewall_text
from .fstab import fstab_text, is_line_of, split_fstab
from .network import addresses_by_nic
from .smb import Samba, judge, smb_steps, wanted_accounts

# What is wrong with a share that is served all the same, at the size that it had.
STILL_SERVED = ("disk_small", "grow_failed")


class Mount:
    """A mount at a share's place. ``number`` is its device's major:minor; ``alive``: that device still exists;
    ``read_only``: nothing can be written through it; ``line``: its line of /proc/self/mountinfo."""

    __slots__ = ("alive", "line", "number", "read_only")

    def __init__(self, number: str, *, alive: bool = True, read_only: bool = False, line: str = "") -> None:
        self.number = number
        self.alive = alive
        self.read_only = read_only
        self.line = line


class Facts:
    """What is there. ``disks`` by serial (several: the serial is ambiguous), ``mounts`` by share id, ``directories``
    the ids of all mount points below /shares, ``firewall`` the text in force or None when it is not known to be ours,
    ``nics`` MAC → interface, ``marks`` see filesystems.format_marks; ``samba`` None where there is no SMB share and was
    none."""

    __slots__ = (
        "directories",
        "disks",
        "etab",
        "exports",
        "firewall",
        "fstab",
        "marks",
        "mounts",
        "nfs_running",
        "nics",
        "samba",
    )

    def __init__(
        self,
        *,
        disks: dict[str, list[Disk]] | None = None,
        mounts: dict[str, Mount] | None = None,
        directories: frozenset[str] = frozenset(),
        fstab: str = "",
        exports: str = "",
        etab: str = "",
        nfs_running: bool = False,
        firewall: str | None = None,
        nics: dict[str, str] | None = None,
        marks: dict[str, tuple[str, str]] | None = None,
        samba: Samba | None = None,
    ) -> None:
        self.disks = disks or {}
        self.mounts = mounts or {}
        self.directories = directories
        self.fstab = fstab
        self.exports = exports
        self.etab = etab
        self.nfs_running = nfs_running
        self.firewall = firewall
        self.nics = nics or {}
        self.marks = marks or {}
        self.samba = samba


class Action:
    """One thing to do. ``kind`` is a function of acting.py, or smb_… of samba.py; ``share_id`` is set when only that
    share depends on it. ``text`` may hold a secret, ``words`` never."""

    __slots__ = ("disk", "kind", "name", "share", "share_id", "text", "words")

    def __init__(
        self,
        kind: str,
        words: str,
        *,
        share: Share | None = None,
        share_id: str = "",
        disk: Disk | None = None,
        text: str = "",
        name: str = "",
    ) -> None:
        self.kind = kind
        self.words = words
        self.share = share
        self.share_id = share.id if share else share_id
        self.disk = disk
        self.text = text
        self.name = name

    def __repr__(self) -> str:
        return f"<{self.words}>"


class Plan:
    """``problems``: share id → error of guest/document.py's ShareState and message. ``established``: shares that are
    mounted at boot and exported when the actions succeed. ``lasting``: ids of those that were served before; they keep
    their lines in /etc/fstab and /etc/exports while their disk is missing or does not mount, and come back with it."""

    __slots__ = ("actions", "established", "lasting", "problems", "rule_errors")

    def __init__(self) -> None:
        self.actions: list[Action] = []
        self.problems: dict[str, tuple[str, str]] = {}
        self.established: list[Share] = []
        self.lasting: set[str] = set()
        self.rule_errors: dict[str, dict[str, str]] = {}

    def hinders(self, share_id: str) -> bool:
        """Whether something is wrong with a share that keeps it from being served."""
        return share_id in self.problems and self.problems[share_id][0] not in STILL_SERVED


def make_plan(facts: Facts, desired: Desired) -> Plan:
    """Refusal (invalid) when the firewall would lock the controller out; anything wrong with one share is a problem of
    that share alone."""
    plan = Plan()
    _plan_firewall(facts, desired, plan)
    _, at_boot = split_fstab(facts.fstab)
    passwords = wanted_accounts(list(desired.shares))
    serials = _serials(facts)
    for share in sorted(desired.shares, key=lambda item: item.id):
        plan.rule_errors[share.id] = judge(share, passwords)[2] if share.protocol == "CIFS" else clients_of(share)[1]
        problem = _plan_share(facts, share, plan, serials)
        if is_line_of(at_boot.get(share.id, ""), share):
            plan.lasting.add(share.id)
        if (
            problem is None
            or problem[0] in STILL_SERVED
            or (problem[0] == "device_missing" and share.id in plan.lasting)
        ):
            plan.established.append(share)
        if problem is not None:
            plan.problems[share.id] = problem
    plan.actions += file_actions(facts, plan.established)
    _plan_flush(facts, plan)
    wanted = {share.id for share in desired.shares}
    for share_id in sorted((facts.mounts.keys() | facts.directories) - wanted):
        if share_id in facts.mounts:
            plan.actions.append(Action("unmount", f"unmount share {share_id}", share_id=share_id))
        else:
            plan.actions.append(Action("remove_directory", f"remove the place of {share_id}", share_id=share_id))
    return plan


def _plan_firewall(facts: Facts, desired: Desired, plan: Plan) -> None:
    if desired.firewall is not None:
        addresses = addresses_by_nic(desired.network, facts.nics)
        text = firewall_text(desired.firewall, desired.ports, facts.nics, addresses)
        if text != facts.firewall:
            plan.actions.append(Action("load_firewall", "load the firewall", text=text))


def _serials(facts: Facts) -> dict[str, list[str]]:
    """Device → the serials that it answers to."""
    found: dict[str, list[str]] = {}
    for serial, disks in facts.disks.items():
        for disk in disks:
            found.setdefault(disk.device, []).append(serial)
    return found


def _plan_share(facts: Facts, share: Share, plan: Plan, serials: dict[str, list[str]]) -> tuple[str, str] | None:
    """Add what mounts the share; or say what stands against it."""
    disks = facts.disks.get(share.serial, [])
    if len(disks) != 1:
        names = ", ".join(disk.device for disk in disks)
        several = f"Several disks have the serial {share.serial}: {names}." if disks else ""
        return "device_missing", several or f"No disk with serial {share.serial} appeared."
    disk = disks[0]
    for serial in serials[disk.device]:
        if serial != share.serial:
            return "device_missing", f"{disk.device} answers to the serials {share.serial} and {serial} alike."
    mount = facts.mounts.get(share.id)
    if mount is not None and mount.alive and mount.number != disk.number:
        return (
            "filesystem_mismatch",
            f"Device {mount.number} is mounted at {share.path}, not {disk.device} ({disk.number}).",
        )
    if mount is not None and mount.alive and share.read_only and not mount.read_only:
        return "filesystem_mismatch", f"{disk.device} is mounted at {share.path} for writing, and should not be."
    begun = facts.marks.get(share.id) == (share.serial, share.uuid)
    found = disk.superblock
    ours = found is not None and found.type == share.filesystem and found.uuid == share.uuid
    if _is_clone(share, found) and mount is None:
        words = f"make {disk.device}, a copy of {share.clone_of}, {share.filesystem} {share.uuid}"
        plan.actions.append(Action("identify", words, share=share, disk=disk))
    elif found is None or not ours or not found.complete:
        carries = f"carries {found.type} {found.uuid}" if found else disk.content or "carries no file system"
        if not share.create:
            return "filesystem_mismatch", f"{disk.device} should carry {share.uuid} but {carries}."
        blank = found is None and disk.content == ""
        # Half-made by us: nothing recognisable yet, or our own file system marked as incomplete.
        unfinished = begun and (ours or (found is None and (disk.content or "").startswith("has data")))
        if not blank and not unfinished:
            return "not_blank", f"{disk.device} should be blank but {carries}; it was left untouched."
        words = f"format {disk.device} as {share.filesystem} {share.uuid}"
        plan.actions.append(Action("format", words, share=share, disk=disk))
        begun = True
    if mount is not None and not mount.alive:
        plan.actions.append(Action("release", f"release the dead mount of share {share.id}", share=share))
    if mount is None or not mount.alive:
        plan.actions.append(Action("mount", f"mount share {share.id}", share=share, disk=disk))
    if begun:
        plan.actions.append(Action("finish_format", f"open the root of share {share.id}", share=share))
    return _plan_growth(share, disk, plan)


def _is_clone(share: Share, found: Superblock | None) -> bool:
    """Whether a disk is the copy that the document expects, as it came from the cloud."""
    return (
        found is not None
        and found.complete
        and found.type == share.filesystem
        and found.uuid == share.clone_of != share.uuid
    )


def _plan_growth(share: Share, disk: Disk, plan: Plan) -> tuple[str, str] | None:
    """Grow what is smaller than asked for, as soon as the disk has the room. A file system that is being made has the
    size of its disk."""
    if not disk.filesystem_size or not is_small(disk.filesystem_size, share.size):
        return None
    if is_small(disk.size, share.size):
        return "disk_small", f"{disk.device} has {disk.size} bytes; the share should have {share.size}."
    words = f"grow share {share.id} from {disk.filesystem_size} to {share.size} bytes"
    plan.actions.append(Action("grow", words, share=share, disk=disk))
    return None


def _plan_flush(facts: Facts, plan: Plan) -> None:
    """A share that was exported while nothing was mounted there may have been denied to clients, and the kernel
    remembers that; exporting anew would make it forget, flushing is enough."""
    mounted = {action.share.path for action in plan.actions if action.kind == "mount" and action.share is not None}
    if not mounted or any(action.kind == "export" for action in plan.actions):
        return
    if any(path in mounted for path, _ in found_entries(facts.etab)):
        plan.actions.append(Action("flush", "flush the export caches"))


def file_actions(facts: Facts, established: list[Share]) -> list[Action]:
    """What makes /etc/fstab, /etc/exports, the kernel's exports and Samba's those of the established shares."""
    actions = []
    links = {share.id: disk.link for share in established for disk in facts.disks.get(share.serial, [])}
    fstab = fstab_text(facts.fstab, established, links)
    if fstab != facts.fstab and split_fstab(fstab)[1] != split_fstab(facts.fstab)[1]:
        actions.append(Action("write_fstab", "write /etc/fstab", text=fstab))
    exports = exports_text(established)
    wanted = wanted_entries(established)
    if exports != facts.exports:
        actions.append(Action("write_exports", "write the exports", text=exports))
    if wanted and not facts.nfs_running:
        actions.append(Action("start_nfs", "start the NFS server"))
    if wanted != found_entries(facts.etab):
        actions.append(Action("export", "export anew"))
    steps = smb_steps(facts.samba, established)
    return actions + [Action(step.kind, step.words, text=step.text, name=step.name) for step in steps]
