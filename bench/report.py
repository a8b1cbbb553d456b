"""Tables from the JSON of a run: medians, ranges, ratios within a round."""
import statistics

def get(m, path):
    for p in path.split("."):
        if not isinstance(m, dict) or p not in m:
            return None
        m = m[p]
    return m


def stat3(v):
    v = [x for x in v if x is not None]
    return (statistics.median(v), min(v), max(v), len(v)) if v else None


def num(x):
    if x is None:
        return "–"
    a = abs(x)
    return f"{x:,.0f}" if a >= 1000 else f"{x:.0f}" if a >= 100 else f"{x:.1f}" if a >= 10 else f"{x:.2f}" if a >= .995 or x == 0 else f"{x:.3f}"


def cell(s, unit=1):
    return "–" if not s else f"{num(s[0])} ({num(s[1])}–{num(s[2])})"


TUN_COLS = [("tcp1 Mbit/s", "tcp1.mbps"), ("tcp4 Mbit/s", "tcp4.mbps"), ("rev Mbit/s", "tcp1_rev.mbps"),
            ("udp200 recv pps", "udp200.recv_pps"), ("udp200 loss %", "udp200.loss_pct"), ("40kpps loss %", "udp200_40k.loss_pct"),
            ("ping avg ms", "ping_idle.avg"), ("ping p99", "ping_idle.p99"), ("ping max", "ping_idle.max"), ("ping loss %", "ping_idle.loss_pct"),
            ("loaded avg ms", "ping_load.avg"), ("loaded p99", "ping_load.p99"), ("loaded max", "ping_load.max"), ("loaded loss %", "ping_load.loss_pct"),
            ("daemon cpu s/GB", "tcp1.daemon_cpu_s_per_gb"), ("box cpu s/GB", "tcp1.box_cpu_s_per_gb"), ("40kpps cpu µs/pkt", "udp200_40k.daemon_cpu_us_per_pkt"),
            ("RSS MB 2 ends", "rss_peak_mb.both_ends"),
            ("idle CPU %", "idle.both_cpu_pct")]
RATIO_COLS = [("tcp1", "tcp1.mbps"), ("tcp4", "tcp4.mbps"), ("rev", "tcp1_rev.mbps"), ("udp200 pps", "udp200.recv_pps"), ("ping avg", "ping_idle.avg"),
              ("loaded avg", "ping_load.avg"), ("loaded p99", "ping_load.p99"), ("daemon cpu/GB", "tcp1.daemon_cpu_s_per_gb"), ("box cpu/GB", "tcp1.box_cpu_s_per_gb"), ("RSS", "rss_peak_mb.both_ends")]


def table(head, rows):
    out = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(out + ["| " + " | ".join(r) + " |" for r in rows])


def ratios(runs, name, base, path, keyf=lambda r: r["round"]):
    b = {keyf(r): get(r.get("metrics", {}), path) for r in runs if r["contender"] == base}
    out = []
    for r in runs:
        if r["contender"] == name:
            x, y = get(r.get("metrics", {}), path), b.get(keyf(r))
            if x is not None and y:
                out.append(x / y)
    return stat3(out)


def report_tunnels(doc):
    runs, base = doc["runs"], doc["baseline"]
    names = doc["names"]
    out = [f"### Tunnels: {doc['meta']['date']}, {doc['rounds']} rounds, baseline {base}, underlay {doc.get('underlay')}, TCP {doc.get('cc')}", ""]
    vals = lambda n, p: stat3([get(r.get("metrics", {}), p) for r in runs if r["contender"] == n])
    mtu = lambda n: str(next((r["mtu"] for r in runs if r["contender"] == n and "mtu" in r), "–"))
    out.append(table(["contender", "mtu"] + [h for h, _ in TUN_COLS[:6]], [[n, mtu(n)] + [cell(vals(n, p)) for _, p in TUN_COLS[:6]] for n in names]))
    out.append("")
    out.append(table(["contender"] + [h for h, _ in TUN_COLS[6:14]], [[n] + [cell(vals(n, p)) for _, p in TUN_COLS[6:14]] for n in names]))
    out.append("")
    out.append(table(["contender"] + [h for h, _ in TUN_COLS[14:]], [[n] + [cell(vals(n, p)) for _, p in TUN_COLS[14:]] for n in names]))
    for b in [base] + ([f for f in ("veth-raw",) if f in names and f != base]):
        out += ["", f"Ratio to {b} in the same round, median (min–max):", ""]
        out.append(table(["contender"] + [h for h, _ in RATIO_COLS], [[n] + [cell(ratios(runs, n, b, p)) for _, p in RATIO_COLS] for n in names]))
    errs = {}
    for r in runs:
        if r.get("error"):
            errs.setdefault((r["contender"], "setup: " + r["error"][:200]), []).append(r["round"])
        if r.get("daemon_died"):
            errs.setdefault((r["contender"], f"daemon died {r['daemon_died']} {r.get('tail','')[:200]}"), []).append(r["round"])
        for k, v in r.get("metrics", {}).items():
            if isinstance(v, dict) and "error" in v:
                errs.setdefault((r["contender"], f"{k}: {v['error'][:160]}"), []).append(r["round"])
    if errs:
        out += ["", "Errors:"] + [f"- {n}: {e} (rounds {rs})" for (n, e), rs in errs.items()]
    return "\n".join(out)


