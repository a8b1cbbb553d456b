#!/usr/bin/env python3
"""Side-by-side benchmark of userspace tunnels and forwarders on one Linux box.

  bench.py suite                      everything the goals ask for: results/latest.{json,md,svg}
  bench.py list                       contenders and whether they can run here
  bench.py tunnels [-n ROUNDS] [-c a,b,...]   table 1: tunnels over a clean veth
  bench.py lossy   [-n ROUNDS] [-c a,b,...]   table 2: loss / delay scenarios
  bench.py streams [SCENARIO…]        many users, short connections, fairness, soak
  bench.py report FILE.json           print the tables of an earlier run again
  bench.py profile NAME…              perf and strace -c of a contender's daemons under one TCP flow
  bench.py readme                     put the short comparison into README.md
  bench.py shell  NAME                set a contender up and wait (for perf/strace)

Everything runs in two fresh network namespaces per contender; no packet leaves them.
See README.md for adding a contender.
"""
import argparse
import atexit
import contextlib
import fcntl
import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import contenders
import goals
import plot
import streams
from measure import meta, one, plan_lossy, plan_tunnel, save
from report import get, num, RATIO_COLS, report_lossy, report_short, report_suite, report_tunnels
from world import CONTENDERS, IPERF_PORT, NSL, NSR, OR, REPO, RESULTS, RUN, Ctx, runnable, sh, tree, which


