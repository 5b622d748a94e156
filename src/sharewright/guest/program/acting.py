"""Doing what the plan says. One share's failure stops that share's actions and nobody else's."""

from __future__ import annotations

import json
import os
import time

from . import borrowed, extension, network, usage
from . import facts as observing
from .cloning import give_identity
from .desired import Desired, Share, mount_path
from .exports import entries_of, found_entries
from .filesystems import MARKS, finish_format, make_filesystem, mount_options
from .firewall import SAVED, forbid_forwarding, load
from .growing import grow
from .host import MOVES, CommandFailed, Host
from .looking import look
from .planning import STILL_SERVED, Action, Facts, Plan, file_actions, make_plan
from .replacing import find_replaced, hold_clients, let_go
from .revoking import revoke_denied
from .samba import take_step
from .smb import is_served, share_section, wanted_accounts
from .unmounting import UNMOUNT_SECONDS, unmount

NETWORK_WORDS = "configure the network"
FILE_ACTIONS = ("write_fstab", "write_exports", "start_nfs", "export")
SMB_PREFIX = "smb_"
FAILURES = {
    "format": "mkfs_failed",
    "identify": "clone_failed",
    "mount": "mount_failed",
    "release": "mount_failed",
    "finish_format": "mount_failed",
    "grow": "grow_failed",
}


class Outcome:
    """What became of an apply; :func:`state` turns it into guest/document.py's State."""

    __slots__ = (
        "acted",
        "busy",
        "changed",
        "copy_errors",
        "export_error",
        "extension",
        "formatted",
        "missing_nics",
        "smb_error",
        "timings",
        "unmounted",
    )

    def __init__(self, *, acted: bool) -> None:
        self.acted = acted
        self.unmounted: list[str] = []
        self.missing_nics: list[str] = []
        self.busy: dict[str, str] = {}
        self.changed: list[str] = []
        self.copy_errors: dict[str, str] = {}
        self.formatted: set[str] = set()
        self.export_error = ""
        self.smb_error = ""
        self.extension: dict[str, object] = {}
        self.timings: dict[str, float] = {}

    def add_time(self, phase: str, started: float) -> None:
        self.timings[phase] = round(self.timings.get(phase, 0.0) + time.monotonic() - started, 4)


def apply(host: Host, desired: Desired) -> dict[str, object]:
    """Make the server what the document says; the answer's State. Call with the apply lock held."""
    outcome = Outcome(acted=True)
    started = time.monotonic()
    if desired.borrowed:
        borrowed.admit(host, desired)
    _configure_network(host, desired, outcome)  # first: the firewall names the NICs
    if desired.moves or host.exists(MOVES):
        from . import moving  # late: most documents have no share that moves

        moving.clean(host, desired)
    facts = observing.gather(host, desired, wait=True)
    outcome.add_time("observe", started)
    if desired.borrowed and facts.samba is not None and not facts.samba.error:
        borrowed.note_samba(host)
    if desired.moves:
        phase = time.monotonic()
        desired, facts = moving.settle(host, desired, facts, act=True)
        outcome.add_time("switch", phase)
    first = not host.exists(SAVED)
    facts, plan = _change_disks(host, desired, facts, outcome, first=first)
    actions = [action for action in plan.actions if action.share is not None]
    if any(plan.hinders(action.share_id) for action in actions):
        failed = {action.share_id for action in actions if plan.hinders(action.share_id)} - plan.lasting
        plan.established = [share for share in plan.established if share.id not in failed]
        plan.actions = [action for action in plan.actions if not _is_export(action)]
        plan.actions += file_actions(facts, plan.established)
    for action in plan.actions:
        if _is_export(action) or action.kind == "flush":
            _timed(outcome, "exports", host, action, desired)
    _revoke(host, desired, outcome)
    _extend(host, desired, plan, outcome)
    if first:
        _load_firewall(host, plan, outcome, desired)
    for action in plan.actions:
        if action.kind in ("unmount", "remove_directory"):
            phase = time.monotonic()
            _take_away(host, action, outcome, desired)
            outcome.add_time("unmount", phase)
    if desired.moves:
        _start_copies(host, desired, facts, outcome)
    for share_id in facts.marks.keys() - {share.id for share in desired.shares}:
        host.remove(f"{MARKS}/{share_id}.json")
    if desired.borrowed:
        left = observing.find_mounts(host).keys() - {share.id for share in desired.shares}
        borrowed.settle(host, desired, left, smb=bool(outcome.smb_error))
    outcome.timings["total"] = round(time.monotonic() - started, 4)
    return state(host, desired, plan, outcome)


