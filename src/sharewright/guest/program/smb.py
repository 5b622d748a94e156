"""SMB shares as pure functions: rules → sections of Samba's registry, accounts, and the steps from what is there.

An address rule opens a share to guests from there; a user rule to an account of this server, whose password the
document carries. A share has rules of one kind in force, and never a guest where it has users. All files of SMB shares
belong to one account, whoever wrote them, so that access is what the rules say and nothing else.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re

from .desired import Rule, Share
from .host import STATE, Refusal
from .values import network

PREFIX = "share-"
GLOBAL = "global"
USER_MAP = f"{STATE}/smb-users.map"
GATE = f"{STATE}/smb-gate"  # a lock; who holds it alone lets nobody connect to a share (leaving.py)
GATE_SECONDS = 120  # how long a client waits at the gate
# Not "nobody": Samba has a second identity for that one, and refuses it its own files (measured with 4.17). The number
# is on the volumes of shares, which outlive the VM, so it never changes; it lies outside of all ranges that Debian and
# systemd give out.
OWNER = "sharewright"
OWNER_ID = 70000
ACCOUNT = "smb."  # with this before their names, users of a share never meet an account of the system
USER = re.compile(r"[a-z0-9][a-z0-9._-]{0,27}")  # Linux has 32 characters for a name
HOME = "/nonexistent:/usr/sbin/nologin"


class Samba:
    """What is there. ``sections``: Samba's registry, section → parameters; ``digests``: account → what its password
    was last set from; ``at_boot``: smbd is started by systemd at boot; ``closing``: sections as they were before they
    were changed, whose clients may still be connected as these allowed; ``error``: why nothing is known."""

    __slots__ = ("at_boot", "closing", "digests", "error", "group", "passwd", "running", "sections", "user_map")

    def __init__(
        self,
        *,
        sections: dict[str, dict[str, str]] | None = None,
        digests: dict[str, str] | None = None,
        closing: dict[str, dict[str, str]] | None = None,
        passwd: str = "",
        group: str = "",
        user_map: str = "",
        running: bool = False,
        at_boot: bool = False,
        error: str = "",
    ) -> None:
        self.sections = sections or {}
        self.digests = digests or {}
        self.closing = closing or {}
        self.passwd = passwd
        self.group = group
        self.user_map = user_map
        self.running = running
        self.at_boot = at_boot
        self.error = error


class Step:
    """One thing to do; ``kind`` is a function of samba.py. ``text`` may hold a secret, ``words`` never."""

    __slots__ = ("kind", "name", "text", "words")

    def __init__(self, kind: str, words: str, *, name: str = "", text: str = "") -> None:
        self.kind = kind
        self.words = words
        self.name = name
        self.text = text


# ---- from rules to sections ------------------------------------------------------------------------------------------


def judge(share: Share, passwords: dict[str, str]) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Networks → level, accounts → level (one of the two is empty), and rule id → why it is not in force. Made once for
    the same passwords: with a thousand rules it is most of what an apply computes.

    Samba has one level for all guests of a share: rules of another level than the oldest one's are refused.
    """
    if share.judged is None or share.judged[0] != passwords:
        share.judged = passwords, _judged(share, passwords)
    return share.judged[1]


def _judged(share: Share, passwords: dict[str, str]) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    networks: dict[str, str] = {}
    users: dict[str, str] = {}
    errors: dict[str, str] = {}
    named = any(rule.access_type == "user" for rule in share.rules)
    for rule in share.rules:
        try:
            if rule.access_type == "user":
                _add(users, user_account(rule, passwords), rule, errors)
            elif named:
                errors[rule.id] = "The share has rules for users, so that no address opens it to guests."
            elif share.encryption == "required":
                errors[rule.id] = "The share requires encryption, which guests cannot do; give access to users."
            else:
                parsed = str(network(rule.access_to, "access_to"))
                first = next(iter(networks.values()), rule.access_level)
                if first != rule.access_level:
                    errors[rule.id] = (
                        f"All addresses of an SMB share have one access level; its older rules say {first}."
                    )
                else:
                    _add(networks, parsed, rule, errors)
        except Refusal as error:
            errors[rule.id] = error.message
    return networks, users, errors


