"""/etc/exports: rules to lines, most specific first, and etab read back."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharewright.guest.program.desired import Rule, Share
from sharewright.guest.program.exports import HEADER, clients, exports_text, found_entries, wanted_entries

ID = "00000000-0000-0000-0000-000000000001"


def rules(*pairs: tuple[str, str]) -> tuple[Rule, ...]:
    return tuple(Rule(f"r{index}", access_to, level) for index, (access_to, level) in enumerate(pairs))


def share(*pairs: tuple[str, str], squash: str = "no_root_squash", id: str = ID) -> Share:
    return Share(id, "serial", "ext4", ID, rules=rules(*pairs), squash=squash)


def first_match(listed: list[tuple[str, str]], address: str) -> str | None:
    """The level that nfs-utils gives: single hosts before networks, else the first on the line."""
    own = ipaddress.ip_address(address)
    networks = [(ipaddress.ip_network(client), level) for client, level in listed]
    hosts = [pair for pair in networks if pair[0].prefixlen == pair[0].max_prefixlen]
    for network, level in hosts + networks:
        if network.version == own.version and own in network:
            return level
    return None


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([("10.0.0.5", "rw")], [("10.0.0.5", "rw")]),
        ([("10.0.0.5/32", "rw")], [("10.0.0.5", "rw")]),
        ([("10.0.0.0/8", "rw"), ("10.1.0.0/16", "ro")], [("10.1.0.0/16", "ro"), ("10.0.0.0/8", "rw")]),
        ([("0.0.0.0/0", "ro")], [("0.0.0.0/1", "ro"), ("128.0.0.0/1", "ro")]),
        ([("::/0", "rw")], [("::/1", "rw"), ("8000::/1", "rw")]),
        ([("2001:DB8::/64", "rw"), ("2001:db8::1", "ro")], [("2001:db8::1", "ro"), ("2001:db8::/64", "rw")]),
        ([("10.0.0.5", "rw"), ("10.0.0.5/32", "rw")], [("10.0.0.5", "rw")]),
        ([], []),
    ],
)
def test_clients(pairs: list[tuple[str, str]], expected: list[tuple[str, str]]) -> None:
    assert clients(rules(*pairs)) == (expected, {})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bogus",
        "*",
        "10.0.0.1/24",
        "10.0.0.0/33",
        "@group",
        "fe80::1%eth0",
        "::ffff:10.0.0.1",
        "10.0.0.1(rw)",
        "10.0.0.1 *",
        "10.0.0.1\n/etc *(rw)",
    ],
)
def test_a_wrong_rule_hinders_no_other(text: str) -> None:
    found, errors = clients(rules((text, "rw"), ("10.0.0.5", "ro")))
    assert found == [("10.0.0.5", "ro")]
    assert list(errors) == ["r0"]


def test_two_levels_for_one_client() -> None:
    found, errors = clients(rules(("10.0.0.5", "ro"), ("10.0.0.5/32", "rw")))
    assert found == [("10.0.0.5", "ro")]
    assert "r0" in errors["r1"]


def networks() -> st.SearchStrategy[str]:
    def make(version: int, bits: int, prefix: int) -> str:
        width = 32 if version == 4 else 128
        prefix = min(prefix, width)
        address = (bits % (1 << width)) >> (width - prefix) << (width - prefix)
        kind = ipaddress.IPv4Network if version == 4 else ipaddress.IPv6Network
        return str(kind((address, prefix)))

    few = st.sampled_from([0, 1, 8, 9, 16, 24, 31, 32, 64, 127, 128])
    low = st.sampled_from([0x0A000000, 0x0A010000, 0x0A010105, 0xC0A80000, 0x20010DB8 << 96, (0x20010DB8 << 96) + 5])
    return st.builds(make, st.sampled_from([4, 6]), low, few).filter(lambda text: not text.startswith("::ffff"))


@given(st.lists(st.tuples(networks(), st.sampled_from(["rw", "ro"])), max_size=8), st.sampled_from(
    ["10.0.0.0", "10.1.0.0", "10.1.1.5", "10.1.1.6", "192.168.0.0", "8.8.8.8", "2001:db8::", "2001:db8::5", "fd00::1"]
))  # fmt: skip
def test_the_most_specific_rule_wins(pairs: list[tuple[str, str]], address: str) -> None:
    found, errors = clients(rules(*pairs))
    own = ipaddress.ip_address(address)
    best: tuple[int, str] | None = None
    for rule in rules(*pairs):
        network = ipaddress.ip_network(rule.access_to)
        if rule.id in errors or network.version != own.version or own not in network:
            continue
        if best is None or network.prefixlen > best[0]:
            best = (network.prefixlen, rule.access_level)
    assert first_match(found, address) == (best[1] if best else None)


def test_whole_file() -> None:
    other = "00000000-0000-0000-0000-000000000002"
    text = exports_text(
        [share(("10.0.0.0/24", "ro"), id=other), share(("10.0.0.5", "rw"), ("10.0.0.0/24", "ro"), squash="root_squash"),
         share(id="00000000-0000-0000-0000-000000000003")]
    )  # fmt: skip
    assert text == HEADER + (
        f"/shares/share-{ID} -sync,no_subtree_check,root_squash,mp,fsid={ID} 10.0.0.5(rw) 10.0.0.0/24(ro)\n"
        f"/shares/share-{other} -sync,no_subtree_check,no_root_squash,mp,fsid={other} 10.0.0.0/24(ro)\n"
    )


# Recorded from nfs-utils 2.6.2 (Debian 12).
ETAB = (
    f"/shares/share-{ID}\t127.0.0.1(rw,sync,wdelay,hide,nocrossmnt,secure,no_root_squash,no_all_squash,"
    f"no_subtree_check,secure_locks,acl,no_pnfs,fsid={ID},mountpoint,anonuid=65534,anongid=65534,sec=sys,rw,secure,"
    "no_root_squash,no_all_squash)\n"
    f"/shares/share-{ID}\tfd00::/8(ro,sync,wdelay,hide,nocrossmnt,secure,no_root_squash,no_all_squash,"
    f"no_subtree_check,secure_locks,acl,no_pnfs,fsid={ID},mountpoint,anonuid=65534,anongid=65534,sec=sys,ro,secure,"
    "no_root_squash,no_all_squash)\n"
)


def test_etab_is_read_back() -> None:
    wanted = wanted_entries([share(("127.0.0.1", "rw"), ("fd00::/8", "ro"))])
    assert found_entries(ETAB) == wanted
    # With "sec=sys" among the defaults, nfs-utils 2.6.2 answered "rw" with this, which is read-only in truth.
    assert found_entries(ETAB.replace("sec=sys,rw", "sec=sys,ro")) != wanted
    assert found_entries(ETAB.replace(f"fsid={ID}", "fsid=0")) != wanted
    assert found_entries("nonsense\n") == {("nonsense", ""): frozenset()}
    assert found_entries("") == {}
