"""/etc/exports: how rules become its lines, and how what the kernel server was told is read back from etab."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from .desired import Rule, Share
from .host import Refusal
from .values import network

HEADER = "# Written by sharewright-guest as a whole; changes made by hand are lost.\n"

# The options that exports_text gives and the kernel was told, fsid aside.
COMPARED = frozenset({"rw", "ro", "all_squash", "no_all_squash", "root_squash", "no_root_squash"})

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def clients_of(share: Share) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """:func:`clients` of a share's rules, made once: with a thousand of them it is most of what an apply computes. None
    where the share is not served by NFS."""
    if share.clients is None:
        share.clients = clients(share.rules if share.protocol == "NFS" else ())
    return share.clients


def clients(rules: tuple[Rule, ...]) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Rules → clients as /etc/exports names them, with their access level, most specific first; and rule id → why it
    is not in force.

    exports(5): single hosts come before networks, and among networks the first match on the line wins (measured with
    nfs-utils 2.6: exportfs keeps a path's order). So a longer prefix goes first. nfs-utils reads a prefix length of
    zero as 32 (a shift by the word's width) and "*" would admit IPv6 clients too, so that "everybody" is written as
    the two halves of the address space.
    """
    errors: dict[str, str] = {}
    chosen: dict[ipaddress.IPv4Network | ipaddress.IPv6Network, Rule] = {}
    for rule in rules:
        try:
            parsed = network(rule.access_to, "access_to")
        except Refusal as error:
            errors[rule.id] = error.message
            continue
        earlier = chosen.setdefault(parsed, rule)
        if earlier.access_level != rule.access_level:
            errors[rule.id] = f"Rule {earlier.id} already gives {parsed} access level {earlier.access_level}."
    ordered = sorted(
        chosen, key=lambda item: (-item.prefixlen / item.max_prefixlen, item.version, int(item.network_address))
    )
    found = []
    for item in ordered:
        level = chosen[item].access_level
        if item.prefixlen == item.max_prefixlen:
            found.append((str(item.network_address), level))
        else:
            parts = item.subnets() if item.prefixlen == 0 else (item,)
            found += [(str(part), level) for part in parts]
    return found, errors


def options(share: Share) -> str:
    """Export options that all clients of a share have in common. ``mp``: only while something is mounted there, never
    the server's own disk. ``fsid`` is the share's for life, so that handles outlive server and file system moves.
    No ``sec=``: given here, it would bind read-only to its flavour, whatever the clients' own options say (measured
    with nfs-utils 2.6); the default is sys."""
    return f"sync,no_subtree_check,{share.squash},mp,fsid={share.id}"


def exports_text(shares: list[Share]) -> str:
    """The whole file: one line per share with at least one client."""
    lines = []
    for share in sorted(shares, key=lambda item: item.id):
        admitted, _ = clients_of(share)
        if admitted:
            names = " ".join(f"{client}({level})" for client, level in admitted)
            lines.append(f"{share.path} -{options(share)} {names}\n")
    return HEADER + "".join(lines)


def wanted_entries(shares: list[Share]) -> dict[tuple[str, str], frozenset[str]]:
    """What etab has to hold: (path, client) → the options that matter."""
    entries = {}
    for share in shares:
        entries.update(entries_of(share))
    return entries


def entries_of(share: Share) -> dict[tuple[str, str], frozenset[str]]:
    """:func:`wanted_entries` of one share, made once."""
    if share.entries is None:
        squash = "all_squash" if share.squash == "all_squash" else "no_all_squash"
        root = "no_root_squash" if share.squash == "no_root_squash" else "root_squash"
        share.entries = {
            (share.path, client): frozenset({level, squash, root, f"fsid={share.id}"})
            for client, level in clients_of(share)[0]
        }
    return share.entries


@lru_cache(maxsize=2)
def found_entries(etab: str) -> Mapping[tuple[str, str], frozenset[str]]:
    """/var/lib/nfs/etab → the same; lines that cannot be read are entries without options, which match nothing."""
    entries = {}
    for line in etab.splitlines():
        path, _, rest = line.partition("\t")
        client, _, text = rest.partition("(")
        given = text.rstrip(")\n").split(",")
        entries[path, client] = frozenset(
            [option for option in given if option in COMPARED or option.startswith("fsid=")]
        )
    return entries
