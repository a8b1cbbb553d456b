"""The goals, and whether a run met them.

Each goal compares figures taken in one round, then takes the median over the rounds: the machine may be slow or busy,
but it was so for everybody. A goal without the measurements it needs is reported as not measured, never as met.
"""
import statistics

from report import get, num, table

PEERS = ("boringtun", "gotatun", "quincy", "wireguard-go", "openvpn")
OURS = "shadowmesh"


class Rounds:
    """The figures of one underlay mode: `value(contender, path)` is a dict of round -> figure."""

    def __init__(self, doc):
        self.runs = (doc or {}).get("runs", [])

    def values(self, name, path):
        found = {r["round"]: get(r.get("metrics", {}), path) for r in self.runs if r["contender"] == name}
        return {k: v for k, v in found.items() if v is not None}

    def median(self, name, path):
        v = list(self.values(name, path).values())
        return statistics.median(v) if v else None

    def ratio(self, name, path, to):
        """`to`: a contender, or a tuple of which the best (largest) of each round counts."""
        mine, bases = self.values(name, path), [self.values(n, path) for n in ((to,) if isinstance(to, str) else to)]
        out = []
        for rnd, v in mine.items():
            base = max((b[rnd] for b in bases if b.get(rnd)), default=None)
            if base:
                out.append(v / base)
        return statistics.median(out) if out else None

    def best(self, path, names=PEERS):
        found = [(self.median(n, path), n) for n in names]
        return max(((v, n) for v, n in found if v is not None), default=(None, None))


def at_least(goal, x, text):
    return dict(measured="not measured" if x is None else text, met=None if x is None else x >= goal, value=x, goal=goal)


def at_most(goal, x, text):
    return dict(measured="not measured" if x is None else text, met=None if x is None else x <= goal, value=x, goal=goal)


def both(*parts):
    met = [p["met"] for p in parts]
    return dict(measured="; ".join(p["measured"] for p in parts), met=False if False in met else None if None in met else True,
                parts=[{k: p.get(k) for k in ("value", "goal", "met")} for p in parts])


def check(suite):
    """The rows of issue "Two machines, one encrypted link": a list of {what, goal, measured, met, …}."""
    veth, nic, mtu = (Rounds(suite.get("modes", {}).get(m)) for m in ("veth", "nic", "mtu"))
    rows = []

    def row(what, goal, result, note=""):
        rows.append(dict(what=what, goal=goal, note=note, **{("limit" if k == "goal" else k): v for k, v in result.items()}))

    def gbit(r, path, name=OURS):
        v = r.median(name, path)
        return "–" if v is None else f"{v / 1000:.2f} Gbit/s"

    for what, path in (("TCP, one flow", "tcp1.mbps"), ("TCP, four flows", "tcp4.mbps"), ("TCP, one flow, reverse", "tcp1_rev.mbps")):
        a, b = veth.ratio(OURS, path, "boringtun"), veth.ratio(OURS, path, "tun-cat-gso")
        stretch = " (stretch goal of 70 % met)" if b and b >= 0.70 else ""
        row(f"{what}, `veth`", "≥ 18 × boringtun and ≥ 55 % of tun-cat-gso",
            both(at_least(18, a, f"{gbit(veth, path)}, {num(a)} × boringtun"), at_least(0.55, b, f"{100 * (b or 0):.0f} % of tun-cat-gso{stretch}")))
    a, b = nic.ratio(OURS, "tcp1.mbps", "quincy"), nic.ratio(OURS, "tcp1.mbps", "veth-raw")
    row("TCP, one flow, `nic`", "≥ 6 × quincy and ≥ 60 % of raw veth",
        both(at_least(6, a, f"{gbit(nic, 'tcp1.mbps')}, {num(a)} × quincy"), at_least(0.60, b, f"{100 * (b or 0):.0f} % of raw")))
    a, who = mtu.ratio(OURS, "tcp1.mbps", PEERS), mtu.best("tcp1.mbps")[1]
    row("TCP, one flow, `mtu`", "≥ 3 × the best peer", at_least(3, a, f"{gbit(mtu, 'tcp1.mbps')}, {num(a)} × {who}"))
    a, who = veth.ratio(OURS, "udp200.recv_pps", PEERS), veth.best("udp200.recv_pps")[1]
    row("UDP flood, 200 bytes, received", "≥ 1.5 × the best peer",
        at_least(1.5, a, f"{num(veth.median(OURS, 'udp200.recv_pps'))} packets/s, {num(a)} × {who}"))
    us, loss = veth.median(OURS, "udp200_40k.daemon_cpu_us_per_pkt"), veth.median(OURS, "udp200_40k.loss_pct")
    row("Small packets at a paced 40,000/s", "≤ 5 µs of CPU each, 0 % loss",
        both(at_most(5, us, f"{num(us)} µs"), at_most(0, loss, f"{num(loss)} % loss")))
    a, mine = veth.ratio("boringtun", "tcp1.daemon_cpu_s_per_gb", OURS), veth.median(OURS, "tcp1.daemon_cpu_s_per_gb")
    row("Daemon CPU per GB", "≤ 1/18 of boringtun's", at_least(18, a, f"{num(mine)} s/GB, 1/{num(a)} of boringtun's"))
    idle, load = veth.median(OURS, "ping_idle.avg"), veth.median(OURS, "ping_load.p99")
    row("Ping: idle average, p99 under one TCP flow", "≤ 0.06 ms, ≤ 2.5 ms",
        both(at_most(0.06, idle, f"{num(idle)} ms"), at_most(2.5, load, f"{num(load)} ms")))
    rss = veth.median(OURS, "rss_peak_mb.both_ends")
    row("Peak memory, both ends", "≤ 64 MB", at_most(64, rss, f"{num(rss)} MB"))
    a = veth.ratio("shadowmesh-wg", "tcp1.mbps", "boringtun")
    row("`protocol = \"wireguard\"`, TCP, one flow", "≥ 9 × boringtun",
        at_least(9, a, f"{gbit(veth, 'tcp1.mbps', 'shadowmesh-wg')}, {num(a)} × boringtun"))
    al = veth.median(OURS, "status.allocations_per_packet")
    row("Heap allocations per forwarded packet", "0", at_most(0, al, "0" if al == 0 else f"{al or 0:.6f}"))
    hs = get(suite.get("hot") or {}, "handshake-responder.per_second")
    row("Full handshakes per second and core, responder", "≥ 8,000", at_least(8000, hs, f"{num(hs)}"))
    a = veth.ratio("shadowmesh-1000", "tcp1.mbps", OURS)
    rss, idle = veth.median("shadowmesh-1000", "rss_peak_mb.left"), veth.median("shadowmesh-1000", "idle.left_cpu_pct")
    limit = 64 + 1000 * 32 / 1024
    row("1,000 peers, 10,000 routes", f"≥ 95 % of one peer's throughput, ≤ {limit:.0f} MB, idle CPU < 1 %",
        both(at_least(0.95, a, f"{100 * (a or 0):.0f} %"), at_most(limit, rss, f"{num(rss)} MB"), at_most(0.999, idle, f"{num(idle)} % idle CPU")))
    return rows


def markdown(rows):
    verdict = {True: "yes", False: "**no**", None: "–"}
    return table(["", "goal", "measured", "met?"], [[r["what"], r["goal"], r["measured"], verdict[r["met"]]] for r in rows])
