"""A machine of an operator's, where others may have exports, mounts and SMB shares: what is theirs stays as it is, and
what cannot stand beside ours is refused before anything is done.

Ours is what this program did there: it notes the shares that it serves, and its exports are in a file of their own.
"""

from __future__ import annotations

import json
import re

from .desired import Desired, share_of
from .host import SHARES, STATE, Host, Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .smb import Samba

WHOLE = "/etc/exports"
DIRECTORY = "/etc/exports.d"
OWN = f"{DIRECTORY}/sharewright.exports"
ETAB = "/var/lib/nfs/etab"
MOUNTS = "/proc/self/mountinfo"
JOURNAL = f"{STATE}/borrowed.json"
SMB_CONF = "/etc/samba/smb.conf"


class Journal:
    """What this program has on the machine: ids of shares, and whether it uses Samba."""

    __slots__ = ("shares", "smb")

    def __init__(self, shares: set[str], *, smb: bool) -> None:
        self.shares = shares
        self.smb = smb


def exports_file(desired: Desired) -> str:
    """Where our exports are: the whole of /etc/exports on a machine of ours, a file beside it on another's."""
    return OWN if desired.borrowed else WHOLE


def read_journal(host: Host) -> Journal:
    try:
        noted = json.loads(host.read(JOURNAL))
        return Journal({str(each) for each in noted["shares"]}, smb=bool(noted["smb"]))
    except (ValueError, KeyError, TypeError):
        return Journal(set(), smb=False)


def write_journal(host: Host, journal: Journal) -> None:
    text = json.dumps({"shares": sorted(journal.shares), "smb": journal.smb})
    if host.read(JOURNAL) != text:
        host.replace(JOURNAL, text, 0o600)


def known_shares(host: Host, desired: Desired) -> set[str]:
    """Shares that are ours to mount, export and take away."""
    return read_journal(host).shares | {share.id for share in desired.shares}


def check(host: Host, desired: Desired) -> None:
    """Refusal (failed) when what others have there cannot be told from ours, or would suffer."""
    known = known_shares(host, desired)
    lines = foreign_lines(host)
    kernel = {_path(line) for line in host.read(ETAB).splitlines() if line.strip()}
    present = {
        *(line.split(" ")[4] for line in host.read(MOUNTS).splitlines() if line.count(" ") > 4),
        *(line.split()[1] for line in host.read("/etc/fstab").splitlines() if len(line.split()) > 1),
        *kernel,
    }
    strangers = {share_of(path) for path in present} - {None} - known
    if strangers:
        raise Refusal(
            "failed",
            f"This machine has shares below {SHARES} that this Sharewright did not make: {_some(strangers)}.",
            "Move them away, or name another machine. Nothing was changed.",
        )
    for line in lines:
        path = _path(line)
        if share_of(path) or (path in ("/", SHARES) and "crossmnt" in line):
            raise Refusal(
                "failed",
                f"An export of this machine's operator, {path}, would give his clients our shares.",
                f"Take it out of {WHOLE} or {DIRECTORY}, or name another machine. Nothing was changed.",
            )
        if re.search(r"\bfsid=(0|root)\b", line):
            raise Refusal(
                "failed",
                f"NFSv4 clients of this machine see nothing but {path}, which is exported with fsid=0.",
                "Take that option out, or name another machine. Nothing was changed.",
            )
    by_hand = {path for path in kernel if share_of(path) is None} - {_path(line) for line in lines}
    if by_hand:
        raise Refusal(
            "failed",
            f"Exports that were made by hand would end when ours are made: {_some(by_hand)}.",
            f"Write them into {WHOLE}, or end them with: exportfs -ra. Nothing was changed.",
        )


def admit(host: Host, desired: Desired) -> None:
    """Check, and note what is going to be ours, before any of it is."""
    check(host, desired)
    write_journal(host, Journal(known_shares(host, desired), smb=read_journal(host).smb))


def note_samba(host: Host) -> None:
    """It is free, and ours from here on."""
    write_journal(host, Journal(read_journal(host).shares, smb=True))


def settle(host: Host, desired: Desired, left: set[str], *, smb: bool) -> None:
    """After an apply: note what is ours from now on. ``left``: shares that are not wanted, and still mounted; ``smb``:
    Samba may be at work for us still."""
    wanted = {share.id for share in desired.shares}
    smb = read_journal(host).smb and (smb or any(share.protocol == "CIFS" for share in desired.shares))
    write_journal(host, Journal(wanted | left, smb=smb))


def has_foreign_exports(host: Host) -> bool:
    return bool(foreign_lines(host))


def foreign_lines(host: Host) -> list[str]:
    """Lines of others in the files that exportfs reads, with continuations joined."""
    files = [WHOLE, *(f"{DIRECTORY}/{name}" for name in host.listing(DIRECTORY) if name.endswith(".exports"))]
    found = []
    for file in files:
        if file != OWN:
            text = host.read(file).replace("\\\n", " ")
            found += [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return found


def samba_problem(host: Host, found: Samba) -> str:
    """Why SMB shares cannot be served beside what others have in Samba; "" when they can. Its settings are for all of
    its shares alike, so that ours would change those of others."""
    theirs = [name for name in _conf_sections(host.read(SMB_CONF)) if name != "global"]
    theirs += [name for name in found.sections if name != "global" and not _is_ours(name)]
    if theirs:
        return f"Samba has shares of this machine's operator ({_some(set(theirs))}); its settings are for all alike."
    if not read_journal(host).smb and (found.sections or found.running):
        return "Samba is in use by this machine's operator."
    return ""


def stranger_account(passwd: str, group: str, name: str, number: int) -> str:
    """An account or group of others with the number that the files of SMB shares have, or ""."""
    for line in [*passwd.splitlines(), *group.splitlines()]:
        fields = line.split(":")
        if len(fields) > 2 and fields[2] == str(number) and fields[0] != name:
            return fields[0]
    return ""


def _is_ours(section: str) -> bool:
    return share_of(f"{SHARES}/{section}") is not None


def _conf_sections(text: str) -> list[str]:
    return [line.strip()[1:-1].strip().lower() for line in text.splitlines() if re.match(r"\s*\[.+\]\s*$", line)]


def _path(line: str) -> str:
    """The first word of a line of exports(5) or of etab: quoted, or with octal escapes."""
    line = line.strip()
    word = line[1:].partition('"')[0] if line.startswith('"') else line.split(None, 1)[0]
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), word)


def _some(names: set[str] | set[str | None]) -> str:
    shown = sorted(str(name) for name in names)
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")
