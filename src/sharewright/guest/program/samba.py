"""Samba in the machine: what its registry and accounts are, and the steps of smb.py carried out.

The registry is read through ``net conf list``, and only when its file has changed since the last look.
"""

from __future__ import annotations

import json
import os

from .host import RUN, SHARES, STATE, CommandFailed, Host, polls
from .smb import (
    ACCOUNT,
    OWNER,
    USER_MAP,
    Samba,
    digest,
    group_text,
    level_of,
    parse_sections,
    passwd_text,
    user_map_text,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

REGISTRY = "/var/lib/samba/registry.tdb"
SEEN = f"{RUN}/smb-registry.json"
CLOSING = f"{RUN}/smb-closing.json"
IMPORT = f"{RUN}/smb-import.conf"
DIGESTS = f"{STATE}/smb-passwords.json"
PID = "/run/samba/smbd.pid"
UNIT = "smbd.service"
AT_BOOT = f"/etc/systemd/system/multi-user.target.wants/{UNIT}"
CLOSE_SECONDS = 3.0


def find_samba(host: Host) -> Samba:
    """What is there."""
    error = ""
    sections: dict[str, dict[str, str]] = {}
    try:
        sections = _sections(host)
    except CommandFailed as failure:
        error = f"Samba's registry cannot be read: {failure}"
    return Samba(
        sections=sections,
        error=error,
        digests=_strings(host.read(DIGESTS)),
        closing=_tables(host.read(CLOSING)),
        passwd=host.read("/etc/passwd"),
        group=host.read("/etc/group"),
        user_map=host.read(USER_MAP),
        running=_is_running(host),
        at_boot=host.exists(AT_BOOT),
    )


def was_used(host: Host) -> bool:
    """Whether this server has, or had until a step that is still to be taken, an SMB share."""
    return host.exists(AT_BOOT) or host.exists(DIGESTS)


def _sections(host: Host) -> dict[str, dict[str, str]]:
    # A transaction of the registry always sets the file's time, so equal times mean equal contents.
    try:
        changed = os.stat(host.at(REGISTRY)).st_mtime_ns
    except FileNotFoundError:
        return {}
    try:
        seen = json.loads(host.read(SEEN) or "{}")
        if seen.get("changed") == changed:
            return dict(seen["sections"])
    except (ValueError, KeyError, AttributeError):
        pass
    sections = parse_sections(host.run("net", "conf", "list", timeout=30.0).check().output)
    if os.stat(host.at(REGISTRY)).st_mtime_ns == changed:
        host.replace(SEEN, json.dumps({"changed": changed, "sections": sections}), 0o600)
    return sections


def _strings(text: str) -> dict[str, str]:
    try:
        return {str(key): str(value) for key, value in json.loads(text or "{}").items()}
    except (ValueError, AttributeError):
        return {}


def _tables(text: str) -> dict[str, dict[str, str]]:
    try:
        return {str(key): dict(value) for key, value in json.loads(text or "{}").items()}
    except (ValueError, TypeError, AttributeError):
        return {}


def _is_running(host: Host) -> bool:
    pid = host.read(PID).strip()
    return pid.isdigit() and host.read(f"/proc/{pid}/comm").strip() == "smbd"


def take_step(host: Host, kind: str, name: str, text: str) -> None:
    """One step of smb.smb_steps. CommandFailed, OSError."""
    if kind == "smb_accounts":
        _write_accounts(host, [line for line in text.splitlines() if line])
    elif kind == "smb_password":
        _set_password(host, name, text)
    elif kind == "smb_note":
        host.replace(CLOSING, text, 0o600)
    elif kind in ("smb_import", "smb_import_all"):
        host.replace(IMPORT, text, 0o600)
        host.run("net", "conf", "import", host.at(IMPORT), *([name] if name else []), timeout=60.0).check()
    elif kind == "smb_remove":
        host.run("net", "conf", "delshare", name, timeout=30.0).check()
    elif kind == "smb_start":
        _start(host)
    elif kind == "smb_stop":
        host.run("systemctl", "stop", UNIT, timeout=60.0).check()
        host.remove(CLOSING)
        host.remove(AT_BOOT)
    elif kind == "smb_reload":
        host.run("smbcontrol", "smbd", "reload-config", timeout=30.0).check()
    elif kind == "smb_close":
        _close_denied(host, json.loads(text))
    elif kind == "smb_forget":
        _forget(host, name)


def _write_accounts(host: Host, names: list[str]) -> None:
    host.replace("/etc/group", group_text(host.read("/etc/group")))
    host.replace("/etc/passwd", passwd_text(host.read("/etc/passwd"), names))
    host.replace(USER_MAP, user_map_text([name for name in names if name != OWNER]))


def _set_password(host: Host, account: str, password: str) -> None:
    """Through standard input: arguments are for everybody in the VM to see."""
    host.run("smbpasswd", "-s", "-a", account, data=f"{password}\n{password}\n", timeout=30.0).check()
    digests = {**_strings(host.read(DIGESTS)), account: digest(account, password)}
    host.replace(DIGESTS, json.dumps(digests), 0o600)


def _forget(host: Host, account: str) -> None:
    digests = _strings(host.read(DIGESTS))
    if account.startswith(ACCOUNT) and account in digests:
        host.run("smbpasswd", "-x", account, timeout=30.0).check()
        del digests[account]
        if digests:
            host.replace(DIGESTS, json.dumps(digests), 0o600)
        else:
            host.remove(DIGESTS)


def _start(host: Host) -> None:
    """Now and at every boot, as ``systemctl enable`` would; which asks for more of the system than a link."""
    if not host.exists(AT_BOOT):
        places = [f"{directory}/{UNIT}" for directory in ("/lib/systemd/system", "/usr/lib/systemd/system")]
        place = next((place for place in places if host.exists(place)), None)
        if place is None:
            raise CommandFailed(f"there is no {UNIT}")
        os.makedirs(os.path.dirname(host.at(AT_BOOT)), mode=0o755, exist_ok=True)
        os.symlink(place, host.at(AT_BOOT))
    host.run("systemctl", "start", UNIT, timeout=60.0).check()


# ---- disconnecting ---------------------------------------------------------------------------------------------------


def _close_denied(host: Host, sections: dict[str, list[dict[str, str] | None]]) -> None:
    """Disconnect each client from each share whose new section gives it another level than the old one, and nobody
    else. ``sections``: name → its old and new parameters, None: it is gone.

    Samba's own close-denied-share looks at users only, not at addresses (measured with 4.17). A process of Samba that
    does not let go is ended; its client comes back for the other shares.
    """
    first: set[str] | None = None
    ended = False
    denied: list[Connection] = []
    for left in polls(CLOSE_SECONDS, 0.2):
        denied = [
            each
            for each in connections(host)
            if each.share in sections and _has_to_go(each, *sections[each.share], first=first)
        ]
        if not denied:
            host.remove(CLOSING)
            return
        if first is None:
            first = {each.id for each in denied}
            _disconnect(host, denied)
        elif left < CLOSE_SECONDS / 2 and not ended:
            ended = True
            for pid in sorted({each.pid for each in denied}):
                host.run("kill", pid, timeout=10.0)
    raise CommandFailed("denied clients are still connected: " + ", ".join(sorted({each.address for each in denied})))


def _disconnect(host: Host, denied: list[Connection]) -> None:
    """A client's connection as a whole is ended, after which it connects to its shares again, to this one with the
    level that it has now. Linux's client up to 6.2 takes no share up again that was closed for it alone; that is
    done only to a client that has files of other shares open, which the end of the connection would close."""
    from .leaving import has_files_elsewhere  # late: it imports this module

    shares: dict[str, list[str]] = {}
    for each in denied:
        shares.setdefault(each.pid, []).append(each.share)
    for pid, names in sorted(shares.items()):
        if has_files_elsewhere(host, pid, [f"{SHARES}/{name}" for name in names]):
            for name in sorted(set(names)):
                host.run("smbcontrol", pid, "close-share", name, timeout=10.0)
        else:
            host.run("kill", pid, timeout=10.0)


class Connection:
    """One client connected to one share. ``pid`` is of the process of Samba that serves it."""

    __slots__ = ("account", "address", "id", "pid", "share")

    def __init__(self, id: str, share: str, address: str, account: str, pid: str) -> None:
        self.id = id
        self.share = share
        self.address = address
        self.account = account
        self.pid = pid


def _has_to_go(
    connection: Connection, before: dict[str, str] | None, after: dict[str, str] | None, *, first: set[str] | None
) -> bool:
    """``first``: the connections that were to go at the first look. Later ones were made under the new rules, so that
    their level is right; but nobody who is not admitted may have one."""
    now = level_of(after, connection.address, connection.account)
    if now is None:
        return True
    old = first is None or connection.id in first
    return old and now != level_of(before, connection.address, connection.account)


def smb_status(host: Host, *, timeout: float) -> dict[str, dict[str, Any]]:
    """What Samba tells of its sessions, and of their connections to shares (``tcons``). CommandFailed, ValueError."""
    return _told(host, timeout)


def smb_profile(host: Host, *, timeout: float) -> dict[str, dict[str, dict[str, int]]]:
    """What Samba has counted since it was started (``smbd profiling level``), of clients that are gone, too: group →
    call → its ``count`` and, for some, ``bytes``. CommandFailed, ValueError."""
    return _told(host, timeout, "--profile")


def _told(host: Host, timeout: float, *options: str) -> dict[str, Any]:
    status = json.loads(host.run("smbstatus", "--json", *options, timeout=timeout).check().output)
    if not isinstance(status, dict):
        raise ValueError("smbstatus does not answer with an object")
    return status


def connections(host: Host) -> list[Connection]:
    """Who is connected to which share. CommandFailed, and what a strange answer leads to."""
    status = smb_status(host, timeout=30.0)
    return [
        Connection(
            str(number),
            str(each["service"]).lower(),
            str(each["machine"]),
            str(status["sessions"].get(each["session_id"], {}).get("username", "")),
            str(each["server_id"]["pid"]),
        )
        for number, each in status["tcons"].items()
    ]
