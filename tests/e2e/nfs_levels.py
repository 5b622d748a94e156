"""What the kernel's NFS server lets an address do: a little of NFSv4.0 (RFC 7530), spoken from any address.

A mount is a machine; this is one TCP connection, so that many addresses cost nothing. Only operations without state are
used: the way to the share, ACCESS, and CREATE of a directory, which is what a read-only export refuses.
"""

from __future__ import annotations

from collections.abc import Iterable

from namespaces import Namespace

# Arguments: server, directory of the share, source addresses…; prints for each "none", "ro" or "rw", as an answer of
# another kind its status. Ports below 1024, which exports insist on.
PROGRAM = """
import socket, struct, sys, time

def words(*numbers):
    return struct.pack(f">{len(numbers)}I", *numbers)

def opaque(data):
    return words(len(data)) + data + bytes(-len(data) % 4)

def connect(source, server):
    for port in range(700, 1024):
        connection = socket.socket(socket.AF_INET6)
        connection.settimeout(60)
        try:
            connection.bind((source, port))
        except OSError:
            connection.close()
            continue
        connection.connect((server, 2049))
        return connection
    raise SystemExit("no free port")

def receive(connection, number):
    data = b""
    while len(data) < number:
        more = connection.recv(number - len(data))
        if not more:
            raise SystemExit("the server hung up")
        data += more
    return data

def level(server, path, source):
    name = "by-" + source.replace(":", "-")
    way = [words(15) + opaque(part.encode()) for part in path.strip("/").split("/")]
    create = words(6, 2) + opaque(name.encode()) + words(0, 0)
    operations = [words(24), *way, words(3, 1), create]
    credentials = words(0) + opaque(b"client") + words(0, 0, 0)
    call = words(7, 0, 2, 100003, 4, 1, 1) + opaque(credentials) + words(0, 0)
    call += words(0, 0, len(operations)) + b"".join(operations)
    with connect(source, server) as connection:
        connection.sendall(words(0x80000000 | len(call)) + call)
        answer, last = b"", 0
        while not last:
            (mark,) = struct.unpack(">I", receive(connection, 4))
            last, length = mark >> 31, mark & 0x7FFFFFFF
            answer += receive(connection, length)
    reply, stat, _, length = struct.unpack(">4I", answer[4:20])
    if reply != 1 or stat != 0:
        return "none" if reply == 1 else "odd"
    accepted, status, tag, done = struct.unpack(">4I", answer[20 + length :][:16])
    if accepted != 0 or tag != 0:
        return f"accepted {accepted}"
    if done < len(operations) - 1:  # NOENT, PERM, ACCESS: somewhere on the way
        return "none" if status in (1, 2, 13) else f"status {status} after {done}"
    if done == len(operations) and status in (0, 17):
        return "rw"
    return "ro" if done == len(operations) and status == 30 else f"status {status} after {done}"

server, path, *sources = sys.argv[1:]
for source in sources:
    for _ in range(60):
        found = level(server, path, source)
        if not found.startswith("status 10008 "):  # DELAY: it is asking for the rules just now
            break
        time.sleep(0.5)
    print(source, found, sep="=", flush=True)
"""


def levels(machine: Namespace, server: object, path: str, sources: Iterable[str]) -> dict[str, str]:
    """Source address → "rw", "ro" or "none" (what it may do), or what the server said that is none of these."""
    process = machine.run(PROGRAM, server, path, *sources)
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    return dict(line.split("=") for line in output.split("\n") if line)