def _change_disks(host: Host, desired: Desired, facts: Facts, outcome: Outcome, *, first: bool) -> tuple[Facts, Plan]:
    """Let go of disks that are replaced, plan, and do what the plan says of single shares; what it planned from, and
    the plan with what failed of it. SMB clients that connect meanwhile wait, if a disk is replaced."""
    replaced = find_replaced(facts, desired)
    gate, late = hold_clients(host, replaced)
    try:
        reasons = {}
        for share in replaced:
            phase = time.monotonic()
            reasons[share.id] = late if late and share.protocol == "CIFS" else let_go(host, share, desired)
            outcome.changed.append(f"let go of the disk that share {share.id} had")
            outcome.add_time("replace", phase)
        if replaced:
            facts = observing.gather(host, desired, wait=False)
        plan = make_plan(facts, desired)
        for share_id, reason in reasons.items():
            if reason:
                plan.problems[share_id] = ("replace_failed", reason)
        # In a VM that was made anew clients may be waiting for exports that the NFS server does not know yet; it would
        # tell them that their files are gone for good. So the ports that boot left closed are opened after the exports.
        if not first:
            _load_firewall(host, plan, outcome, desired)
        for action in plan.actions:
            if action.share is not None and not plan.hinders(action.share_id):
                _act_on_share(host, action, plan, outcome)
    finally:
        if gate is not None:
            os.close(gate)
    return facts, plan


def _is_export(action: Action) -> bool:
    """Whether it follows from all shares that are established, and is planned anew when one of them fails."""
    return action.kind in FILE_ACTIONS or action.kind.startswith(SMB_PREFIX)


def _configure_network(host: Host, desired: Desired, outcome: Outcome) -> None:
    if desired.network is None:
        return
    started = time.monotonic()
    data = desired.network
    outcome.missing_nics = network.missing_nics(host, data)
    if outcome.missing_nics or not network.is_configured(host, data):
        if outcome.acted:
            network.configure(host, data)
            outcome.missing_nics = network.missing_nics(host, data)
        outcome.changed.append(NETWORK_WORDS)
    text = json.dumps(data, sort_keys=True)
    if outcome.acted and host.read(network.SAVED) != text:
        host.replace(network.SAVED, text, 0o600)
    outcome.add_time("network", started)


def _load_firewall(host: Host, plan: Plan, outcome: Outcome, desired: Desired) -> None:
    for action in plan.actions:
        if action.kind == "load_firewall":
            _timed(outcome, "firewall", host, action, desired)


def _revoke(host: Host, desired: Desired, outcome: Outcome) -> None:
    """Looked at in every apply, because an earlier one may have been cut off after its exports; unless these failed:
    then nobody knows whom the kernel still admits. The document decides, not what can be served of it just now."""
    if outcome.export_error:
        return
    started = time.monotonic()
    revoked = revoke_denied(host, desired.shares, only=_own_devices(host, desired))
    if revoked:
        outcome.changed.append(f"end the NFSv4 leases of {', '.join(revoked)}")
    outcome.add_time("exports", started)


def _own_devices(host: Host, desired: Desired) -> set[str] | None:
    """Major:minor of our shares, where clients may hold something of others' too; None: all is ours."""
    if not desired.borrowed or not borrowed.has_foreign_exports(host):
        return None
    return {mount.number for mount in observing.find_mounts(host).values()}


