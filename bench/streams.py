"""Streams under load: many users at once, many short connections, beside kernel BBR, and for long."""
import json
import os
import subprocess
import sys
import time

from contenders import SHADOWMESH, shadowmesh_streams
from world import ENV, NSL, NSR, UR, Ctx, cpu_seconds, rss_peak_kb, sh, tree, which

SERVER_PORT = 7000
PROXY_PORT = 1080
SOCKS5 = f'[[socks5]]\nlisten = "127.0.0.1:{PROXY_PORT}"\nvia = "peer"\n'


def in_ns(ns, cmd, **k):
    return subprocess.Popen(["ip", "netns", "exec", ns] + cmd, env=ENV, text=True, **k)


class Load:
    """Two nodes with a SOCKS5 proxy on the left, and the server of proxyload on the right."""

    def __init__(self, c):
        shadowmesh_streams(c, SOCKS5)
        c.wait_listen(NSL, PROXY_PORT)
        c.spawn(NSR, [which("proxyload"), "serve", str(SERVER_PORT)], aux=True)
        c.wait_listen(NSR, SERVER_PORT)

    def command(self, what, *args):
        return [which("proxyload"), what, "127.0.0.1", str(PROXY_PORT), "127.0.0.1", str(SERVER_PORT), *map(str, args)]

    def short(self, count, at_a_time, timeout=120):
        out = sh(["ip", "netns", "exec", NSL] + self.command("short", count, at_a_time), timeout=timeout)
        return json.loads(out)


