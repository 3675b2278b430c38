"""Ways out that are none (N2, N3, N11): addresses, protocols and names, tried without asking the proxy."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys
from typing import Any

from tests.attack.inside.attempts import attempt

_ADDRESSES = (
    "11.0.0.10",
    "1.1.1.1",
    "169.254.169.254",
    "10.1.2.3",
    "172.17.0.1",
    "172.17.0.2",
    "192.168.1.1",
    "192.0.2.2",
)
_ADDRESSES_V6 = (
    "2a0f:ffff::10",
    "2606:4700:4700::1111",
    "fd00:ec2::254",
    "fe80::1",
    "::ffff:11.0.0.10",
    "64:ff9b::b00:a",
)
_GROUPS = (
    ("224.0.0.251", 5353),
    ("224.0.0.252", 5355),
    ("239.255.255.250", 1900),
    ("ff02::fb", 5353),
    ("ff02::1:3", 5355),
)
_PORTS = (53, 80, 443, 853, 2375)
_NAMES = ("site.test", "example.com", "metadata.google.internal", "host.docker.internal", "gateway.docker.internal")
_RESOLVERS = ("127.0.0.1", "127.0.0.11", "127.0.0.53", "11.0.0.10", "8.8.8.8", "2001:4860:4860::8888")
_QUERY = bytes.fromhex("000101000001000000000000047369746504746573740000010001")
_SIOCADDRT, _TUNSETIFF, _SIOCSIFFLAGS = 0x890B, 0x400454CA, 0x8914
_IPPROTO_SCTP, _SO_BINDTODEVICE = 132, 25


def other_ways(case: str) -> None:
    if case == "N3":
        names()
        return
    for address in (*_ADDRESSES, *_ADDRESSES_V6):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        for port in _PORTS:
            attempt(f"TCP to {address} {port}", _connect, family, (address, port))
        attempt(f"UDP to {address} 443", _send, family, (address, 443))
        attempt(f"SCTP to {address} 80", _sctp, family, (address, 80))
        attempt(f"ping {address}", _ping, family, address)
        attempt(f"raw ICMP to {address}", _raw, family, address)
        attempt(f"raw UDP to {address}", _raw_udp, family, address)
        attempt(f"TCP with its first data to {address}", _fast_open, family, (address, 80))
    for address, port in _GROUPS:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        attempt(f"UDP to all of {address} {port}", _send, family, (address, port))
    attempt("UDP to everybody 255.255.255.255", _broadcast)
    attempt("source routing", _routed)
    attempt("a route of its own", _route)
    attempt("an interface of its own", _tunnel)
    attempt("set an interface up", _set_up)
    attempt("packets past the kernel's routes", socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 768)
    attempt("bind to another interface", _bind_to_device)
    attempt("bind to another address", _bind, "11.0.0.2")
    attempt("take the port of the way out", _bind_way_out)


def names() -> None:
    """N3: nothing here knows a name, and nobody can be asked."""
    for name in _NAMES:
        attempt(f"look up {name}", _look_up, name)
    for address in _RESOLVERS:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        attempt(f"ask the name server {address}", _ask, family, address)
        for port in (53, 853):
            attempt(f"TCP to the name server {address} {port}", _connect, family, (address, port))


def _look_up(name: str) -> str:
    try:
        return str(socket.getaddrinfo(name, 80))
    except socket.gaierror as error:
        raise OSError(113, str(error)) from None


def _ask(family: int, address: str) -> str:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        sock.connect((address, 53))
        sock.send(_QUERY)
        return repr(sock.recv(512))


def _connect(family: int, address: Any) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(2)
        sock.connect(address)


def _send(family: int, address: Any) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", address)


def _sctp(family: int, address: Any) -> None:
    with socket.socket(family, socket.SOCK_STREAM, _IPPROTO_SCTP) as sock:
        sock.settimeout(2)
        sock.connect(address)


def _ping(family: int, address: str) -> None:
    protocol = socket.IPPROTO_ICMPV6 if family == socket.AF_INET6 else socket.IPPROTO_ICMP
    with socket.socket(family, socket.SOCK_DGRAM, protocol) as sock:
        sock.sendto(b"\x08\x00\xf7\xff\x00\x00\x00\x00", (address, 0))


def _raw(family: int, address: str) -> None:
    protocol = socket.IPPROTO_ICMPV6 if family == socket.AF_INET6 else socket.IPPROTO_ICMP
    with socket.socket(family, socket.SOCK_RAW, protocol) as sock:
        sock.sendto(b"\x08\x00\xf7\xff\x00\x00\x00\x00", (address, 0))


def _raw_udp(family: int, address: str) -> None:
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        sock.sendto(b"x", (address, 0))


def _fast_open(family: int, address: Any) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(2)
        sock.sendto(b"x", 0x20000000, address)


def _broadcast() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.sendto(b"x", ("255.255.255.255", 67))


def _routed() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(2)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x83\x07\x04" + socket.inet_aton("11.0.0.10") + b"\x00")
        sock.connect(("11.0.0.10", 80))


def _route() -> None:
    any_address = struct.pack("=HH4s8x", socket.AF_INET, 0, bytes(4))
    gateway = struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton("127.0.0.1"))
    entry = struct.pack("=Q", 0) + any_address + gateway + any_address + struct.pack("=H", 3) + bytes(64)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCADDRT, entry)


def _tunnel() -> None:
    with open("/dev/net/tun", "r+b", buffering=0) as device:
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", b"way", 0x1001))


def _set_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", 0))


def _bind_to_device() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, b"eth0\0")


def _bind(address: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind((address, 0))


def _bind_way_out() -> None:
    port = int(os.environ["http_proxy"].rpartition(":")[2].strip("/"))
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", port))


if __name__ == "__main__":
    other_ways(sys.argv[1])
