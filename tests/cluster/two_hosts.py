"""Two hosts on this machine: network namespaces whose link can be delayed and cut.

Each namespace has one end of a veth pair. The other ends are in the namespace of this process, which forwards the
frames between them as a switch would. (``tc qdisc netem`` delays, too, but some kernels come without it.) Needs root
and iproute2.
"""

from __future__ import annotations

import array
import fcntl
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque

ADDRESSES = ("10.77.0.1", "10.77.0.2")

SIOCETHTOOL, ETHTOOL_STXCSUM = 0x8946, 0x17
ETH_P_ALL, SOL_PACKET, PACKET_IGNORE_OUTGOING = 3, 263, 23


def ip(*words: object) -> None:
    subprocess.run(["ip", *map(str, words)], check=True, capture_output=True, text=True)


def why_not() -> str:
    """Why this machine has no namespaces; empty if it has."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return "needs root and iproute2"
    made = subprocess.run(["ip", "netns", "add", "ssltool-try"], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", "ssltool-try"], capture_output=True)
    return made.stderr.strip()


class TwoHosts:
    """Context manager with the namespaces ``names``, whose addresses are ``ADDRESSES`` on an interface ``net0``.

    ``delay`` is in seconds, one way. While ``cut`` is true, frames are lost without a sign, as behind a switch
    that fails.
    """

    def __init__(self) -> None:
        self.names = tuple(f"ssltool-{os.getpid()}-{host}" for host in range(2))
        self.delay, self.cut = 0.0, False
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []

    def command(self, host: int) -> list[str]:
        """The start of a command that runs on ``host``."""
        return ["ip", "netns", "exec", self.names[host]]

    def processes(self, host: int) -> list[int]:
        found = subprocess.run(["ip", "netns", "pids", self.names[host]], capture_output=True, text=True)
        return [int(pid) for pid in found.stdout.split()]

    def __enter__(self) -> TwoHosts:
        ports: list[socket.socket] = []
        for host, (name, address) in enumerate(zip(self.names, ADDRESSES, strict=True)):
            port = f"port{host}-{os.getpid()}"
            ip("netns", "add", name)
            ip("link", "add", port, "type", "veth", "peer", "name", "net0", "netns", name)
            ip("-n", name, "address", "add", f"{address}/24", "dev", "net0")
            ip("netns", "exec", name, sys.executable, __file__)
            for words in (
                ("link", "set", port, "up"),
                *(("-n", name, "link", "set", it, "up") for it in ("lo", "net0")),
            ):
                ip(*words)
            ports.append(self._open(port))
        self._ports = ports
        for one, other in (ports, ports[::-1]):
            self._threads.append(threading.Thread(target=self._forward, args=[one, other], daemon=True))
            self._threads[-1].start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._closed.set()
        for thread in self._threads:
            thread.join()
        for port in self._ports:
            port.close()
        for host, name in enumerate(self.names):
            for pid in self.processes(host):
                os.kill(pid, 9)
            ip("netns", "del", name)

    def _open(self, port: str) -> socket.socket:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        opened.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        opened.bind((port, 0))
        return opened

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        waiting: deque[tuple[float, bytes]] = deque()
        while not self._closed.is_set():
            seconds = max(0.0, waiting[0][0] - time.monotonic()) if waiting else 0.2
            if select.select([source], [], [], seconds)[0]:
                frame = source.recv(1 << 16)
                if not self.cut:
                    waiting.append((time.monotonic() + self.delay, frame))
            while waiting and waiting[0][0] <= time.monotonic():
                target.send(waiting.popleft()[1])


def fill_in_checksums(interface: str) -> None:
    """Makes the kernel write the checksums of the frames that it sends, which veth leaves out by default, and split
    long ones."""
    value = array.array("B", struct.pack("II", ETHTOOL_STXCSUM, 0))
    request = struct.pack("16sP", interface.encode(), value.buffer_info()[0])
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCETHTOOL, request)


if __name__ == "__main__":
    fill_in_checksums("net0")
