"""Hosts in network namespaces, joined by a switch in user space that delays what it forwards.

Linux has ``tc netem`` for that, which many kernels are built without; nearly all have devices of ``/dev/net/tun``. The
switch is what Mahimahi's shells are (Netravali et al., USENIX ATC 2015): it reads packets from the device of each
namespace, holds them, and writes them to another one's. Segmentation is left to the devices (``IFF_VNET_HDR``), as it
is to network cards, so that packets are of 1,500 bytes to TCP but cross the switch up to 64 KiB at a time.

Namespaces have no names. They last as long as the processes in them, which end when this one does, in whatever way.
"""

from __future__ import annotations

import fcntl
import heapq
import itertools
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
from collections.abc import Iterator
from typing import Self

DEVICE = "skode"
NET = "10.77.0"
#: The address at which the switch itself takes delays and rates.
SWITCH = 254
PORT = 7777

# Of linux/if_tun.h.
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4 = 0x01, 0x02
VNET_HEADER = 10


class UnavailableError(Exception):
    """The system does not allow virtual networks."""


def check_available() -> None:
    """See whether the system allows them.

    Raises
    ------
    UnavailableError
        If it does not, with what is missing.
    """
    if not sys.platform.startswith("linux"):
        raise UnavailableError("network namespaces are Linux's.")
    missing = [command for command in ("ip", "unshare", "nsenter", "setpriv") if shutil.which(command) is None]
    if missing:
        raise UnavailableError(f"{' and '.join(missing)} is missing (packages iproute2, util-linux).")
    if os.geteuid():
        raise UnavailableError("only root may make network namespaces and their devices.")
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
        subprocess.run(["unshare", "--net", "true"], check=True, capture_output=True)
    except OSError as error:
        raise UnavailableError(f"the kernel has no TUN devices ({error}).") from None
    except subprocess.CalledProcessError as error:
        raise UnavailableError(f"the kernel refuses network namespaces ({error.stderr.decode().strip()}).") from None