def user_account(rule: Rule, passwords: dict[str, str]) -> str:
    """The account of a user rule. Refusal (invalid) when there can be none with this rule's password."""
    if not USER.fullmatch(rule.access_to):
        raise Refusal("invalid", f"{rule.access_to[:80]!r} is no user name; expected {USER.pattern}.")
    account = ACCOUNT + rule.access_to
    if not rule.access_key or passwords.get(account) != rule.access_key:
        raise Refusal("invalid", f"User {rule.access_to} has another access key on this server; add the rule again.")
    return account


def wanted_accounts(shares: list[Share]) -> dict[str, str]:
    """Account → password, of rules with a proper user name; of several for one user that of the first."""
    found: dict[str, str] = {}
    for rule in [rule for share in shares if share.protocol == "CIFS" for rule in share.rules]:
        if rule.access_type == "user" and rule.access_key and USER.fullmatch(rule.access_to):
            found.setdefault(ACCOUNT + rule.access_to, rule.access_key)
    return found


def _add(levels: dict[str, str], who: str, rule: Rule, errors: dict[str, str]) -> None:
    if levels.setdefault(who, rule.access_level) != rule.access_level:
        errors[rule.id] = f"An older rule already gives {rule.access_to} access level {levels[who]}."


def section_name(share_id: str) -> str:
    return PREFIX + share_id


def share_section(share: Share, passwords: dict[str, str]) -> dict[str, str] | None:
    """A share's parameters; None when nobody has access. ``root preexec``: only while something is mounted there,
    never the server's own disk; and not while a disk is being changed."""
    networks, users, _ = judge(share, passwords)
    if not networks and not users:
        return None
    section = {
        "path": share.path,
        "browseable": "no",
        "force user": OWNER,
        "force group": OWNER,
        "veto files": "/lost+found/",
        "root preexec": f"flock -s -w {GATE_SECONDS} {GATE} mountpoint -q {share.path}",
        "root preexec close": "yes",
    }
    if share.encryption:
        section["server smb encrypt"] = share.encryption
    if users:
        writers = sorted(account for account, level in users.items() if level == "rw")
        section |= {"guest ok": "no", "valid users": ", ".join(sorted(users)), "read only": "yes"}
        return section | ({"write list": ", ".join(writers)} if writers else {})
    level = next(iter(networks.values()))
    return section | {
        "guest ok": "yes",
        "guest only": "yes",
        "read only": "no" if level == "rw" else "yes",
        "hosts allow": ", ".join(sorted(networks)),
        "hosts deny": "ALL",
    }


def global_section(shares: list[dict[str, str]]) -> dict[str, str]:
    """SMB 3.1.1 only, on 445 only. Signing is mandatory, except that guests cannot sign and their clients refuse a
    server that insists; where there are guests a client that asks for signing still gets it."""
    guests = any(section["guest ok"] == "yes" for section in shares)
    section = {
        "server min protocol": "SMB3_11",
        "server signing": "auto" if guests else "mandatory",
        "map to guest": "Bad User" if guests else "Never",
        "disable netbios": "yes",
        "smb ports": "445",
        "server string": "Sharewright",
        # Calls and bytes, for the metrics; without their times, which would cost a look at the clock for each.
        "smbd profiling level": "count",
        "load printers": "no",
        "disable spoolss": "yes",
        "printcap name": "/dev/null",
        # It would tell clients the address of the management NIC, and they would try it.
        "server multi channel support": "no",
        "username map": USER_MAP,
        # Users have the password that the API shows; they cannot set another.
        "check password script": "/bin/false",
    }
    return section if guests else section | {"restrict anonymous": "2"}


