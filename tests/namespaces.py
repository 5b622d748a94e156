"""Network namespaces that stand where virtual machines and clients stand: on the bridges, with real packets."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from types import TracebackType

import probes
from sharewright.identifiers import short_hash

LISTEN = """
import socket, sys
listener = socket.create_server(("", int(sys.argv[1])))
print("ready", flush=True)
while True:
    connection, _ = listener.accept()
    connection.sendall(b"hello")
    connection.close()
"""
CONNECT = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=float(sys.argv[3])) as connection:
        sys.exit(0 if connection.recv(5) == b"hello" else 3)
except ConnectionRefusedError:
    sys.exit(4)
except OSError:
    sys.exit(5)
"""
# Whether a connection is opened, from a source address if one is given: 0 yes, 5 no.
OPEN = """
import socket, sys
address, port, seconds, *sources = sys.argv[1:]
source = (sources[0], 0) if sources else None
try:
    socket.create_connection((address, int(port)), timeout=float(seconds), source_address=source)
except OSError:
    sys.exit(5)
"""
PING = """
import socket, sys, time
with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
    body = bytes([0, 7, 0, 1]) + b"sharewright"
    data = bytes([8, 0, 0, 0]) + body + b"\\0"
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    data = data[:2] + (~total & 0xFFFF).to_bytes(2, "big") + data[4:]
    end = time.monotonic() + float(sys.argv[2])
    raw.sendto(data, (sys.argv[1], 0))
    while (left := end - time.monotonic()) > 0:
        raw.settimeout(left)
        try:
            answer, sender = raw.recvfrom(1024)
        except TimeoutError:
            break
        if sender[0] == sys.argv[1] and answer[20] == 0 and b"sharewright" in answer:
            sys.exit(0)
sys.exit(5)
"""
SEND = """
import socket, sys
device, frames = sys.argv[1], sys.argv[2:]
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
    raw.bind((device, 0))
    for frame in frames:
        raw.send(bytes.fromhex(frame))
"""
CAPTURE = """
import socket, sys, time
device, seconds = sys.argv[1], float(sys.argv[2])
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as raw:
    raw.bind((device, 0))
    print("ready", flush=True)
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        raw.settimeout(left)
        try:
            print(raw.recv(2048).hex(), flush=True)
        except TimeoutError:
            break
"""


def ip(*arguments: object) -> None:
    subprocess.run(["ip", *map(str, arguments)], check=True, capture_output=True, text=True)


