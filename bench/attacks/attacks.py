#!/usr/bin/env python3
"""Floods and forgeries against a node with live traffic, in network namespaces of their own: what do they cost whom?

    attacks.py [ATTACK …]        all, or those named; --list lists them

A victim V with a live peer P (pings through the tunnel, 100 a second), a known peer K that is started in the middle of the
attack and has to connect, and an attacker X that sends from any address. Each has a link of its own to V. For each attack:
ping before and meanwhile, loss, how long K took, CPU of V for each packet of the attacker, and how much V's memory grew.
Root, iproute2, iputils-ping, a C compiler; nothing leaves the namespaces.
"""
import argparse
import base64
import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
REPO = os.path.dirname(os.path.dirname(HERE))
TICK = os.sysconf("SC_CLK_TCK")
PORT = 9443
V, P, K, X = "192.0.2.1", "192.0.2.2", "203.0.113.2", "198.51.100.2"
V_FOR = {"p": V, "k": "203.0.113.1", "x": "198.51.100.1"}   # V's address on each link
rng = random.Random(1)


def run(*words, check=True, **more):
    return subprocess.run(words, check=check, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more).stdout


# ---------------------------------------------------------------- packets
def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(source, target, protocol, payload):
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), rng.getrandbits(16), 0, 64, protocol, 0,
                       socket.inet_aton(source), socket.inet_aton(target))
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def udp(source, source_port, target, port, payload):
    return ipv4(source, target, 17, struct.pack("!HHHH", source_port, port, 8 + len(payload), 0) + payload)


def syn(source, source_port, target, port):
    options = bytes([2, 4, 5, 180, 4, 2, 8, 10]) + rng.randbytes(4) + bytes(4) + bytes([1, 3, 3, 7])
    head = struct.pack("!HHIIBBHHH", source_port, port, rng.getrandbits(32), 0, (20 + len(options)) << 2, 2, 64240, 0, 0)
    pseudo = socket.inet_aton(source) + socket.inet_aton(target) + struct.pack("!BBH", 0, 6, 20 + len(options))
    sum_ = checksum(pseudo + head + options)
    return ipv4(source, target, 6, head[:16] + struct.pack("!H", sum_) + head[18:] + options)


def too_big(quoted, target, mtu):
    body = struct.pack("!BBHHH", 3, 4, 0, 0, mtu) + quoted[:28]
    body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    return ipv4(X, target, 1, body)


def anybody():
    """A source that nobody has: 198.18.0.0/15 (RFC 2544), and its port."""
    return f"198.{18 + rng.getrandbits(1)}.{rng.getrandbits(8)}.{rng.getrandbits(8)}", 1024 + rng.randrange(60000)


def handshake(kind, length, public_key, mac1_at):
    """A message of random bytes with a valid first MAC, which takes nothing but the public key."""
    message = bytes([kind, 1 if kind == 17 else 0, 0, 0]) + rng.randbytes(mac1_at - 4)
    key = hashlib.blake2s(b"ShadowMesh v1 mac1" + public_key).digest()
    mac = hashlib.blake2s(message, digest_size=16, key=key).digest()
    return message + mac + bytes(length - mac1_at - 16)


def messages(make, count=20_000, sources=anybody):
    return [udp(*sources(), V_FOR["x"], PORT, make()) for _ in range(count)]


def initiation(key):
    return lambda: handshake(17, 1348, key, 1316)


def second_part(key):
    return lambda: handshake(22, 1224, key, 1208)


# name: (rate a second, what the packets are, who calls when K connects, lines of V's configuration)
ATTACKS = {
    "none": (0, None, "k", ""),
    "forged-icmp": (20, lambda key: [too_big(udp(V_FOR["k"], PORT, K, PORT, b""), V_FOR["k"], mtu)
                                     for mtu in (1200, 576)], "v", ""),
    "few-initiations": (2_000, lambda key: messages(initiation(key)), "v", ""),
    "initiations": (150_000, lambda key: messages(initiation(key)), "k", ""),
    "responses": (150_000, lambda key: messages(lambda: handshake(18, 1196, key, 1164)), "k", ""),
    "second-parts-of-a-peer": (1_000, lambda key: messages(second_part(key), sources=lambda: (K, PORT)), "k", ""),
    "second-parts": (40_000, lambda key: messages(second_part(key), 40_000), "k", ""),
    "cookie-replies": (150_000, lambda key: messages(lambda: bytes([19, 0, 0, 0]) + rng.randbytes(60)), "k", ""),
    "junk": (150_000, lambda key: messages(lambda: rng.randbytes(148)), "k", ""),
    "probes": (150_000, lambda key: messages(lambda: bytes([20, rng.randrange(16), 0, 0]) + rng.randbytes(44)), "k", ""),
    "syns": (150_000, lambda key: [syn(*anybody(), V_FOR["x"], PORT) for _ in range(20_000)], "k",
             'carriers = ["udp", "faketcp"]'),
    "syns-of-one": (150_000, lambda key: [syn(X, 1024 + n, V_FOR["x"], PORT) for n in range(20_000)], "k",
                    'carriers = ["udp", "faketcp"]'),
    "tcp-syns": (150_000, lambda key: [syn(*anybody(), V_FOR["x"], PORT + 1) for _ in range(20_000)], "k",
                 'carriers = ["udp", "tcp"]'),
    "mdns": (150_000, lambda key: [udp(X, 5353, "224.0.0.251", 5353, struct.pack("!6H", 0, 0x8400, 0, 1, 0, 0)
             + b"\x0b_shadowmesh\x04_udp\x05local\0" + struct.pack("!HHIH", 12, 1, 120, 12)
             + b"\x09" + rng.randbytes(9).hex()[:9].encode() + b"\xc0\x0c") for _ in range(20_000)], "k", "mdns"),
}