def wanted_sections(shares: list[Share]) -> dict[str, dict[str, str]]:
    """The whole registry; empty when no share is served by SMB."""
    ours = [share for share in shares if share.protocol == "CIFS"]
    if not ours:
        return {}
    passwords = wanted_accounts(ours)
    sections: dict[str, dict[str, str]] = {}
    for share in ours:
        section = share_section(share, passwords)
        if section is not None:
            sections[section_name(share.id)] = section
    return {GLOBAL: global_section(list(sections.values())), **sections}


def sections_text(sections: dict[str, dict[str, str]]) -> str:
    """What ``net conf import`` reads."""
    return "".join(
        f"[{name}]\n" + "".join(f"\t{key} = {value}\n" for key, value in section.items())
        for name, section in sections.items()
    )


def parse_sections(text: str) -> dict[str, dict[str, str]]:
    """What ``net conf list`` prints."""
    sections: dict[str, dict[str, str]] = {}
    section: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("[") and line.endswith("]"):
            section = sections.setdefault(line[1:-1], {})
        elif " = " in line:
            key, _, value = line.strip().partition(" = ")
            section[key] = value
    return sections


# ---- whom a section admits -------------------------------------------------------------------------------------------


def level_of(section: dict[str, str] | None, address: str, account: str) -> str | None:
    """What a section lets a client do: "rw", "ro", or None. An address or section that cannot be read: None."""
    if section is None:
        return None
    if section.get("guest ok") == "yes":
        try:
            own = ipaddress.ip_address(address)
            inside = any(own in ipaddress.ip_network(item) for item in _items(section, "hosts allow"))
        except ValueError:
            return None
        return ("ro" if section.get("read only") == "yes" else "rw") if inside else None
    if account not in _items(section, "valid users"):
        return None
    return "rw" if account in _items(section, "write list") else "ro"


def touches(before: dict[str, str], after: dict[str, str] | None) -> bool:
    """Whether a client that the section before admitted may be admitted otherwise, or not, by the one after."""
    if after is None:
        return True
    lists = ("hosts allow", "valid users", "write list", "root preexec")  # nobody connected is asked by the last
    if any(before.get(key) != after.get(key) for key in (before.keys() | after.keys()) - set(lists)):
        return True
    accounts = _items(before, "valid users")
    return not set(_items(before, "hosts allow")) <= set(_items(after, "hosts allow")) or any(
        level_of(before, "", account) != level_of(after, "", account) for account in accounts
    )


def _items(section: dict[str, str], name: str) -> list[str]:
    return [item.strip() for item in section.get(name, "").split(",") if item.strip()]


# ---- accounts of the system ------------------------------------------------------------------------------------------


def accounts_of(passwd: str) -> dict[str, int]:
    """Our accounts in /etc/passwd, of users and the owner: name → number."""
    found = {}
    for line in passwd.splitlines():
        fields = line.split(":")
        if len(fields) == 7 and (fields[0] == OWNER or fields[0].startswith(ACCOUNT)) and fields[2].isdecimal():
            found[fields[0]] = int(fields[2])
    return found


def passwd_text(before: str, names: list[str]) -> str:
    """/etc/passwd with exactly these accounts of ours, which nobody logs in to. One that is there keeps its number."""
    present = accounts_of(before)
    lines = [line for line in before.splitlines() if line.split(":")[0] not in present]
    taken = {present[name] for name in names if name in present} | {OWNER_ID}
    number = OWNER_ID
    for name in sorted(names):
        if name == OWNER:
            identity = OWNER_ID
        elif name in present:
            identity = present[name]
        else:
            while number in taken:
                number += 1
            taken.add(number)
            identity = number
        lines.append(f"{name}:*:{identity}:{OWNER_ID}:Sharewright:{HOME}")
    return "".join(f"{line}\n" for line in lines)


def group_text(before: str) -> str:
    """/etc/group with the group of all our accounts."""
    lines = [line for line in before.splitlines() if not line.startswith(f"{OWNER}:")]
    return "".join(f"{line}\n" for line in [*lines, f"{OWNER}:*:{OWNER_ID}:"])