def order_of(names, rnd):
    """Rotate so no contender always follows the same one at the same place."""
    k = (rnd * max(1, len(names) // 3)) % len(names)
    return names[k:] + names[:k]


def present(names):
    for n in names:
        if n not in CONTENDERS:
            sys.exit(f"no contender {n}; there are: {', '.join(CONTENDERS)}")
    return [n for n in names if runnable(CONTENDERS[n]) or print("skip (missing binary):", n)]


def run_tunnels(opt, names, doc, path):
    """All rounds of one underlay mode; `doc["runs"]` grows and is saved after each contender."""
    for rnd in range(opt.rounds):
        for n in order_of(names, rnd):
            r = one(n, opt, lambda c: plan_tunnel(c, opt), cc=opt.cc, underlay=opt.underlay)
            r["round"] = rnd
            doc["runs"].append(r)
            m = r.get("metrics", {})
            print(f"{opt.underlay} r{rnd} {n:18s} {r['secs']:5.1f}s", " ".join(f"{h}={num(get(m, p))}" for h, p in RATIO_COLS[:7]), r.get("error", ""), flush=True)
            save(doc, path)


# the contenders of a suite, by underlay mode, and what is measured of each in it
SUITE = {"veth": ("full", ["veth-raw", "tun-cat-gso", "shadowmesh", "shadowmesh-wg", "shadowmesh-1000", "boringtun", "gotatun", "quincy", "wireguard-go", "openvpn"]),
         "nic": ("tcp", ["veth-raw", "shadowmesh", "shadowmesh-wg", "boringtun", "gotatun", "quincy", "wireguard-go", "openvpn"]),
         "mtu": ("tcp", ["veth-raw", "shadowmesh", "shadowmesh-wg", "boringtun", "gotatun", "quincy", "wireguard-go", "openvpn"])}


def cmd_suite(opt):
    path = os.path.join(RESULTS, opt.out or "latest.json")
    suite = dict(kind="suite", rounds=opt.rounds, scale=opt.scale, modes={}, hot=hot_functions())
    names = present(opt.contenders or list(dict.fromkeys(n for _, ns in SUITE.values() for n in ns)))
    suite["meta"] = meta(opt, names)
    for mode in opt.modes:
        opt.underlay, (opt.plan, own) = mode, SUITE[mode]
        mine = [n for n in own if n in names]
        if not mine:
            continue
        base = "boringtun" if "boringtun" in mine else mine[0]
        suite["modes"][mode] = dict(kind="tunnels", names=mine, rounds=opt.rounds, baseline=base, cc=opt.cc, underlay=mode, meta=suite["meta"], runs=[])
        partial = path + ".partial"
        run_tunnels(opt, mine, suite["modes"][mode], partial)
        os.remove(partial)
    save_suite(suite, path)
    print(open(path[:-5] + ".md").read(), "\nsaved", path)


def save_suite(suite, path):
    suite["goals"] = goals.check(suite)
    save(suite, path)
    with open(path[:-5] + ".md", "w") as f:
        f.write(report_suite(suite, goals.markdown(suite["goals"]), os.path.basename(path[:-5]) + ".svg") + "\n")
    with open(path[:-5] + ".svg", "w") as f:
        f.write(plot.svg(suite))


def cmd_readme(opt):
    """The short comparison of results/latest.json, put between the markers of README.md."""
    readme, begin, end = os.path.join(REPO, "README.md"), "<!-- bench: begin", "<!-- bench: end -->"
    text = open(readme).read()
    head, rest = text.split(begin, 1)
    marker, rest = rest.split("\n", 1)
    tail = rest.split(end, 1)[1]
    suite = json.load(open(opt.file))
    with open(readme, "w") as f:
        f.write(f"{head}{begin}{marker}\n{report_short(suite)}\n{end}{tail}")


def hot_functions():
    """Times of hot functions from the program `hot` of this workspace; empty where it is not built."""
    program = os.path.join(REPO, "target/release/hot")
    with contextlib.suppress(Exception):
        return json.loads(sh([program, "time", "--json"], timeout=120))
    return {}


def cmd_tunnels(opt):
    names = present(opt.contenders or [n for n, k in CONTENDERS.items() if k["kind"] in ("tunnel", "floor")])
    base = opt.baseline or next((n for n in names if CONTENDERS[n]["baseline"]), names[0])
    doc = dict(kind="tunnels", meta=meta(opt, names), names=names, rounds=opt.rounds, baseline=base, runs=[], cc=opt.cc,
               underlay=opt.underlay)
    path = os.path.join(RESULTS, opt.out or time.strftime("tunnels-%Y%m%d-%H%M%S.json"))
    run_tunnels(opt, names, doc, path)
    txt = report_tunnels(doc)
    open(path[:-5] + ".md", "w").write(txt + "\n")
    print(txt, "\n\nsaved", path)


def cmd_lossy(opt):
    names = present(opt.contenders or contenders.LOSSY_DEFAULT)
    losses = [float(x) for x in opt.losses.split(",")]
    und = []
    if "nft" in opt.underlays:
        und.append(("lan", None))
    if "emu" in opt.underlays:
        und.append((f"{opt.rtt:g}ms", dict(delay_ms=opt.rtt / 2, rate_kbit=opt.rate * 1000, queue=int(opt.rate * 1e6 / 8 * opt.rtt / 1000))))
    doc = dict(kind="lossy", meta=meta(opt, names), names=names, rounds=opt.rounds, secs=opt.secs, runs=[], emu=und,
               scenarios=[f"{u} {l:g}%" for u, _ in und for l in losses])
    path = os.path.join(RESULTS, opt.out or time.strftime("lossy-%Y%m%d-%H%M%S.json"))
    for rnd in range(opt.rounds):
        for u, emu in und:
            for l in losses:
                for n in order_of(names, rnd):
                    e = dict(emu, seed=random.randrange(1, 1 << 30)) if emu else None
                    cc = n.rsplit("+", 1)[1] if "+" in n and n.rsplit("+", 1)[1] in ("bbr", "cubic", "reno") else "cubic"
                    r = one(n, opt, lambda c: plan_lossy(c, opt, l), cc=cc, underlay="mtu", emu=e)
                    r.update(round=rnd, scenario=f"{u} {l:g}%")
                    doc["runs"].append(r)
                    m = r.get("metrics", {})
                    print(f"r{rnd} {u} {l:g}% {n:20s} {r['secs']:5.1f}s mbps={num(get(m, 'tcp1.mbps'))} p50={num(get(m, 'echo.p50'))} p99={num(get(m, 'echo.p99'))} udp200={num(get(m, 'udp200.recv_pps'))}", r.get("error", ""), get(m, "tcp1.error") or "", flush=True)
                    save(doc, path)
    txt = report_lossy(doc)
    open(path[:-5] + ".md", "w").write(txt + "\n")
    print(txt, "\n\nsaved", path)


def cmd_shell(opt):
    k = CONTENDERS[opt.name]
    with Ctx(opt.name, cc=opt.cc, underlay=opt.underlay) as c:
        c.target = k["setup"](c) or {"host": OR, "port": IPERF_PORT}
        print("up:", c.target, "namespaces", NSL, NSR, "daemons", c.pids(), flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(opt.hold)


def cmd_profile(opt):
    """perf (cpu-clock) over the daemons, then strace -c, both during a single TCP flow."""
    for name in opt.names:
        k = CONTENDERS[name]
        out = [f"===== {name}"]
        try:
            with Ctx(name, cc=opt.cc, underlay=opt.underlay) as c:
                c.target = k["setup"](c) or {"host": OR, "port": IPERF_PORT}
                host = (c.target["host"], c.target["port"])
                c.left(["ping", "-c3", "-i", "0.1", host[0]], check=False)
                pl = ",".join(str(p) for p in sorted(tree(c.pids())))
                cl = c.spawn(NSL, ["sh", "-c", f"sleep 0.5; exec iperf3 -c {host[0]} -p {host[1]} -t 9 -J"], aux=True)
                srv = c.spawn(NSR, ["iperf3", "-s", "-1"], aux=True)
                time.sleep(2)
                data = c.dir + "/perf.data"
                sh(["perf", "record", "-q", "-e", "cpu-clock", "-F", "999", "-p", pl, "-o", data, "--", "sleep", "2"], check=False)
                if shutil.which("strace"):
                    p = subprocess.Popen(["strace", "-c", "-f", "-q", "-o", c.dir + "/strace.txt"] + sum((["-p", x] for x in pl.split(",")), []), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                    time.sleep(1.5)
                    p.send_signal(signal.SIGINT)
                    p.wait(5)
                for srt in ("dso", "dso,sym"):
                    r = sh(f"perf report -i {data} --stdio --sort {srt} -q 2>/dev/null | grep -v '^#' | grep -v '^$' | head -{6 if srt == 'dso' else 16}", check=False, timeout=60)
                    out += [f"-- perf by {srt}", r.rstrip()]
                out += ["-- strace -c", "\n".join(open(c.dir + "/strace.txt").read().splitlines()[:12])]
        except Exception as e:
            out.append(f"error {e}")
        print("\n".join(out), flush=True)


def cmd_streams(opt):
    if not streams.run(opt):
        sys.exit(1)


UNDERLAY_HELP = "veth: GSO super-packets cross whole; nic: MTU-sized packets, GRO at the receiver; mtu: MTU-sized packets, no GRO"


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--plugin", action="append", default=[], help="Python file registering more contenders")
    sub = ap.add_subparsers(dest="cmd", required=True)
    sub.add_parser("list")
    csv = lambda s: s.split(",")
    for n in ("suite", "tunnels", "lossy"):
        p = sub.add_parser(n)
        p.add_argument("-n", "--rounds", type=int, default=3)
        p.add_argument("-c", "--contenders", type=csv)
        p.add_argument("-o", "--out", help="file name under results/")
        p.add_argument("-v", "--verbose", action="store_true")
        if n == "suite":
            p.add_argument("--modes", type=csv, default=list(SUITE), help="default: " + ",".join(SUITE))
        if n == "tunnels":
            p.add_argument("-b", "--baseline")
            p.add_argument("--plan", choices=["full", "tcp"], default="full", help="tcp: the three TCP runs only")
        if n != "lossy":
            p.add_argument("--cc", default="cubic", help="TCP congestion control in both namespaces")
            p.add_argument("--scale", type=float, default=1.0, help="scale the durations")
        if n == "tunnels":
            p.add_argument("--underlay", choices=list(SUITE), default="veth", help=UNDERLAY_HELP)
        if n == "lossy":
            p.add_argument("--losses", default="0,1,5,10")
            p.add_argument("--underlays", type=csv, default=["nft", "emu"])
            p.add_argument("--rtt", type=float, default=40, help="emulator round trip, ms")
            p.add_argument("--rate", type=float, default=200, help="emulator rate, Mbit/s")
            p.add_argument("--secs", type=int, default=5)
    streams.arguments(sub.add_parser("streams"))
    p = sub.add_parser("report")
    p.add_argument("file")
    p = sub.add_parser("readme")
    p.add_argument("file", nargs="?", default=os.path.join(RESULTS, "latest.json"))
    p = sub.add_parser("shell")
    p.add_argument("name")
    p.add_argument("--cc", default="cubic")
    p.add_argument("--underlay", choices=list(SUITE), default="veth", help=UNDERLAY_HELP)
    p.add_argument("--hold", type=float, default=3600)
    p = sub.add_parser("profile")
    p.add_argument("names", nargs="+")
    p.add_argument("--cc", default="cubic")
    p.add_argument("--underlay", choices=list(SUITE), default="veth", help=UNDERLAY_HELP)
    opt = ap.parse_args()
    for f in opt.plugin:
        spec = importlib.util.spec_from_file_location("plug_" + os.path.basename(f)[:-3], f)
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    if opt.cmd == "list":
        for n, k in CONTENDERS.items():
            print(f"{n:22s} {k['kind']:7s}", "ok" if runnable(k) else "missing " + ",".join(b for b in k["needs"] if not which(b)), "*baseline" if k["baseline"] else "")
        return
    if opt.cmd == "report":
        d = json.load(open(opt.file))
        if d["kind"] == "suite":
            save_suite(d, opt.file)     # goals, tables and plot follow from the figures
            print(open(opt.file[:-5] + ".md").read())
        else:
            print(report_tunnels(d) if d["kind"] == "tunnels" else report_lossy(d))
        return
    if opt.cmd == "readme":
        cmd_readme(opt)
        return
    os.makedirs(RESULTS, exist_ok=True)
    os.makedirs(RUN, exist_ok=True)
    lock = open("/run/bnch.lock", "w")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    signal.signal(signal.SIGTERM, lambda *a: sys.exit(143))
    # a namespace may only choose from this host-wide list (here it lacks cubic): widen it while we run
    allow = "/proc/sys/net/ipv4/tcp_allowed_congestion_control"
    old = open(allow).read().strip()
    atexit.register(lambda: open(allow, "w").write(old))
    open(allow, "w").write(open(allow.replace("allowed", "available")).read().strip())
    {"suite": cmd_suite, "tunnels": cmd_tunnels, "lossy": cmd_lossy, "shell": cmd_shell, "profile": cmd_profile, "streams": cmd_streams}[opt.cmd](opt)


if __name__ == "__main__":
    main()
