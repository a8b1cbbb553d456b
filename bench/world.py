"""One contender's world: two namespaces, a link between them, daemons, and what they cost."""
import contextlib
import glob
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
REPO = os.path.dirname(HERE)
TOOLS = os.path.join(HERE, "tools")
RESULTS = os.path.join(HERE, "results")
RUN = os.path.join(HERE, "scratch")
NSL, NSR = "bnchL", "bnchR"
UL, UR = "192.0.2.1", "192.0.2.2"        # underlay
OL, OR = "10.77.0.1", "10.77.0.2"        # overlay
IPERF_PORT = 5201
TICK = os.sysconf("SC_CLK_TCK")
ENV = dict(os.environ, PATH=":".join([TOOLS, os.path.join(TOOLS, "bin"), os.environ["PATH"], "/usr/sbin", "/sbin"]))

CONTENDERS = {}


def contender(name, needs=(), baseline=False, kind="tunnel", version=None):
    """Register `setup(c)`. kind: tunnel | floor | proxy. `needs`: binaries that must exist.
    setup() starts its daemons with c.spawn(); a proxy returns {"host":…, "port":…} to dial
    in the left namespace to reach RIGHT:5201; a tunnel returns None (the overlay is dialled)."""
    def deco(f):
        CONTENDERS[name] = dict(name=name, setup=f, needs=list(needs), baseline=baseline, kind=kind, version=version)
        return f
    return deco


def which(b):
    return b if os.path.isabs(b) and os.access(b, os.X_OK) else shutil.which(b, path=ENV["PATH"])


def runnable(k):
    return all(which(b) for b in k["needs"])


def sh(cmd, check=True, timeout=20, inp=None):
    r = subprocess.run(cmd, shell=isinstance(cmd, str), env=ENV, input=inp, text=True,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout)
    if check and r.returncode:
        raise RuntimeError(f"{cmd!r} -> {r.returncode}: {r.stderr.strip()[-400:]} {r.stdout.strip()[-200:]}")
    return r.stdout


# ------------------------------------------------------------------ /proc accounting
def children_map():
    m = {}
    for d in os.listdir("/proc"):
        if d.isdigit():
            try:
                s = open(f"/proc/{d}/stat").read()
                m.setdefault(int(s[s.rindex(")") + 2:].split()[1]), []).append(int(d))
            except OSError:
                pass
    return m


def tree(pids):
    m, out, todo = children_map(), set(), list(pids)
    while todo:
        p = todo.pop()
        if p not in out:
            out.add(p)
            todo += m.get(p, [])
    return out


def cpu_seconds(pids):
    """(user, system) seconds of whole processes, all threads, plus reaped children."""
    u = s = 0
    for p in tree(pids):
        try:
            st = open(f"/proc/{p}/stat").read()
            f = st[st.rindex(")") + 2:].split()
            u += int(f[11]) + int(f[13])
            s += int(f[12]) + int(f[14])
        except OSError:
            pass
    return u / TICK, s / TICK


def ctxt_switches(pids):
    n = 0
    for p in tree(pids):
        for st in glob.glob(f"/proc/{p}/task/*/status"):
            with contextlib.suppress(OSError):
                for line in open(st):
                    if "ctxt_switches" in line:
                        n += int(line.split()[1])
    return n


def rss_peak_kb(pids):
    n = 0
    for p in tree(pids):
        with contextlib.suppress(OSError):
            m = re.search(r"VmHWM:\s+(\d+)", open(f"/proc/{p}/status").read())
            n += int(m.group(1)) if m else 0
    return n


def box_cpu():
    f = list(map(int, open("/proc/stat").readline().split()[1:9]))
    return dict(user=f[0] + f[1], sys=f[2], idle=f[3] + f[4], irq=f[5] + f[6], steal=f[7])


def box_diff(a, b):
    d = {k: b[k] - a[k] for k in a}
    tot = sum(d.values()) or 1
    return {"busy_pct": round(100 * (tot - d["idle"]) / tot, 1), "irq_pct": round(100 * d["irq"] / tot, 1),
            "steal_pct": round(100 * d["steal"] / tot, 1), "busy_s": (tot - d["idle"]) / TICK}