def user_map_text(accounts: list[str]) -> str:
    """smb.conf(5), username map: what a client calls itself → the account."""
    return "".join(f"!{account} = {account.removeprefix(ACCOUNT)}\n" for account in sorted(accounts))


def digest(account: str, password: str) -> str:
    """Tells whether a password has changed. Passwords are random and long, so this needs no slow hash."""
    return hashlib.sha256(f"{account}\0{password}".encode()).hexdigest()


# ---- what to do ------------------------------------------------------------------------------------------------------


def smb_steps(found: Samba | None, shares: list[Share]) -> list[Step]:
    """From what is there to what is wanted. Accounts come before the sections that name them and go after these; every
    section is replaced in one transaction, so that an allow list is the old or the new one at every moment."""
    wanted = wanted_sections(shares)
    if found is None or found.error:
        return []
    passwords = wanted_accounts(shares)
    ours = accounts_of(found.passwd)
    steps = []
    names = [*passwords, OWNER] if wanted else []
    staying = sorted({*names, *ours})
    if staying and (staying != sorted(ours) or found.user_map != user_map_text([n for n in staying if n != OWNER])):
        steps.append(Step("smb_accounts", "write the accounts of SMB users", text="\n".join(staying)))
    for account, password in sorted(passwords.items()):
        if found.digests.get(account) != digest(account, password):
            steps.append(Step("smb_password", f"set the password of {account}", name=account, text=password))
    changed = [name for name, section in wanted.items() if found.sections.get(name) != section]
    gone = [name for name in found.sections if name not in wanted]
    closing = dict(found.closing)
    for name in [*changed, *gone]:
        before, after = found.sections.get(name), wanted.get(name)
        if name.startswith(PREFIX) and before is not None and touches(before, after):
            closing.setdefault(name, before)
    disconnects = bool(wanted) and found.running  # whom stopping does not
    if disconnects and closing != found.closing:
        steps.append(Step("smb_note", "note whom to disconnect", text=json.dumps(closing)))
    if changed and not found.running and not any(name.startswith(PREFIX) for name in found.sections):
        steps.append(Step("smb_import_all", "write Samba's registry", text=sections_text(wanted)))
    else:
        for name in changed:
            text = sections_text({name: wanted[name]})
            steps.append(Step("smb_import", f"write {name} in Samba's registry", name=name, text=text))
    steps += [Step("smb_remove", f"remove {name} from Samba's registry", name=name) for name in gone]
    if wanted and not (found.running and found.at_boot):
        steps.append(Step("smb_start", "start Samba"))
    elif not wanted and (found.running or found.at_boot):
        steps.append(Step("smb_stop", "stop Samba"))
    elif changed or gone or closing:  # what was noted may not have been told before the last apply was cut short
        steps.append(Step("smb_reload", "tell Samba"))
    if disconnects and closing:
        after_all = {name: [before, wanted.get(name)] for name, before in closing.items()}
        steps.append(Step("smb_close", "disconnect whom the rules do not admit", text=json.dumps(after_all)))
    leaving = sorted(set(ours) - set(names))
    steps += [Step("smb_forget", f"forget {account}", name=account) for account in leaving if account != OWNER]
    if leaving:
        steps.append(Step("smb_accounts", "write the accounts of SMB users", text="\n".join(sorted(names))))
    return steps


def is_served(found: Samba, share: Share, shares: list[Share]) -> bool:
    """Whether a share is served to exactly those whom its rules name, and nobody else is still connected."""
    name = section_name(share.id)
    passwords = wanted_accounts(shares)
    section = share_section(share, passwords)
    accounts = _items(section or {}, "valid users")
    known = all(found.digests.get(account) == digest(account, passwords[account]) for account in accounts)
    return found.running and known and found.sections.get(name) == section and name not in found.closing
