"""What is measured of a contender, in which order, and what is noted about the machine."""
import contextlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
import traceback

from world import (CONTENDERS, ENV, IPERF_PORT, NSL, NSR, OR, REPO, Ctx, box_cpu, box_diff, cpu_seconds, rss_peak_kb, sh)

# ------------------------------------------------------------------ measuring plans
def plan_tunnel(c, opt):
    k = opt.scale
    T = lambda s: max(1, round(s * k))
    m = {}

    def step(name, f):
        try:
            m[name] = f()
        except Exception as e:
            m[name] = {"error": f"{type(e).__name__}: {str(e)[:300]}"}
    host = (c.target["host"], c.target["port"])
    ip = c.target["host"]
    c.left(["ping", "-c3", "-i", "0.05", "-W2", ip], check=False)
    step("warmup", lambda: c.tcp(1, target=host))
    if opt.plan == "full":
        step("ping_idle", lambda: c.ping(target=ip))
    before = snapshot(c)
    step("tcp1", lambda: c.tcp(T(10), target=host))
    step("status", lambda: work_done(before, snapshot(c)))
    step("tcp4", lambda: c.tcp(T(5), ["-P", "4"], target=host))
    step("tcp1_rev", lambda: c.tcp(T(5), ["-R"], target=host))
    if opt.plan == "tcp":
        m["rss_peak_mb"] = memory(c)
        return m
    step("udp200", lambda: c.udp(T(3), 200, target=host))
    step("udp200_40k", lambda: c.udp(T(3), 200, "64M", target=host))

    def loaded():
        srv = c.spawn(NSR, ["iperf3", "-s", "-1", "-p", "5202"], aux=True)
        c.wait_listen(NSR, 5202)
        cl = c.spawn(NSL, ["iperf3", "-c", ip, "-p", "5202", "-t", "4", "-J"], aux=True, log="loadclient.txt")
        time.sleep(1.0)
        r = c.ping(target=ip)
        cl.wait(12)
        srv.wait(3)
        with contextlib.suppress(Exception):
            r["load_mbps"] = round(json.load(open(c.dir + "/loadclient.txt"))["end"]["sum_received"]["bits_per_second"] / 1e6, 1)
        return r
    step("ping_load", loaded)
    if c.daemons:
        step("idle", lambda: c.idle(T(5)))
    m["rss_peak_mb"] = memory(c)
    return m


def memory(c):
    """Peak resident set since each daemon started, MB."""
    left, right = (round(rss_peak_kb(c.pids(s)) / 1024, 1) for s in "LR")
    return {"left": left, "right": right, "both_ends": round(left + right, 1), "procs": len(c.pids())}


def snapshot(c):
    """What the daemons themselves have counted so far, if they can tell."""
    if not c.status:
        return None
    with contextlib.suppress(Exception):
        nodes = c.status()
        return dict(packets=sum(p["rx_packets"] + p["tx_packets"] for n in nodes for p in n["peers"]),
                    allocations=sum(w["allocations"] for n in nodes for w in n["workers"]), nodes=nodes)


def work_done(before, after):
    """Packets and heap allocations of the data planes between two snapshots, and the drops at the end."""
    if not before or not after:
        return {}
    packets, allocations = (after[k] - before[k] for k in ("packets", "allocations"))
    drops = {}
    for n in after["nodes"]:
        for counted in [n.get("drops", {})] + [p.get("drops", {}) for p in n["peers"]]:
            for reason, count in counted.items():
                drops[reason] = drops.get(reason, 0) + count
    return dict(packets=packets, allocations=allocations, drops=drops,
                allocations_per_packet=round(allocations / packets, 6) if packets else None)


ECHO_SRV = r"""
import socket,sys
s=socket.socket(); s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1); s.bind(('0.0.0.0',5201)); s.listen(1)
c,_=s.accept(); c.setsockopt(6,1,1)
while True:
    d=c.recv(65536)
    if not d: break
    c.sendall(d)
"""
ECHO_CLI = r"""
import socket,sys,time,json
h,p,n,gap,lim=sys.argv[1],int(sys.argv[2]),int(sys.argv[3]),float(sys.argv[4]),float(sys.argv[5])
s=socket.create_connection((h,p),8); s.setsockopt(6,1,1); s.settimeout(lim)
ts=[]; end=time.time()+lim
try:
    for i in range(n):
        if time.time()>end: break
        t=time.perf_counter(); s.sendall(b'x'*64); g=0
        while g<64:
            d=s.recv(4096)
            if not d: raise OSError('closed')
            g+=len(d)
        ts.append((time.perf_counter()-t)*1e3); time.sleep(gap)
except OSError as e:
    if not ts: raise
ts.sort(); q=lambda f: round(ts[min(len(ts)-1,int(f*len(ts)))],3)
print(json.dumps(dict(n=len(ts),avg=round(sum(ts)/len(ts),3),p50=q(.5),p90=q(.9),p99=q(.99),max=round(ts[-1],3))))
"""