def report_suite(suite, goals, plot):
    m = suite["meta"]
    out = [f"# Benchmark of {m['date']}", "",
           f"Commit {m['commit']}; {m.get('cpu', 'unknown CPU')}, {m['cpus']} cores; Linux {m['kernel']}; {suite['rounds']} interleaved rounds"
           + (f", durations scaled by {suite['scale']:g}" if suite["scale"] != 1 else "") + ".", "", "## Goals", "", goals, "",
           f"![TCP throughput of one flow]({plot})", "", "## Contenders", "",
           table(["contender", "version"], [[n, str(v)] for n, v in m["versions"].items()])]
    hot = suite.get("hot")
    if hot:
        out += ["", "## Hot functions", "", table(["function", "ns", "per second"], [[k, num(v["ns"]), num(v["per_second"])] for k, v in hot.items()])]
    for mode, doc in suite["modes"].items():
        out += ["", f"## Underlay `{mode}`", "", report_tunnels(doc)]
    return "\n".join(out)


SHORT_COLS = [("TCP `veth`, Gbit/s", "veth", "tcp1.mbps", 1000), ("TCP `nic`, Gbit/s", "nic", "tcp1.mbps", 1000),
              ("TCP `mtu`, Gbit/s", "mtu", "tcp1.mbps", 1000), ("CPU s/GB", "veth", "tcp1.daemon_cpu_s_per_gb", 1),
              ("ping, ms", "veth", "ping_idle.avg", 1), ("p99 under load, ms", "veth", "ping_load.p99", 1), ("memory, MB", "veth", "rss_peak_mb.both_ends", 1)]


def report_short(suite):
    """One line a contender, best first: for the README."""
    def median(name, mode, path, unit):
        runs = suite["modes"].get(mode, {}).get("runs", [])
        s = stat3([get(r.get("metrics", {}), path) for r in runs if r["contender"] == name])
        return s[0] / unit if s else None
    measured = {r["contender"] for mode in suite["modes"].values() for r in mode["runs"]}
    names = [n for n in suite["meta"]["versions"] if n in measured and n != "shadowmesh-1000"]
    floor = lambda n: n in ("veth-raw", "tun-cat-gso")
    rows = sorted(([n] + [median(n, *c[1:]) for c in SHORT_COLS] for n in names), key=lambda r: (floor(r[0]), -(r[1] or 0)))
    label = {"veth-raw": "*no tunnel*", "tun-cat-gso": "*no encryption*", "shadowmesh": "**shadowmesh**",
             "shadowmesh-wg": "shadowmesh, `protocol = \"wireguard\"`"}
    # A floor is no daemon that could use CPU or memory.
    show = lambda n, v, c: "–" if n == "veth-raw" and c[2].startswith(("tcp1.daemon", "rss")) else num(v)
    m = suite["meta"]
    return "\n".join([
        table(["one TCP flow"] + [c[0] for c in SHORT_COLS], [[label.get(r[0], r[0])] + [show(r[0], v, c) for v, c in zip(r[1:], SHORT_COLS)] for r in rows]),
        "",
        f"Medians of {suite['rounds']} interleaved rounds, both ends and the load on one machine: {m.get('cpu', '?')}, {m['cpus']} cores, Linux {m['kernel']},",
        f"commit {m['commit']}. [All figures, the goals and which were met](bench/results/latest.md).",
        "",
        "![TCP throughput of one flow](bench/results/latest.svg)"])


def report_lossy(doc):
    runs, names, scen = doc["runs"], doc["names"], doc["scenarios"]
    out = [f"### Loss/delay: {doc['meta']['date']}, {doc['rounds']} rounds, {doc['secs']} s each", ""]

    def grid(title, path, nn):
        rows = []
        for n in nn:
            r0 = [n]
            for s in scen:
                r0.append(cell(stat3([get(r.get("metrics", {}), path) for r in runs if r["contender"] == n and r["scenario"] == s])))
            rows.append(r0)
        out.extend(["", f"**{title}**", "", table(["contender"] + scen, rows)])
    t = [n for n in names if any(get(r.get("metrics", {}), "tcp1") for r in runs if r["contender"] == n)]
    u = [n for n in names if n not in t]
    grid("TCP throughput received, Mbit/s", "tcp1.mbps", t)
    grid("64 B TCP echo p50 ms", "echo.p50", t)
    grid("64 B TCP echo p99 ms", "echo.p99", t)
    grid("daemon CPU s/GB", "tcp1.daemon_cpu_s_per_gb", t)
    grid("RSS peak MB, both ends", "rss_peak_mb.both_ends", t)
    if u:
        for k in ("udp200", "udp1200", "udp1200_100M"):
            grid(f"{k} received pps", f"{k}.recv_pps", u)
            grid(f"{k} received Mbit/s", f"{k}.mbps", u)
            grid(f"{k} loss %", f"{k}.loss_pct", u)
    errs = {}
    for r in runs:
        if r.get("error"):
            errs.setdefault((r["contender"], "setup: " + r["error"][:200]), []).append(f"{r['round']}/{r['scenario']}")
        for k, v in r.get("metrics", {}).items():
            if isinstance(v, dict) and "error" in v:
                errs.setdefault((r["contender"], f"{k}: {v['error'][:160]}"), []).append(f"{r['round']}/{r['scenario']}")
    if errs:
        out += ["", "Errors:"] + [f"- {n}: {e} ({', '.join(rs)})" for (n, e), rs in errs.items()]
    return "\n".join(out)
