#!/usr/bin/python3 -IS
"""What a scratch root has instead of mount, exportfs, nft, systemctl, Samba's tools and others: the same effects, on
its files.

Called by these names through links in <root>/usr/sbin. Every call is noted in <root>/calls. A file <root>/fail/<name>
makes that tool fail with the file's content; <root>/busy/<share directory> makes umount fail, and when that file says
"nfsd", only until the NFS server is started anew. <root>/smb-clients holds the connections of SMB clients; one that is
"deaf" does not hear close-share. <root>/slow/<share directory> makes freezing that one hang.
"""

# ruff: noqa: PTH102, PTH103, PTH106, PTH108, PTH110, PTH112, PTH114, PTH119, PTH120, PTH123, PTH208, PTH211

import fcntl
import json
import os
import sys
import time

ROOT = os.environ["SHAREWRIGHT_GUEST_ROOT"]
MOUNTS = f"{ROOT}/proc/self/mountinfo"


def read(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def die(message, status=1):
    print(message, file=sys.stderr)
    sys.exit(status)


def mount(arguments):
    kind, options, device, path = arguments[1], arguments[3], arguments[4], arguments[5].removeprefix(ROOT)
    name = os.path.basename(device)
    with open(device, "rb") as file:
        head = file.read(2048)
    found = "ext4" if head[1080:1082] == b"\x53\xef" else "xfs" if head[:4] == b"XFSB" else ""
    if kind == "iso9660":  # the drive's content stands in a directory beside the device
        os.rmdir(ROOT + path)
        os.symlink(device + ".content", ROOT + path)
        return
    if found != kind:
        die(f"mount: {path}: wrong fs type, bad option, bad superblock on {device}", 32)
    number = read(f"{ROOT}/sys/block/{name}/dev").strip()
    write(MOUNTS, read(MOUNTS) + f"99 1 {number} / {path} {options} - {kind} {device} rw\n")


def umount(arguments):
    path = arguments[0].removeprefix(ROOT)
    if os.path.islink(ROOT + path):
        os.unlink(ROOT + path)
        os.mkdir(ROOT + path)
        return
    if os.path.exists(f"{ROOT}/busy/{os.path.basename(path)}"):
        die(f"umount: {path}: target is busy.", 32)
    lines = read(MOUNTS).splitlines()
    kept = [line for line in lines if line.split()[4] != path]
    if len(kept) == len(lines):
        die(f"umount: {path}: not mounted.", 32)
    write(MOUNTS, "".join(line + "\n" for line in kept))


def exportfs(arguments):
    """-ra: /etc/exports and /etc/exports.d → etab as nfs-utils 2.6.2 writes it (options of a line by hand: as they
    stand). -f: nothing to see."""
    if arguments == ["-f"]:
        return
    lines = []
    others = f"{ROOT}/etc/exports.d"
    files = [f"{others}/{name}" for name in sorted(os.listdir(others))] if os.path.isdir(others) else []
    for line in [line for file in [f"{ROOT}/etc/exports", *files] for line in read(file).splitlines()]:
        if not line.strip() or line.startswith("#"):
            continue
        path, defaults, *names = line.split()
        if not defaults.startswith("-"):
            lines += [f"{path}\t{name}\n" for name in (defaults, *names)]
            continue
        common = defaults.removeprefix("-").split(",")
        for name in names:
            client, _, level = name.rstrip(")").partition("(")
            root = "no_root_squash" if "no_root_squash" in common else "root_squash"
            everybody = "all_squash" if "all_squash" in common else "no_all_squash"
            fsid = next(option for option in common if option.startswith("fsid="))
            lines.append(
                f"{path}\t{client}({level},sync,wdelay,hide,nocrossmnt,secure,{root},{everybody},no_subtree_check,"
                f"secure_locks,acl,no_pnfs,{fsid},mountpoint,anonuid=65534,anongid=65534,sec=sys,{level},secure,"
                f"{root},{everybody})\n"
            )
    write(f"{ROOT}/var/lib/nfs/etab", "".join(lines))


def systemctl(arguments):
    if arguments[1] == "smbd.service":
        if arguments[0] == "start":
            os.makedirs(f"{ROOT}/run/samba", exist_ok=True)
            os.makedirs(f"{ROOT}/proc/77", exist_ok=True)
            write(f"{ROOT}/proc/77/comm", "smbd\n")
            write(f"{ROOT}/run/samba/smbd.pid", "77\n")
        else:
            os.unlink(f"{ROOT}/run/samba/smbd.pid")
            write(f"{ROOT}/smb-clients", "[]")
        return
    if arguments[0] == "restart":
        for name in os.listdir(f"{ROOT}/busy"):
            if read(f"{ROOT}/busy/{name}") == "nfsd":
                os.unlink(f"{ROOT}/busy/{name}")
    write(f"{ROOT}/proc/fs/nfsd/threads", "8\n")


REGISTRY = f"{ROOT}/var/lib/samba/registry.tdb"


def net(arguments):
    registry = json.loads(read(REGISTRY) or "{}")
    if arguments[1] == "list":
        for name, lines in registry.items():
            print(f"[{name}]", *lines, "", sep="\n")
        return
    if arguments[1] == "delshare":
        del registry[arguments[2]]
    else:
        found = {}
        for line in read(arguments[2]).splitlines():
            if line.startswith("["):
                lines = found.setdefault(line[1:-1], [])
            else:
                lines.append(line)
        registry = {**registry, arguments[3]: found[arguments[3]]} if len(arguments) > 3 else found
    os.makedirs(os.path.dirname(REGISTRY), exist_ok=True)
    write(REGISTRY, json.dumps(registry))
    now = int(read(f"{ROOT}/smb-clock") or 1) + 1
    write(f"{ROOT}/smb-clock", str(now))
    os.utime(REGISTRY, ns=(now, now))


def clients():
    return json.loads(read(f"{ROOT}/smb-clients") or "[]")


def smbstatus(arguments):
    server = {each["id"]: {"pid": each["pid"]} for each in clients()}
    tcons = {
        each["id"]: {**each, "server_id": server[each["id"]], "session_id": "s" + each["id"]} for each in clients()
    }
    if "--profile" in arguments:
        print(json.dumps({"SMB2 Calls": {}, "System Calls": {}}))
    else:
        print(json.dumps({"sessions": {"s" + each["id"]: each for each in clients()}, "tcons": tcons}))


def smbcontrol(arguments):
    if arguments[1] == "close-share":
        gone = [c for c in clients() if [c["pid"], c["service"]] == [arguments[0], arguments[2]] and not c.get("deaf")]
        write(f"{ROOT}/smb-clients", json.dumps([c for c in clients() if c not in gone]))


def kill(arguments):
    write(f"{ROOT}/smb-clients", json.dumps([c for c in clients() if c["pid"] != arguments[0]]))


def smbpasswd(arguments):
    users = json.loads(read(f"{ROOT}/smb-users") or "{}")
    account = arguments[-1]
    if f"{account}:" not in read(f"{ROOT}/etc/passwd"):
        die(f"Failed to add entry for user {account}.")
    if "-x" in arguments:
        del users[account]
    else:
        first, second = sys.stdin.read().splitlines()
        if first != second:
            die("Mismatch - password unchanged.")
        users[account] = first
    write(f"{ROOT}/smb-users", json.dumps(users))


def nft(arguments):
    write(f"{ROOT}/nft", sys.stdin.read())


def sync(arguments):
    """Nothing to see."""


def fsfreeze(arguments):
    path = arguments[1].removeprefix(ROOT)
    if arguments[0] == "--freeze" and os.path.exists(f"{ROOT}/slow/{os.path.basename(path)}"):
        time.sleep(60)
    lock = open(f"{ROOT}/frozen.lock", "w")  # noqa: SIM115 - several may run at a time
    fcntl.flock(lock, fcntl.LOCK_EX)
    lines = read(f"{ROOT}/frozen").splitlines()
    if (arguments[0] == "--freeze") == (path in lines):
        die(f"fsfreeze: {path}: {'freeze failed: Device or resource busy' if path in lines else 'unfreeze failed'}")
    kept = [line for line in lines if line != path]
    write(f"{ROOT}/frozen", "".join(line + "\n" for line in [*kept, *([path] if path not in lines else [])]))


def ip(arguments):
    with open(f"{ROOT}/ip", "a") as file:
        file.write(f"# {arguments[0]}\n" + sys.stdin.read())


def main():
    name, arguments = os.path.basename(sys.argv[0]), sys.argv[1:]
    with open(f"{ROOT}/calls", "a") as file:
        file.write(" ".join([name, *(argument.replace(ROOT, "") for argument in arguments)]) + "\n")
    if os.path.exists(f"{ROOT}/fail/{name}"):
        die(read(f"{ROOT}/fail/{name}"))
    tools = (mount, umount, exportfs, systemctl, nft, ip, net, smbstatus, smbcontrol, smbpasswd, kill, sync, fsfreeze)
    next(tool for tool in tools if tool.__name__ == name)(arguments)


main()
