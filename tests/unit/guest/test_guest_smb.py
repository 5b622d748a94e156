"""SMB as pure functions: rules to sections of Samba's registry, whom they admit, accounts, and the steps."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharewright.guest.program.desired import Rule, Share, Successor
from sharewright.guest.program.smb import (
    OWNER,
    OWNER_ID,
    Samba,
    accounts_of,
    digest,
    judge,
    level_of,
    parse_sections,
    passwd_text,
    sections_text,
    share_section,
    smb_steps,
    touches,
    user_map_text,
    wanted_accounts,
    wanted_sections,
)

ID = "00000000-0000-0000-0000-000000000001"
NAME = f"share-{ID}"
PASSWD = "root:x:0:0:root:/root:/bin/bash\nmail:x:8:8:mail:/var/mail:/usr/sbin/nologin\n"


def ip(*pairs: tuple[str, str]) -> tuple[Rule, ...]:
    return tuple(Rule(f"r{index}", access_to, level) for index, (access_to, level) in enumerate(pairs))


def users(*triples: tuple[str, str, str]) -> tuple[Rule, ...]:
    return tuple(
        Rule(f"u{index}", name, level, access_type="user", access_key=key)
        for index, (name, level, key) in enumerate(triples)
    )


def share(*rules: Rule, id: str = ID, encryption: str = "") -> Share:
    return Share(id, "serial", "ext4", ID, rules=rules, protocol="CIFS", encryption=encryption)


def section(*rules: Rule, encryption: str = "") -> dict[str, str]:
    one = share(*rules, encryption=encryption)
    found = share_section(one, wanted_accounts([one]))
    assert found is not None
    return found


def test_guests_from_addresses() -> None:
    found = section(*ip(("10.0.0.5", "rw"), ("10.1.0.0/16", "rw")))
    assert found["hosts allow"] == "10.0.0.5/32, 10.1.0.0/16"
    assert found["hosts deny"] == "ALL"
    assert (found["guest ok"], found["guest only"], found["read only"]) == ("yes", "yes", "no")
    gate = "flock -s -w 120 /var/lib/sharewright/smb-gate"
    assert found["root preexec"] == f"{gate} mountpoint -q /shares/share-{ID}"
    assert level_of(found, "10.0.0.5", "") == "rw"
    assert level_of(found, "10.1.9.9", "smb.anybody") == "rw"
    assert level_of(found, "10.0.0.6", "") is None
    assert level_of(found, "nonsense", "") is None


def test_users() -> None:
    found = section(*users(("alice", "rw", "ka"), ("bobby", "ro", "kb")))
    assert found["guest ok"] == "no"
    assert "guest only" not in found
    assert found["valid users"] == "smb.alice, smb.bobby"
    assert (found["read only"], found["write list"]) == ("yes", "smb.alice")
    assert level_of(found, "10.9.9.9", "smb.alice") == "rw"
    assert level_of(found, "10.9.9.9", "smb.bobby") == "ro"
    assert level_of(found, "10.9.9.9", "smb.carol") is None
    assert level_of(found, "10.9.9.9", "nobody") is None


def test_readers_only_have_no_write_list() -> None:
    assert "write list" not in section(*users(("bobby", "ro", "kb")))


def test_a_share_without_rules_is_no_section() -> None:
    assert share_section(share(), {}) is None
    assert set(wanted_sections([share()])) == {"global"}
    assert wanted_sections([]) == {}


@pytest.mark.parametrize(
    ("rules", "encryption", "in_force", "refused", "why"),
    [
        (ip(("10.0.0.5", "rw"), ("10.0.0.6", "ro")), "", {"10.0.0.5/32": "rw"}, "r1", "one access level"),
        (ip(("10.0.0.0/24", "ro"), ("10.0.0.6", "rw")), "", {"10.0.0.0/24": "ro"}, "r1", "one access level"),
        (ip(("10.0.0.5/24", "rw"), ("10.0.0.6", "rw")), "", {"10.0.0.6/32": "rw"}, "r0", "10.0.0.5/24"),
        (ip(("10.0.0.5 ALL", "rw")), "", {}, "r0", "10.0.0.5 ALL"),
        (ip(("10.0.0.5", "rw")), "required", {}, "r0", "requires encryption"),
        ((*ip(("10.0.0.5", "rw")), *users(("alice", "ro", "k"))), "", {"smb.alice": "ro"}, "r0", "rules for users"),
        (users(("alice", "rw", "k"), ("bob\n[x]", "rw", "k")), "", {"smb.alice": "rw"}, "u1", "no user name"),
        (users(("alice", "rw", "k"), ("root:x", "rw", "k")), "", {"smb.alice": "rw"}, "u1", "no user name"),
        (users(("alice", "rw", "")), "", {}, "u0", "access key"),
        (users(("alice", "ro", "k"), ("alice", "rw", "k")), "", {"smb.alice": "ro"}, "u1", "older rule"),
        (users(("alice", "ro", "k"), ("alice", "ro", "other")), "", {"smb.alice": "ro"}, "u1", "another access key"),
    ],
)
def test_what_cannot_be_honoured_is_an_error_of_that_rule_alone(
    rules: tuple[Rule, ...], encryption: str, in_force: dict[str, str], refused: str, why: str
) -> None:
    one = share(*rules, encryption=encryption)
    networks, accounts, errors = judge(one, wanted_accounts([one]))
    assert {**networks, **accounts} == in_force
    assert list(errors) == [refused]
    assert why in errors[refused]
    assert wanted_accounts([one]).keys() <= {"smb.alice"}, "no other name reaches /etc/passwd"


def test_one_user_has_one_password_on_a_server() -> None:
    first = share(*users(("alice", "rw", "first")))
    second = share(*users(("alice", "rw", "second")), id=ID[:-1] + "2")
    passwords = wanted_accounts([first, second])
    assert passwords == {"smb.alice": "first"}
    assert judge(first, passwords)[2] == {}
    assert share_section(second, passwords) is None
    assert "another access key" in judge(second, passwords)[2]["u0"]


def test_signing_is_mandatory_unless_there_are_guests() -> None:
    named = share(*users(("alice", "rw", "k")))
    guests = share(*ip(("10.0.0.5", "rw")), id=ID[:-1] + "2")
    alone = wanted_sections([named])["global"]
    assert (alone["server signing"], alone["map to guest"], alone["restrict anonymous"]) == ("mandatory", "Never", "2")
    both = wanted_sections([named, guests])["global"]
    assert (both["server signing"], both["map to guest"]) == ("auto", "Bad User")
    assert alone["server min protocol"] == both["server min protocol"] == "SMB3_11"
    assert alone["disable netbios"] == "yes"


def test_encryption_of_a_share() -> None:
    assert "server smb encrypt" not in section(*users(("alice", "rw", "k")))
    assert section(*users(("alice", "rw", "k")), encryption="required")["server smb encrypt"] == "required"


def test_text_and_back() -> None:
    sections = wanted_sections([share(*users(("alice", "rw", "k")))])
    assert parse_sections(sections_text(sections)) == sections
    assert parse_sections("") == {}


ADDRESSES = [f"10.0.{third}.{last}" for third in (0, 1) for last in (1, 5)]
NETWORKS = st.sampled_from(["10.0.0.1", "10.0.0.5", "10.0.0.0/24", "10.0.0.0/16", "0.0.0.0/0", "10.0.1.0/25"])


@given(st.lists(st.tuples(NETWORKS, st.sampled_from(["rw", "ro"])), max_size=5), st.sampled_from(ADDRESSES))
def test_never_more_than_some_rule_in_force_gives(pairs: list[tuple[str, str]], address: str) -> None:
    one = share(*ip(*pairs))
    errors = judge(one, {})[2]
    good = [(a, level) for index, (a, level) in enumerate(pairs) if f"r{index}" not in errors]
    given_levels = {level for network, level in good if ipaddress.ip_address(address) in ipaddress.ip_network(network)}
    level = level_of(share_section(one, {}), address, "")
    assert {level} - {None} == given_levels


def test_whose_connections_a_change_touches() -> None:
    wide = section(*ip(("10.0.0.5", "rw"), ("10.0.0.6", "rw")))
    narrow = section(*ip(("10.0.0.5", "rw")))
    assert touches(wide, narrow)
    assert not touches(narrow, wide)
    assert touches(narrow, section(*ip(("10.0.0.5", "ro"))))
    writer, reader = section(*users(("alice", "rw", "k"))), section(*users(("alice", "ro", "k")))
    assert touches(writer, reader)
    assert touches(reader, writer)
    assert not touches(writer, section(*users(("alice", "rw", "k"), ("bobby", "rw", "k"))))
    assert touches(writer, None)
    assert touches(narrow, writer)


def test_a_share_that_moves_stays_an_smb_share() -> None:
    one = share(*users(("alice", "rw", "k")), encryption="required")
    one.successor = Successor("s-new", ID, ID, size=1, step="switch", stall=1.0)
    moved = one.moved()
    assert moved.serial == "s-new"
    assert share_section(moved, wanted_accounts([moved])) == share_section(one, wanted_accounts([one]))
    assert moved.protocol == "CIFS"


# ---- accounts --------------------------------------------------------------------------------------------------------


def test_accounts_keep_their_numbers_and_leave_others_alone() -> None:
    first = passwd_text(PASSWD, [OWNER, "smb.alice", "smb.mail"])
    assert first.startswith(PASSWD)
    assert f"{OWNER}:*:{OWNER_ID}:{OWNER_ID}:Sharewright:/nonexistent:/usr/sbin/nologin\n" in first
    numbers = accounts_of(first)
    assert len(set(numbers.values())) == 3
    second = passwd_text(first, [OWNER, "smb.mail", "smb.zoe"])
    assert accounts_of(second)["smb.mail"] == numbers["smb.mail"]
    assert "smb.alice" not in second
    assert len(set(accounts_of(second).values())) == 3
    assert passwd_text(second, []) == PASSWD


def test_user_map() -> None:
    assert user_map_text(["smb.bobby", "smb.alice"]) == "!smb.alice = alice\n!smb.bobby = bobby\n"


# ---- steps -----------------------------------------------------------------------------------------------------------


def after(found: Samba, *shares: Share) -> Samba:
    """What is there once the steps went well."""
    passwords = wanted_accounts(list(shares))
    sections = wanted_sections(list(shares))
    names = [*passwords, OWNER] if sections else []
    return Samba(
        sections=sections,
        digests={account: digest(account, password) for account, password in passwords.items()},
        passwd=passwd_text(found.passwd, names),
        user_map=user_map_text(list(passwords)),
        running=bool(sections),
        at_boot=bool(sections),
    )


def kinds(found: Samba, *shares: Share) -> list[str]:
    return [step.kind for step in smb_steps(found, list(shares))]


def test_steps() -> None:
    empty = Samba(passwd=PASSWD)
    assert kinds(empty) == []
    guests = share(*ip(("10.0.0.5", "rw")))
    assert kinds(empty, guests) == ["smb_accounts", "smb_import_all", "smb_start"]
    unruled = after(empty, share())
    assert kinds(unruled, guests) == ["smb_import", "smb_import", "smb_reload"], "nobody sees an empty registry"
    served = after(empty, guests)
    assert kinds(served, guests) == []
    more = share(*ip(("10.0.0.5", "rw"), ("10.0.0.6", "rw")))
    assert kinds(served, more) == ["smb_import", "smb_reload"]
    assert kinds(after(empty, more), guests) == ["smb_note", "smb_import", "smb_reload", "smb_close"]
    named = share(*users(("alice", "rw", "k")), id=ID[:-1] + "2")
    assert kinds(served, guests, named) == ["smb_accounts", "smb_password", "smb_import", "smb_reload"]
    both = after(empty, guests, named)
    assert kinds(both, guests) == [
        "smb_note", "smb_remove", "smb_reload", "smb_close", "smb_forget", "smb_accounts",
    ]  # fmt: skip
    assert kinds(both) == ["smb_remove", "smb_remove", "smb_remove", "smb_stop", "smb_forget", "smb_accounts"]
    assert kinds(after(both)) == []


def test_the_last_share_with_guests_makes_signing_mandatory() -> None:
    guests = share(*ip(("10.0.0.5", "rw")))
    named = share(*users(("alice", "rw", "k")), id=ID[:-1] + "2")
    both = after(Samba(passwd=PASSWD), guests, named)
    steps = [(step.kind, step.name) for step in smb_steps(both, [share(), named])]
    assert ("smb_import", "global") in steps
    assert ("smb_remove", NAME) in steps


def test_a_step_cut_short_is_taken_again() -> None:
    """The registry holds the new rules, but whoever was to disconnect clients did not get there."""
    wide, narrow = share(*ip(("10.0.0.5", "rw"), ("10.0.0.6", "rw"))), share(*ip(("10.0.0.5", "rw")))
    found = after(Samba(passwd=PASSWD), narrow)
    found.closing = {NAME: wanted_sections([wide])[NAME]}
    assert kinds(found, narrow) == ["smb_reload", "smb_close"]


def test_a_new_password() -> None:
    before = after(Samba(passwd=PASSWD), share(*users(("alice", "rw", "old"))))
    assert kinds(before, share(*users(("alice", "rw", "new")))) == ["smb_password"]


def test_no_secret_in_words() -> None:
    steps = smb_steps(Samba(passwd=PASSWD), [share(*users(("alice", "rw", "hush")))])
    assert any(step.text == "hush" for step in steps)
    assert not any("hush" in step.words for step in steps)


def test_nothing_is_done_blindly() -> None:
    assert kinds(Samba(passwd=PASSWD, error="unreadable"), share(*ip(("10.0.0.5", "rw")))) == []