# ------------------------------------------------------------------ one contender's world
class Ctx:
    nsl, nsr, ul, ur, ol, orr = NSL, NSR, UL, UR, OL, OR

    def __init__(self, name, cc="cubic", underlay="veth", emu=None):
        self.name, self.cc, self.underlay, self.emu = name, cc, underlay, emu
        self.daemons, self.aux, self.cleanup = [], [], []
        self.status = None          # a contender may set it: () -> the JSON status of its daemons, left first
        self.dir = os.path.join(RUN, re.sub(r"\W", "_", name))
        shutil.rmtree(self.dir, ignore_errors=True)
        os.makedirs(self.dir)

    # ---- helpers for setup functions
    def sh(self, ns, cmd, **k):
        if isinstance(cmd, str):
            cmd = ["sh", "-c", cmd]
        return sh(["ip", "netns", "exec", ns] + cmd, **k)

    def left(self, cmd, **k):
        return self.sh(NSL, cmd, **k)

    def right(self, cmd, **k):
        return self.sh(NSR, cmd, **k)

    def spawn(self, ns, cmd, aux=False, env=None, log=None):
        """Start a daemon in a namespace; its CPU and RSS are charged to the contender (not if aux)."""
        side = "L" if ns == NSL else "R"
        n = log or f"{os.path.basename(cmd[0])}-{side}-{len(self.daemons) + len(self.aux)}.log"
        f = open(os.path.join(self.dir, n), "wb")
        p = subprocess.Popen(["ip", "netns", "exec", ns] + cmd, stdin=subprocess.DEVNULL, stdout=f, stderr=f,
                             cwd=self.dir, env=dict(ENV, **(env or {})), start_new_session=True)
        p.side = side
        (self.aux if aux else self.daemons).append(p)
        return p

    def write(self, fn, text, mode=0o600):
        p = os.path.join(self.dir, fn)
        with open(p, "w") as f:
            f.write(text)
        os.chmod(p, mode)
        return p

    def wait(self, what, f, timeout=10):
        end = time.time() + timeout
        while time.time() < end:
            for p in self.daemons:
                if p.poll() not in (None, 0):
                    raise RuntimeError(f"daemon exited {p.returncode} while waiting for {what}: {self.tail()}")
            try:
                if f():
                    return
            except Exception:
                pass
            time.sleep(0.05)
        raise RuntimeError(f"timeout waiting for {what}: {self.tail()}")

    def tail(self):
        out = ""
        for f in sorted(glob.glob(self.dir + "/*.log")):
            with contextlib.suppress(OSError):
                out += f"[{os.path.basename(f)}] " + open(f, errors="replace").read()[-300:].strip() + " "
        return out[:1500]

    def wait_if(self, ns, ifn):
        self.wait(f"{ifn} in {ns}", lambda: self.sh(ns, ["ip", "link", "show", ifn]))

    def up(self, ns, ifn, ip, peer, mtu=None):
        """Address, peer route and MTU on a TUN."""
        self.sh(ns, f"ip addr replace {ip}/24 dev {ifn} && ip link set {ifn} {'mtu %d' % mtu if mtu else ''} up")

    def wait_listen(self, ns, port, proto="tcp", timeout=8):
        pid = self.holder[ns].pid
        want = f"{port:04X}"

        def f():
            for fam in (proto, proto + "6"):
                for line in open(f"/proc/{pid}/net/{fam}").read().splitlines()[1:]:
                    x = line.split()
                    if x[1].endswith(":" + want) and (proto == "udp" or x[3] == "0A"):
                        return True
        self.wait(f"{proto} port {port} in {ns}", f, timeout)

    # ---- topology
    def __enter__(self):
        for ns in (NSL, NSR):
            subprocess.run(["ip", "netns", "del", ns], stderr=subprocess.DEVNULL)
            sh(["ip", "netns", "add", ns])
            self.sh(ns, f"ip link set lo up; sysctl -qw net.ipv4.tcp_congestion_control={self.cc}")
            for kv in ("net.ipv4.tcp_no_metrics_save=1", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0"):
                self.sh(ns, ["sysctl", "-qw", kv], check=False)
        self.holder = {ns: subprocess.Popen(["ip", "netns", "exec", ns, "sleep", "100000"]) for ns in (NSL, NSR)}
        try:
            if self.emu:
                e = self.emu
                self.lossfile = self.write("loss", "0")
                self.emup = subprocess.Popen(
                    [which("linkemu"), NSL, "ul0", NSR, "ul0", str(int(e["delay_ms"] * 1000)), "0", str(e["rate_kbit"]),
                     str(e["queue"]), str(e.get("seed", 1)), self.lossfile], stderr=open(self.dir + "/linkemu.txt", "w"))
                for ns in (NSL, NSR):
                    self.wait_if(ns, "ul0")
            else:
                sh(f"ip link add ul0 netns {NSL} type veth peer name ul0 netns {NSR}")
            for ns, ip in ((NSL, UL), (NSR, UR)):
                self.sh(ns, f"ip link set ul0 mtu 1500 txqueuelen 1000 up; ip addr add {ip}/24 dev ul0")
                if self.underlay != "veth" and not self.emu:
                    # mtu: every packet on the wire is MTU-sized. nic: the same, but the receiver has NAPI and GRO as a real card has
                    self.sh(ns, f"ethtool -K ul0 tso off gso off tx-udp-segmentation off tx off gro {'on' if self.underlay == 'nic' else 'off'}")
            self.wait("underlay", lambda: self.left(["ping", "-c1", "-W1", UR]))
        except Exception:
            self.__exit__()
            raise
        return self

    def set_loss(self, pct):
        if self.emu:
            open(self.lossfile, "w").write(str(int(pct * 100)))
            os.kill(self.emup.pid, signal.SIGUSR1)
            return
        for ns in (NSL, NSR):
            self.sh(ns, "nft delete table netdev bnch 2>/dev/null; true")
            if pct:
                self.sh(ns, ["nft", "-f", "-"], inp="table netdev bnch {\n chain i {\n  type filter hook ingress device \"ul0\" priority 0\n"
                        f"  numgen random mod 10000 < {int(pct * 100)} counter drop\n }}\n}}\n")

    def __exit__(self, *a):
        for f in reversed(self.cleanup):
            with contextlib.suppress(Exception):
                f()
        emup = getattr(self, "emup", None)
        procs = self.aux + self.daemons + list(getattr(self, "holder", {}).values()) + ([emup] if emup else [])
        for s in (signal.SIGTERM, signal.SIGKILL):
            live = [p for p in procs if p.poll() is None]
            kids = tree([p.pid for p in live]) if live else ()
            for pid in kids:
                with contextlib.suppress(OSError):
                    os.kill(pid, s)
            end = time.time() + 1.5
            while time.time() < end and any(p.poll() is None for p in procs):
                time.sleep(0.02)
        for ns in (NSL, NSR):
            subprocess.run(["ip", "netns", "del", ns], stderr=subprocess.DEVNULL)
        return False

    # ---- measuring
    def pids(self, side=None):
        return [p.pid for p in self.daemons if side in (None, p.side)]

    def idle(self, secs):
        """CPU of the daemons while nothing is sent, in percent of one core."""
        before = [sum(cpu_seconds(self.pids(s))) for s in "LR"]
        t = time.time()
        time.sleep(secs)
        used = [100 * (sum(cpu_seconds(self.pids(s))) - b) / (time.time() - t) for s, b in zip("LR", before)]
        return {"left_cpu_pct": round(used[0], 2), "both_cpu_pct": round(sum(used), 2)}

    @contextlib.contextmanager
    def account(self, rec):
        c0, b0, x0, t0 = cpu_seconds(self.pids()), box_cpu(), ctxt_switches(self.pids()), time.time()
        yield
        c1, b1, x1 = cpu_seconds(self.pids()), box_cpu(), ctxt_switches(self.pids())
        rec["daemon_user_s"], rec["daemon_sys_s"] = round(c1[0] - c0[0], 3), round(c1[1] - c0[1], 3)
        rec["daemon_cpu_s"] = round(rec["daemon_user_s"] + rec["daemon_sys_s"], 3)
        rec["ctxt_per_s"] = round((x1 - x0) / (time.time() - t0))
        rec["box"] = box_diff(b0, b1)

    def iperf(self, args, secs, target=None, grace=12):
        host, port = target or (OR, IPERF_PORT)
        srv = subprocess.Popen(["ip", "netns", "exec", NSR, "iperf3", "-s", "-1", "-p", str(IPERF_PORT)],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENV)
        try:
            self.wait_listen(NSR, IPERF_PORT)
            r = subprocess.run(["ip", "netns", "exec", NSL, "iperf3", "-c", host, "-p", str(port), "-t", str(secs), "-J",
                                "--connect-timeout", "6000", "--get-server-output"] + args,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=secs + grace, env=ENV)
            j = json.loads(r.stdout)
            if "error" in j:
                raise RuntimeError(j["error"])
            return j
        finally:
            with contextlib.suppress(Exception):
                srv.terminate()
                srv.wait(1)
            if srv.poll() is None:
                srv.kill()
                srv.wait()

    def tcp(self, secs, args=(), target=None, grace=12):
        rec = {}
        with self.account(rec):
            j = self.iperf(list(args), secs, target, grace)
        e = j["end"]
        by = e["sum_received"]["bytes"]
        rec["mbps"] = round(e["sum_received"]["bits_per_second"] / 1e6, 2)
        rec["gb"] = by / 1e9
        rec["retrans"] = e["sum_sent"].get("retransmits")
        if by:
            rec["daemon_cpu_s_per_gb"] = round(rec["daemon_cpu_s"] / (by / 1e9), 3)
            rec["box_cpu_s_per_gb"] = round(rec["box"]["busy_s"] / (by / 1e9), 3)
        cu = e.get("cpu_utilization_percent", {})
        rec["iperf_cpu_pct"] = round(cu.get("host_total", 0) + cu.get("remote_total", 0), 1)
        return rec

    def udp(self, secs, size, rate="0", target=None, grace=12):
        rec = {}
        with self.account(rec):
            j = self.iperf(["-u", "-b", rate, "-l", str(size)], secs, target, grace)
        e = j["end"]["sum"]
        so = (j.get("server_output_json") or {}).get("end", {}).get("sum") or e
        sent = e["packets"]
        got = max(0, so["packets"] - so["lost_packets"])
        rec.update(sent_pps=round(sent / e["seconds"]), recv_pps=round(got / e["seconds"]),
                   loss_pct=round(100 * (1 - got / sent), 3) if sent else None,
                   mbps=round(got * size * 8 / e["seconds"] / 1e6, 2))
        if got:
            rec["daemon_cpu_us_per_pkt"] = round(rec["daemon_cpu_s"] * 1e6 / got, 3)
        return rec

    def ping(self, n=1000, interval=0.001, target=OR, size=56):
        r = subprocess.run(["ip", "netns", "exec", NSL, "ping", "-n", "-i", str(interval), "-c", str(n), "-s", str(size),
                            "-w", str(int(n * interval + 6)), target], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                           timeout=n * interval + 15, env=ENV)
        ts = sorted(float(x) for x in re.findall(r"time=([\d.]+) ms", r.stdout))
        m = re.search(r"(\d+) packets transmitted, (\d+) received", r.stdout)
        tx, rx = (int(m.group(1)), int(m.group(2))) if m else (n, len(ts))
        if not ts:
            return dict(loss_pct=100.0)
        q = lambda p: ts[min(len(ts) - 1, int(p * len(ts)))]
        return dict(avg=round(statistics.fmean(ts), 4), p50=q(.5), p99=q(.99), max=ts[-1], min=ts[0],
                    loss_pct=round(100 * (1 - rx / max(tx, 1)), 3))