# ---------------------------------------------------------------- the world
class World:
    def __init__(self, binary, flood, keep):
        self.binary, self.flood = binary, flood
        self.dir = tempfile.mkdtemp(prefix="sm-attack-")
        self.id = f"sma{os.getpid()}"
        self.processes = []
        self.keep = keep

    def ns(self, name):
        return f"{self.id}{name}"

    def inside(self, name, *words, **more):
        return run("ip", "netns", "exec", self.ns(name), *words, **more)

    def spawn(self, name, *words, log):
        with open(os.path.join(self.dir, log), "wb") as out:
            process = subprocess.Popen(["ip", "netns", "exec", self.ns(name), *words], stdin=subprocess.DEVNULL,
                                       stdout=out, stderr=out, start_new_session=True)
        self.processes.append(process)
        return process

    def __enter__(self):
        try:
            for name in "vpkx":
                run("ip", "netns", "add", self.ns(name))
                for scope in ("all", "default"):
                    self.inside(name, "sysctl", "-qw", f"net.ipv4.conf.{scope}.rp_filter=0")
                self.inside(name, "ip", "link", "set", "lo", "up")
            for name, theirs in (("p", P), ("k", K), ("x", X)):
                run("ip", "link", "add", name, "netns", self.ns("v"), "type", "veth", "peer", "name", "up0", "netns", self.ns(name))
                self.inside("v", "ip", "addr", "add", V_FOR[name] + "/24", "dev", name)
                self.inside("v", "ip", "link", "set", name, "up")
                self.inside(name, "ip", "addr", "add", theirs + "/24", "dev", "up0")
                self.inside(name, "ip", "link", "set", "up0", "up")
            # What V answers to invented sources goes to the attacker, who does not forward.
            self.inside("v", "ip", "route", "add", "default", "via", X)
            # The invented sources must not stop at the resolution of one neighbour.
            self.inside("x", "ping", "-c1", "-W2", V_FOR["x"])
            self.keys = {}
            for name in "vpk":
                secret = run(self.binary, "genkey")
                self.keys[name] = run(self.binary, "pubkey", input=secret).strip()
                self.write(f"{name}.key", secret)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(3)
            if process.poll() is None:
                process.kill()
        for name in "vpkx":
            run("ip", "netns", "del", self.ns(name), check=False)
        if not self.keep:
            shutil.rmtree(self.dir)

    def write(self, name, text):
        path = os.path.join(self.dir, name)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            out.write(text)
        return path

    def node(self, name, peers, extra):
        """Starts a node; `peers` is a list of (name, endpoint or None)."""
        number = "vpk".index(name) + 1
        text = f'[node]\nprivate_key_file = "{name}.key"\nlisten = "0.0.0.0:{PORT}"\n'
        text += f'[tun]\nname = "{self.id[-8:]}{name}"\naddress = ["10.77.0.{number}/24"]\n'
        text += f"[discovery]\nmdns = {'true' if extra == 'mdns' else 'false'}\n"
        for peer, endpoint in peers:
            text += f'[[peer]]\nname = "{peer}"\npublic_key = "{self.keys[peer]}"\nkeepalive_s = 25\n'
            text += f'allowed_ips = ["10.77.0.{"vpk".index(peer) + 1}/32"]\n'
            text += f'endpoint = "{endpoint}:{PORT}"\n' if endpoint else ""
            text += extra + "\n" if extra.startswith("carriers") else ""
        for kind in ("run", "state"):
            os.makedirs(os.path.join(self.dir, f"{kind}-{name}"), mode=0o700, exist_ok=True)
        return self.spawn(name, self.binary, "up", "-c", self.write(f"{name}.toml", text),
                          "--run-dir", os.path.join(self.dir, f"run-{name}"), "--state-dir", os.path.join(self.dir, f"state-{name}"),
                          log=f"{name}.log")

    def connected(self, name, peer, seconds):
        begun = time.monotonic()
        while time.monotonic() < begun + seconds:
            with contextlib.suppress(ValueError, StopIteration):
                status = subprocess.run([self.binary, "status", "--json", "--run-dir", os.path.join(self.dir, f"run-{name}")],
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
                if next(p for p in json.loads(status)["peers"] if p["name"] == peer)["connected"]:
                    return time.monotonic() - begun
            time.sleep(0.05)
        return None

    def start_ping(self, count):
        """Pings P from V's side of the tunnel and back: both directions cross V."""
        return subprocess.Popen(["ip", "netns", "exec", self.ns("p"), "ping", "-q", "-i", "0.01", "-c", str(count), "-W", "3", "10.77.0.1"],
                                stdout=subprocess.PIPE, text=True)

    def usage(self):
        pid = self.victim.pid
        stat = open(f"/proc/{pid}/stat").read()
        fields = stat[stat.rindex(")") + 2:].split()
        memory = int(re.search(r"VmHWM:\s+(\d+)", open(f"/proc/{pid}/status").read())[1])
        received = int(self.inside("v", "cat", "/sys/class/net/x/statistics/rx_packets"))
        return (int(fields[11]) + int(fields[12])) / TICK, memory / 1024, received


def ping_result(process):
    text = process.communicate()[0]
    loss = float(re.search(r"([\d.]+)% packet loss", text)[1])
    average = re.search(r"= [\d.]+/([\d.]+)/", text)
    return float(average[1]) if average else None, loss


def measure(binary, flood, name, seconds, keep):
    rate, packets, caller, extra = ATTACKS[name]
    with World(binary, flood, keep) as world:
        world.victim = world.node("v", [("p", None), ("k", K if caller == "v" else None)], extra)
        world.node("p", [("v", V)], extra)
        if world.connected("p", "v", 10) is None:
            raise RuntimeError("P does not connect before the attack; see " + world.dir)
        idle_ms, idle_loss = ping_result(world.start_ping(200))
        before = world.usage()
        time.sleep(1)
        idle_cpu = world.usage()[0] - before[0]
        flooder = None
        if packets:
            target = bytes.fromhex(world.inside("v", "cat", "/sys/class/net/x/address").strip().replace(":", ""))
            source = bytes.fromhex(world.inside("x", "cat", "/sys/class/net/up0/address").strip().replace(":", ""))
            with open(os.path.join(world.dir, "frames"), "wb") as out:
                for packet in packets(base64.b64decode(world.keys["v"])):
                    frame = target + source + b"\x08\x00" + packet
                    out.write(struct.pack("!H", len(frame)) + frame)
            flooder = world.spawn("x", flood, "up0", os.path.join(world.dir, "frames"), str(rate), str(seconds), log="flood.log")
            time.sleep(1)
        begun, at = world.usage(), time.monotonic()
        ping = world.start_ping(int(100 * (seconds - 3)))
        world.node("k", [("v", V_FOR["k"] if caller == "k" else None)], extra)
        took = world.connected("k", "v", seconds - 3)
        ms, loss = ping_result(ping)
        used, lasted = world.usage(), time.monotonic() - at
        sent = None
        if flooder:
            flooder.wait(seconds + 5)
            count, spent = open(os.path.join(world.dir, "flood.log")).read().split()
            sent = float(count) / float(spent)
        junk = used[2] - begun[2]
        return dict(attack=name, sent_per_s=sent and round(sent), idle_ms=idle_ms, idle_loss_pct=idle_loss, ping_ms=ms, loss_pct=loss,
                    k_connects_s=took and round(took, 2), memory_mb=round(used[1] - begun[1], 1),
                    cpu_us_a_packet=round((used[0] - begun[0] - idle_cpu * lasted) / junk * 1e6, 2) if junk > 10_000 else None,
                    met=bool(ms is not None and ms <= 2 * idle_ms + 5 and loss < 1 and took is not None and took <= 8))


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("attack", nargs="*", help="names, as --list has them; all where none is given")
    arguments.add_argument("--list", action="store_true", help="list the attacks")
    arguments.add_argument("--binary", default=os.environ.get("SHADOWMESH", os.path.join(REPO, "target/release/shadowmesh")))
    arguments.add_argument("--seconds", type=float, default=14, help="how long each attack lasts")
    arguments.add_argument("--json", help="write the figures there, too")
    arguments.add_argument("--keep", action="store_true", help="keep logs and configurations")
    options = arguments.parse_args()
    if options.list:
        print("\n".join(ATTACKS))
        return 0
    with tempfile.TemporaryDirectory() as tools:
        flood = os.path.join(tools, "flood")
        run("cc", "-O2", "-o", flood, os.path.join(HERE, "flood.c"))
        rows = []
        print(f"{'attack':24} {'sent/s':>8} {'idle ms':>8} {'ping ms':>8} {'loss %':>7} {'K, s':>6} {'µs each':>8} {'+MB':>6}  met")
        for name in options.attack or ATTACKS:
            row = measure(options.binary, flood, name, options.seconds, options.keep)
            rows.append(row)
            cell = lambda key: "–" if row[key] is None else str(row[key])
            print(f"{name:24} {cell('sent_per_s'):>8} {cell('idle_ms'):>8} {cell('ping_ms'):>8} {cell('loss_pct'):>7} "
                  f"{cell('k_connects_s'):>6} {cell('cpu_us_a_packet'):>8} {cell('memory_mb'):>6}  {'yes' if row['met'] else 'NO'}", flush=True)
    if options.json:
        with open(options.json, "w") as out:
            json.dump(rows, out, indent=1)
    return 0 if all(row["met"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