def observe(host: Host, desired: Desired) -> dict[str, object]:
    """The State without changing anything; ``changed`` says what an apply would do."""
    outcome = Outcome(acted=False)
    started = time.monotonic()
    if desired.borrowed:
        borrowed.check(host, desired)
    _configure_network(host, desired, outcome)
    facts = observing.gather(host, desired, wait=False)
    if desired.moves:
        from . import moving

        desired, facts = moving.settle(host, desired, facts, act=False)
        outcome.changed += [f"copy share {share.id}" for share in moving.tasks(host, desired)]
    plan = make_plan(facts, desired)
    outcome.changed += [action.words for action in plan.actions]
    outcome.changed += [f"let go of the disk that share {share.id} had" for share in find_replaced(facts, desired)]
    _extend(host, desired, plan, outcome)
    server = usage.server(host)
    outcome.add_time("total", started)
    return {**state(host, desired, plan, outcome), "usage": server}


def _start_copies(host: Host, desired: Desired, facts: Facts, outcome: Outcome) -> None:
    from . import moving

    for share in moving.tasks(host, desired):
        try:
            moving.start(host, share, facts)
            outcome.changed.append(f"copy share {share.id}")
        except (CommandFailed, OSError) as error:
            outcome.copy_errors[share.id] = str(error)


def _extend(host: Host, desired: Desired, plan: Plan, outcome: Outcome) -> None:
    """What a driver's extension serves, of the shares that are mounted as they should be."""
    if desired.extension is None:
        return
    started = time.monotonic()
    mounts = observing.find_mounts(host)
    paths = {
        share.id: share.path
        for share in desired.shares
        if share.id not in plan.problems and share.id in mounts and mounts[share.id].alive
    }
    act = extension.apply if outcome.acted else extension.observe
    outcome.extension, changed = act(host, desired.extension, paths)
    outcome.changed += changed
    outcome.add_time("extension", started)


def state(host: Host, desired: Desired, plan: Plan, outcome: Outcome) -> dict[str, object]:
    """What is there now, share by share."""
    mounts = observing.find_mounts(host)
    exported = found_entries(host.read(observing.ETAB))
    sizes = usage.file_systems([host.at(share.path) for share in desired.shares if share.id in mounts])
    traffic = usage.exports(host)
    smb = [share for share in desired.shares if share.protocol == "CIFS"]
    samba = observing.samba_of(host, desired) if smb else None
    shares = []
    for share in desired.shares:
        error, message = plan.problems.get(share.id, ("", ""))
        mounted = share.id in mounts and mounts[share.id].alive and error in ("", "export_failed", *STILL_SERVED)
        if samba is not None and share.protocol == "CIFS":
            admits = share_section(share, wanted_accounts(smb)) is not None
            served = is_served(samba, share, smb)
            reason = samba.error or outcome.smb_error or "Samba did not take all its rules over."
        else:
            wanted = entries_of(share)
            admits = bool(wanted)
            served = all(exported.get(entry) == options for entry, options in wanted.items())
            reason = outcome.export_error or "The NFS server did not take all its rules over."
        in_force = mounted and served
        if mounted and not in_force and not error and outcome.acted:
            error, message = "export_failed", reason
        size = sizes.get(host.at(share.path)) if mounted else None
        read, written = traffic.get(share.id, (0, 0))
        move, told = ("", "") if share.successor is None else _move(host, share, outcome)
        shares.append(
            {
                "id": share.id,
                "mounted": mounted,
                "exported": in_force and admits,
                "formatted": share.id in outcome.formatted,
                "error": error,
                "message": message,
                "rule_errors": plan.rule_errors.get(share.id, {}),
                "bytes_total": size and size.f_blocks * size.f_frsize,
                "bytes_used": size and (size.f_blocks - size.f_bfree) * size.f_frsize,
                "inodes_total": size and size.f_files,
                "inodes_used": size and size.f_files - size.f_ffree,
                "bytes_read": read,
                "bytes_written": written,
                "move": move,
                "move_message": told,
            }
        )
    return {
        "generation": desired.generation,
        "shares": shares,
        "unmounted": outcome.unmounted,
        "busy": outcome.busy,
        "missing_nics": outcome.missing_nics,
        "changed": outcome.changed,
        "timings": outcome.timings,
        "extension": outcome.extension,
        "found": look(host, desired.look) if desired.look else {},
    }