def capture_on(device: str, seconds: float) -> subprocess.Popen[str]:
    """What passes a device of the host, a frame in hexadecimal per line."""
    process = subprocess.Popen([sys.executable, "-c", CAPTURE, device, str(seconds)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


class NetworkNamespace:
    """A network namespace that has no name, so no mount under /run/netns, which every agent of the host works on at the
    same time: a process of its own keeps it, and ends with this one."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo ready && exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n"
        self.pid = self._holder.pid  # by it ``ip link set … netns`` finds the namespace

    def inside(self, *command: str) -> list[str]:
        """The command, in the namespace."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", *command]

    def ip(self, *arguments: object) -> None:
        subprocess.run(self.inside("ip", *map(str, arguments)), check=True, capture_output=True, text=True)

    def close(self) -> None:
        """The kernel takes its devices away a moment later."""
        self._holder.kill()
        self._holder.communicate()


class Namespace:
    """One machine with one NIC, ``eth0``, whose host end is ``device`` on ``bridge``."""

    def __init__(
        self, name: str, bridge: str, device: str, mac: str, address: IPv4Address | IPv6Address, length: int = 24
    ) -> None:
        self._begin(mac, address, device)
        peer = f"swx{short_hash(device, name)}"
        ip("link", "add", device, "type", "veth", "peer", "name", peer)
        ip("link", "set", peer, "netns", self._network_namespace.pid)
        self.ip("link", "set", peer, "name", "eth0")
        self.ip("link", "set", "eth0", "address", mac)
        nodad = ["nodad"] if address.version == 6 else []
        self.ip("address", "add", f"{address}/{length}", "dev", "eth0", *nodad)
        self.ip("link", "set", "lo", "up")
        self.ip("link", "set", "eth0", "up")
        ip("link", "set", device, "master", bridge)
        ip("link", "set", device, "up")

    def _begin(self, mac: str, address: IPv4Address | IPv6Address, device: str) -> None:
        self.mac = mac
        self.address = address
        self._device = device
        self._processes: list[subprocess.Popen[str]] = []
        self._network_namespace = NetworkNamespace()

    def ip(self, *arguments: object) -> None:
        self._network_namespace.ip(*arguments)

    def route(self, gateway: object) -> None:
        self.ip("route", "add", "default", "via", gateway)

    def run(self, program: str, *arguments: object, interactive: bool = False) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            self._network_namespace.inside(sys.executable, "-c", program, *map(str, arguments)),
            stdin=subprocess.PIPE if interactive else None,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._processes.append(process)
        return process

    def listen(self, *ports: int) -> None:
        for port in ports:
            process = self.run(LISTEN, port)
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"

    def reaches(self, address: object, port: int, *, seconds: float = 1.5) -> bool:
        """Whether a connection is answered; a refusal by the other side is an error of the test."""
        status = self.run(CONNECT, address, port, seconds).wait(30)
        assert status in (0, 5), status
        return status == 0

    def opens(self, address: object, port: int, *, source: object = None, seconds: float = 3.0) -> bool:
        """Whether anything there accepts a connection."""
        more = [] if source is None else [source]
        return self.run(OPEN, address, port, seconds, *more).wait(30) == 0

    def connects_to(self, targets: Iterable[tuple[object, int]], *, seconds: float = 3.0) -> set[probes.Target]:
        """Those of addresses with ports that accept a connection."""
        process = self.run(probes.CONNECT_TO, *probes.arguments(targets, seconds))
        output, _ = process.communicate(timeout=30)
        assert process.returncode == 0
        return probes.opened(output)

    def pings(self, address: object) -> bool:
        return self.run(PING, address, 2.0).wait(30) == 0

    def send(self, *frames: bytes) -> None:
        assert self.run(SEND, "eth0", *(frame.hex() for frame in frames)).wait(30) == 0

    def hold(self, program: str, *arguments: object) -> subprocess.Popen[str]:
        """A program that says "ready" and then answers lines."""
        process = self.run(program, *arguments, interactive=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def capture(self, seconds: float) -> subprocess.Popen[str]:
        process = self.run(CAPTURE, "eth0", seconds)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def __enter__(self) -> Namespace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        # Before the namespace, which would take it away later: another test may want a device of the same name.
        subprocess.run(["ip", "link", "delete", self._device], check=False, capture_output=True)
        self._network_namespace.close()


# ---- frames ----


def octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def checksum(data: bytes) -> int:
    total = sum(int.from_bytes(data[index : index + 2].ljust(2, b"\0"), "big") for index in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(source: IPv4Address, target: IPv4Address, protocol: int, payload: bytes, *, fragment: int = 0) -> bytes:
    def header(check: int) -> bytes:
        return (
            b"\x45\0"
            + (20 + len(payload)).to_bytes(2, "big")
            + b"\x12\x34"
            + fragment.to_bytes(2, "big")
            + bytes([64, protocol])
            + check.to_bytes(2, "big")
            + source.packed
            + target.packed
        )

    return header(checksum(header(0))) + payload


def ethernet(source: str, target: str, kind: int, payload: bytes) -> bytes:
    return octets(target) + octets(source) + kind.to_bytes(2, "big") + payload  # not padded: bridges may trim that


def udp(source: int, target: int, payload: bytes) -> bytes:
    return b"".join(value.to_bytes(2, "big") for value in (source, target, 8 + len(payload), 0)) + payload


def tcp(source: int, target: int, flags: int) -> bytes:
    return (
        b"".join(value.to_bytes(2, "big") for value in (source, target))
        + bytes(8)
        + bytes([0x50, flags])
        + b"\xff\xff\0\0\0\0"
    )


def arp(sender_mac: str, sender: IPv4Address, target: IPv4Address, *, answer: bool = False) -> bytes:
    operation = b"\0\2" if answer else b"\0\1"
    return b"\0\1\x08\0\6\4" + operation + octets(sender_mac) + sender.packed + bytes(6) + target.packed