def rss_kb(pids):
    """Resident memory now, in kB, of whole processes."""
    total = 0
    for p in tree(pids):
        try:
            total += int(open(f"/proc/{p}/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
        except OSError:
            pass
    return total


def descriptors(pids):
    total = 0
    for p in tree(pids):
        try:
            total += len(os.listdir(f"/proc/{p}/fd"))
        except OSError:
            pass
    return total


def users(c, opt):
    """`count` SOCKS5 users at once, each fetching `bytes` on one connection and holding another one idle."""
    load = Load(c)
    p = in_ns(NSL, load.command("users", opt.count, opt.bytes), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        m = json.loads(p.stdout.readline())
        m["rss_now_mb"] = round(rss_kb(c.pids()) / 1024, 1)
        m["rss_peak_mb"] = round(rss_peak_kb(c.pids()) / 1024, 1)
        p.stdin.close()
        m["idle_lived"] = json.loads(p.stdout.readline())["lived"]
    finally:
        p.kill()
        p.wait()
    ok = m["complete"] == m["idle_lived"] == opt.count and not m["wrong"] and m["rss_peak_mb"] <= 400 and m["jain"] >= 0.9
    return m, ok, "all complete byte for byte, idle ones alive, both daemons within 400 MB, Jain's index 0.9 or more"


def short(c, opt):
    """`count` connections through SOCKS5, each for 64 bytes, 50 at a time."""
    load = Load(c)
    load.short(200, 10)
    m = load.short(opt.count, 50)
    return m, m["complete"] == opt.count and m["per_s"] >= 5000, "no failure, 5,000 a second or more"


def fair(c, opt):
    """Two flows of ours, of two pairs of nodes, beside two of kernel BBR on one bottleneck."""
    ports = {"ours": [5301, 5302], "bbr": [5303, 5304]}
    for i, port in enumerate(ports["ours"]):
        section = f'[[forward]]\nlisten = "127.0.0.1:{port}"\ntarget = "127.0.0.1:{port}"\nvia = "peer"\n'
        shadowmesh_streams(c, section, port=9443 + i)
        c.wait_listen(NSL, port)
    flows = []
    for kind, own in ports.items():
        for port in own:
            c.spawn(NSR, ["iperf3", "-s", "-1", "-p", str(port)], aux=True)
            c.wait_listen(NSR, port)
            host = "127.0.0.1" if kind == "ours" else UR
            cmd = ["iperf3", "-c", host, "-p", str(port), "-t", str(opt.secs), "-J"] + (["-C", "bbr"] if kind == "bbr" else [])
            flows.append((kind, in_ns(NSL, cmd, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)))
    got = {"ours": [], "bbr": []}
    for kind, p in flows:
        out = json.loads(p.communicate(timeout=opt.secs + 30)[0])
        if "error" in out:
            raise RuntimeError(out["error"])
        got[kind].append(out["end"]["sum_received"]["bits_per_second"] / 1e6)
    total = sum(map(sum, got.values()))
    m = {kind: [round(x, 1) for x in xs] for kind, xs in got.items()}
    m["ours_share"] = round(sum(got["ours"]) / total, 3)
    return m, 0.3 <= m["ours_share"] <= 0.7, "each kind has 30 to 70 % of what both have"


def soak(c, opt):
    """Short connections and downloads for `minutes`; memory and descriptors of both daemons meanwhile."""
    shorts, downloads = 2000, 20
    load = Load(c)
    load.short(shorts, 50)                   # what is grown once is grown
    samples, failures, connections, start, cpu = [], 0, 0, time.time(), sum(cpu_seconds(c.pids()))
    while time.time() - start < opt.minutes * 60:
        m = load.short(shorts, 50)
        p = in_ns(NSL, load.command("users", downloads, 1_000_000), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            u = json.loads(p.stdout.readline())
            p.stdin.close()
            lived = json.loads(p.stdout.readline())["lived"]
            p.wait(30)
        finally:
            p.kill()
            p.wait()
        # Whatever was not carried whole is a failure, also what merely stalled.
        failures += (shorts - m["complete"]) + (downloads - u["complete"]) + (downloads - lived)
        connections += m["complete"] + u["complete"] + lived
        samples.append((time.time() - start, rss_kb(c.pids()) / 1024, descriptors(c.pids())))
    cores = (sum(cpu_seconds(c.pids())) - cpu) / (time.time() - start)
    later = samples[len(samples) // 3:]
    n, mean = len(later), lambda i: sum(s[i] for s in later) / len(later)
    spread = sum((s[0] - mean(0)) ** 2 for s in later)
    slope = sum((s[0] - mean(0)) * (s[1] - mean(1)) for s in later) / spread * 3600 if spread else 0
    m = dict(minutes=round(samples[-1][0] / 60, 1), connections=connections, failures=failures, rss_mb=[round(samples[0][1], 1), round(samples[-1][1], 1)],
             rss_mb_per_hour=round(slope, 2), descriptors=[samples[0][2], samples[-1][2]], daemons_cores=round(cores, 2), samples=n)
    ok = not failures and samples[-1][2] <= samples[0][2] and slope < 1
    return m, ok, "all carried whole, no descriptor more, memory grows by less than 1 MB an hour"


SCENARIOS = {f.__name__: f for f in (users, short, fair, soak)}


def arguments(p):
    p.add_argument("scenarios", nargs="*", default=["users", "short", "fair"], help=", ".join(SCENARIOS))
    p.add_argument("--count", type=int, help="users (500), or short connections (10,000)")
    p.add_argument("--bytes", type=int, default=2_000_000, help="that each user fetches")
    p.add_argument("--secs", type=int, default=20, help="of fair")
    p.add_argument("--minutes", type=float, default=30, help="of soak")
    p.add_argument("--rtt", type=float, default=40, help="of fair's link, ms")
    p.add_argument("--rate", type=float, default=200, help="of fair's link, Mbit/s")


def run(opt):
    met, count = True, opt.count
    for name in opt.scenarios:
        if name not in SCENARIOS:
            sys.exit(f"no scenario {name}; there are: {', '.join(SCENARIOS)}")
        opt.count = count or {"users": 500, "short": 10_000}.get(name)
        emu = None
        if name == "fair":
            queue = int(opt.rate * 1e6 / 8 * opt.rtt / 1e3)
            emu = dict(delay_ms=opt.rtt / 2, rate_kbit=int(opt.rate * 1000), queue=queue)
        if not all(map(which, [SHADOWMESH, "proxyload", "linkemu"])):
            sys.exit("a program is missing: bench/install, and cargo build --release")
        with Ctx("streams-" + name, emu=emu) as c:
            m, ok, goal = SCENARIOS[name](c, opt)
        met &= ok
        print(f"{name:6s} {'met' if ok else 'MISSED':6s} {json.dumps(m)}   goal: {goal}", flush=True)
    return met