def _move(host: Host, share: Share, outcome: Outcome) -> tuple[str, str]:
    from . import moving

    found = moving.move_of(host, share)
    return found.state, found.message or outcome.copy_errors.get(share.id, "")


def _act_on_share(host: Host, action: Action, plan: Plan, outcome: Outcome) -> None:
    started = time.monotonic()
    share, disk = action.share, action.disk
    if disk is not None:
        host.memory.forget_superblock(disk.device)
    try:
        if action.kind == "format" and share and disk:
            make_filesystem(host, share, disk)
            outcome.formatted.add(share.id)
        elif action.kind == "identify" and share and disk:
            give_identity(host, share, disk)
        elif action.kind == "mount" and share and disk:
            mount(host, share, disk.device, disk.number)
        elif action.kind == "finish_format" and share:
            finish_format(host, share)
        elif action.kind == "grow" and share and disk:
            grow(host, share, disk)
        elif action.kind == "release" and share:
            host.run("umount", host.at(share.path), timeout=UNMOUNT_SECONDS).check()
        outcome.changed.append(action.words)
    except (CommandFailed, OSError) as error:
        plan.problems[action.share_id] = (FAILURES[action.kind], f"To {action.words} failed: {error}")
    outcome.add_time(action.kind, started)


def mount(host: Host, share: Share, device: str, number: str) -> None:
    """Mount a disk and make sure that this disk, and not another, is what is mounted there."""
    os.makedirs(host.at(share.path), mode=0o755, exist_ok=True)
    made = host.run(
        "mount",
        "-t",
        share.filesystem,
        "-o",
        mount_options(share),
        host.at(device),
        host.at(share.path),
        timeout=60.0,
    )
    found = observing.find_mount(host, share.id)
    if found is None:
        made.check()
        raise CommandFailed(f"mount ended well but nothing is mounted at {share.path}")
    if found.number != number:
        raise CommandFailed(f"device {found.number} is mounted at {share.path}, not {device} ({number})")


def _timed(outcome: Outcome, phase: str, host: Host, action: Action, desired: Desired) -> None:
    started = time.monotonic()
    if action.kind == "load_firewall":
        forbid_forwarding(host)
        load(host, action.text)
        host.replace(SAVED, json.dumps({"firewall": desired.saved_firewall}), 0o600)
    elif action.kind == "write_fstab":
        host.replace("/etc/fstab", action.text)
    elif action.kind == "write_exports":
        host.replace(borrowed.exports_file(desired), action.text)
    elif action.kind.startswith(SMB_PREFIX):
        try:
            take_step(host, action.kind, action.name, action.text)
        except (CommandFailed, OSError, ValueError, KeyError) as error:
            outcome.smb_error = outcome.smb_error or f"To {action.words} failed: {error}"
            outcome.add_time(phase, started)
            return
    else:
        try:
            if action.kind == "start_nfs":
                host.run("systemctl", "start", "nfs-server.service", timeout=60.0).check()
            elif action.kind == "flush":
                host.run("exportfs", "-f", timeout=30.0).check()
            else:
                # Its status speaks of all shares together; which of them suffered shows in etab.
                host.run("exportfs", "-ra", timeout=60.0).check()
        except CommandFailed as error:
            outcome.export_error = str(error)
            outcome.add_time(phase, started)
            return
    outcome.changed.append(action.words)
    outcome.add_time(phase, started)


# ---- taking away -----------------------------------------------------------------------------------------------------


def _take_away(host: Host, action: Action, outcome: Outcome, desired: Desired) -> None:
    share_id = action.share_id
    try:
        if action.kind == "unmount":
            others = desired.borrowed and borrowed.has_foreign_exports(host)
            unmount(host, share_id, seconds=2.0 if outcome.busy else UNMOUNT_SECONDS, restart=not others)
            outcome.unmounted.append(share_id)
        try:
            os.rmdir(host.at(mount_path(share_id)))
        except FileNotFoundError:
            pass
        outcome.changed.append(action.words)
    except (CommandFailed, OSError) as error:
        if action.kind == "unmount" and share_id not in outcome.unmounted:
            outcome.busy[share_id] = str(error)