def echo(c, host, port, n=100, gap=0.005, lim=3.0):
    """64-byte TCP request/response times through the path (RTT + loss recovery)."""
    srv = subprocess.Popen(["ip", "netns", "exec", NSR, sys.executable, "-c", ECHO_SRV], stderr=subprocess.DEVNULL)
    try:
        c.wait_listen(NSR, 5201)
        return json.loads(sh(["ip", "netns", "exec", NSL, sys.executable, "-c", ECHO_CLI, host, str(port), str(n), str(gap), str(lim)], timeout=lim + 15))
    finally:
        srv.kill()
        srv.wait()


def plan_lossy(c, opt, loss):
    m = {}
    host = (c.target["host"], c.target["port"])

    def step(name, f):
        try:
            m[name] = f()
        except Exception as e:
            m[name] = {"error": f"{type(e).__name__}: {str(e)[:300]}"}
    if c.target.get("udp_only"):
        c.set_loss(loss)
        step("udp200", lambda: c.udp(opt.secs, 200, target=host))
        step("udp1200", lambda: c.udp(opt.secs, 1200, target=host))
        step("udp1200_100M", lambda: c.udp(opt.secs, 1200, "100M", target=host))
    else:
        step("warm", lambda: echo(c, *host, n=5))
        c.set_loss(loss)
        step("tcp1", lambda: c.tcp(opt.secs, target=host, grace=25))
        step("echo", lambda: echo(c, *host))
    m["rss_peak_mb"] = {"both_ends": round(rss_peak_kb(c.pids()) / 1024, 1)}
    c.set_loss(0)
    return m


# ------------------------------------------------------------------ running rounds
def versions(names):
    out = {}
    for n in names:
        v = CONTENDERS[n]["version"]
        try:
            out[n] = v() if callable(v) else v
        except Exception as e:
            out[n] = f"? ({e})"
    return out


def one(name, opt, plan, **ctxkw):
    k = CONTENDERS[name]
    rec = dict(contender=name, t=time.time(), load=os.getloadavg()[0])
    b0 = box_cpu()
    time.sleep(0.5)
    rec["pre_idle_busy_pct"] = box_diff(b0, box_cpu())["busy_pct"]
    c = Ctx(name, **ctxkw)
    try:
        with c:
            c.target = k["setup"](c) or {"host": OR, "port": IPERF_PORT}
            if k["kind"] != "proxy":
                c.wait("overlay ping", lambda: c.left(["ping", "-c1", "-W1", c.target["host"]]), 15)
                with contextlib.suppress(Exception):
                    dev = re.search(r"dev (\S+)", c.left(["ip", "route", "get", c.target["host"]])).group(1)
                    rec["mtu"] = int(re.search(r"mtu (\d+)", c.left(["ip", "link", "show", dev])).group(1))
            rec["metrics"] = plan(c)
            dead = [p.returncode for p in c.daemons if p.poll() not in (None, 0)]
            if dead:
                rec["daemon_died"] = dead
                rec["tail"] = c.tail()
    except Exception as e:
        rec["error"] = f"{type(e).__name__}: {str(e)[:600]}"
        if opt.verbose:
            traceback.print_exc()
    rec["secs"] = round(time.time() - rec["t"], 1)
    return rec


def commit():
    """The commit of the tree, with a `+` when it has changes that are not committed."""
    with contextlib.suppress(Exception):
        rev = sh(["git", "-C", REPO, "rev-parse", "--short", "HEAD"]).strip()
        return rev + ("+" if sh(["git", "-C", REPO, "status", "--porcelain", "-uno"]).strip() else "")
    return "?"


def meta(opt, names):
    rd = lambda p: open(p).read().strip()
    m = dict(date=time.strftime("%F %T"), argv=sys.argv[1:], commit=commit(), kernel=platform.release(), cpus=os.cpu_count(), versions=versions(names))
    with contextlib.suppress(Exception):
        m["cpu"] = re.search(r"model name\s*:\s*(.*)", rd("/proc/cpuinfo")).group(1)
        m["sysctl"] = {s: rd("/proc/sys/" + s.replace(".", "/")) for s in
                       ("net.core.rmem_max", "net.core.wmem_max", "net.core.rmem_default", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
                        "net.ipv4.tcp_congestion_control", "net.core.default_qdisc")}
    return m


def save(doc, path):
    with open(path + ".tmp", "w") as f:
        json.dump(doc, f, indent=1)
    os.replace(path + ".tmp", path)