def set_link(delay: float, rate: float) -> None:
    """Tell the switch, from within one of the hosts, how long packets take from now on.

    Parameters
    ----------
    delay : float
        Seconds from a host to any other, one way.
    rate : float
        Bits per second of each host's link, in either direction; infinite where it takes no time.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.sendto(struct.pack("dd", delay, rate), (f"{NET}.{SWITCH}", PORT))
    time.sleep(0.05)


class VirtualNetwork:
    """Hosts and the switch between them, as a context.

    Parameters
    ----------
    n_hosts : int
        Number of hosts.
    """

    def __init__(self, n_hosts: int) -> None:
        self.n_hosts = n_hosts
        self.delay, self.rate = 0.0, float("inf")
        #: Bytes that each host has sent to others, with headers.
        self.n_bytes = [0] * n_hosts
        self._holders: list[subprocess.Popen[bytes]] = []
        self._devices: list[int] = []
        self._waking = os.pipe()
        self._thread = threading.Thread(target=self._switch, name="switch", daemon=True)

    def __enter__(self) -> Self:
        try:
            for i in range(self.n_hosts):
                self._add_host(i)
        except BaseException:
            self._clean_up()
            raise
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        os.write(self._waking[1], b"x")
        self._thread.join()
        self._clean_up()

    def prefix(self, host: int) -> list[str]:
        """What precedes a command that is to run on a host, and to end with this process."""
        return ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net=/proc/{self._holders[host].pid}/ns/net", "--"]

    @staticmethod
    def environment() -> dict[str, str]:
        """Variables for the processes of torch.distributed."""
        return {"MASTER_ADDR": f"{NET}.1", "GLOO_SOCKET_IFNAME": DEVICE}

    def _add_host(self, i: int) -> None:
        command = "echo; exec cat"  # tells that it is there, and ends with its input
        holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._holders.append(holder)
        assert holder.stdout is not None
        holder.stdout.readline()
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._devices.append(device)
        name = f"{DEVICE}{os.getpid()}"[:15]  # until it is in the namespace
        fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI | IFF_VNET_HDR))
        fcntl.ioctl(device, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4)
        _run("ip", "link", "set", name, "netns", str(holder.pid), "name", DEVICE)
        inside = self.prefix(i)
        _run(*inside, "ip", "link", "set", "lo", "up")
        _run(*inside, "ip", "address", "add", f"{NET}.{i + 1}/24", "dev", DEVICE)
        _run(*inside, "ip", "link", "set", DEVICE, "up")
        # Allowed in all namespaces, and as good as any where nothing is lost.
        _run(*inside, "sysctl", "-qw", "net.ipv4.tcp_congestion_control=reno")

    def _clean_up(self) -> None:
        for device in (*self._devices, *self._waking):
            os.close(device)
        for holder in self._holders:
            assert holder.stdin is not None
            holder.stdin.close()
            holder.wait()

    def _switch(self) -> None:
        """Forward packets, each when its time has come."""
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -20)
        links = [_Link(self.n_hosts) for _ in range(self.n_hosts)]
        received = [0.0] * self.n_hosts  # until when the links of receivers are busy
        held: list[tuple[float, int, int, bytes]] = []
        order = itertools.count()
        while True:
            now = time.monotonic()
            times = [link.free for link in links if any(link.queues)] + [packet[0] for packet in held[:1]]
            wait = max(min(times) - now, 0.0) if times else None
            ready, _, _ = select.select([*self._devices, self._waking[0]], [], [], wait)
            if self._waking[0] in ready:
                return
            now = time.monotonic()
            for device in ready:
                source = self._devices.index(device)
                for packet in _packets(device):
                    target = packet[VNET_HEADER + 19] - 1
                    if target == SWITCH - 1:
                        self.delay, self.rate = struct.unpack("dd", packet[-16:])
                    if packet[VNET_HEADER] >> 4 == 4 and 0 <= target < self.n_hosts:
                        self.n_bytes[source] += len(packet) - VNET_HEADER
                        links[source].queues[2 * target + _acknowledges(packet)].append((now, packet))
            for link in links:
                for leaves, seconds, target, packet in link.leaving(now, self.rate):
                    # The last bit follows the first at the rate of the receiver's link, which others may keep busy.
                    received[target] = max(leaves + self.delay, received[target]) + seconds
                    heapq.heappush(held, (received[target], next(order), target, packet))
            while held and held[0][0] <= time.monotonic():
                _, _, target, packet = heapq.heappop(held)
                os.write(self._devices[target], packet)


class _Link:
    """What a host sends, over a link that takes turns between receivers, as the queues of Linux do.

    In one queue the short messages of a host would wait for all that it sends to others. Bare acknowledgements have
    queues of their own: elsewhere TCP keeps what a sender has before its link short, but not before devices like these.
    """

    def __init__(self, n_hosts: int) -> None:
        self.queues: list[deque[tuple[float, bytes]]] = [deque() for _ in range(2 * n_hosts)]
        self.free = 0.0  # when the last packet has left
        self._turn = 0

    def leaving(self, now: float, rate: float) -> Iterator[tuple[float, float, int, bytes]]:
        """Packets whose first bit leaves up to now: when, how many seconds before the last one, to whom, and what."""
        while self.free <= now and any(self.queues):
            self._turn = (self._turn + 1) % len(self.queues)
            if queue := self.queues[self._turn]:
                came, packet = queue.popleft()
                leaves, seconds = max(came, self.free), 8.0 * (len(packet) - VNET_HEADER) / rate
                self.free = leaves + seconds
                yield leaves, seconds, self._turn // 2, packet


def _packets(device: int) -> list[bytes]:
    """All packets that wait at a device."""
    found: list[bytes] = []
    while len(found) < 64:
        try:
            found.append(os.read(device, 2**17))
        except BlockingIOError:
            break
    return found


def _acknowledges(packet: bytes) -> bool:
    """Whether a packet of IP is a bare acknowledgement of TCP."""
    header = 4 * (packet[VNET_HEADER] & 15)
    is_tcp = packet[VNET_HEADER + 9] == socket.IPPROTO_TCP
    return is_tcp and len(packet) == VNET_HEADER + header + 4 * (packet[VNET_HEADER + header + 12] >> 4)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
