"""A horizontal bar chart as SVG, written by hand: no plotting library, and the same bytes for the same figures."""
from xml.sax.saxutils import escape

from report import get, stat3

WIDTH, LABEL, RIGHT, BAR, GAP, GROUP, TOP = 860, 150, 110, 18, 6, 46, 64
OURS, PEER, FLOOR = "#c2410c", "#64748b", "#0f766e"
STYLE = ("text{font:13px system-ui,sans-serif;fill:#1f2937}.h{font-size:15px;font-weight:600}.s{font-size:12px;fill:#64748b}"
         "@media(prefers-color-scheme:dark){text{fill:#e5e7eb}.s{fill:#94a3b8}.bg{fill:#0f172a}}.bg{fill:#fff}")


def bars(doc, floor, path="tcp1.mbps"):
    """(name, median, low, high) in Gbit/s, best first, and the floor's median."""
    found = {}
    for name in doc["names"]:
        s = stat3([get(r.get("metrics", {}), path) for r in doc["runs"] if r["contender"] == name])
        if s:
            found[name] = tuple(x / 1000 for x in s[:3])
    mark = found.get(floor, (None,))[0]
    rows = [(n, *v) for n, v in found.items() if n not in ("veth-raw", "tun-cat", "tun-cat-gso", "shadowmesh-1000")]
    return sorted(rows, key=lambda r: -r[1]), mark


def svg(suite):
    """TCP, one flow: one group of bars an underlay mode, with the floor of that mode as a dashed line."""
    groups = []
    for mode, floor, title in (("veth", "tun-cat-gso", "veth: super-packets cross the wire whole"),
                               ("nic", "veth-raw", "nic: MTU-sized packets on the wire, GRO at the receiver")):
        doc = suite.get("modes", {}).get(mode)
        if doc:
            rows, mark = bars(doc, floor)
            if rows or mark:
                groups.append((title, floor, rows, mark))
    height = TOP + sum(GROUP + len(g[2]) * (BAR + GAP) for g in groups) + 16
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" role="img" '
           'aria-label="TCP throughput of one flow by tunnel">', f"<style>{STYLE}</style>", f'<rect class="bg" width="{WIDTH}" height="{height}"/>',
           '<text class="h" x="16" y="26">TCP, one flow, Gbit/s received</text>',
           f'<text class="s" x="16" y="46">{escape(caption(suite))}</text>']
    y = TOP
    for title, floor, rows, mark in groups:
        full = max([r[3] for r in rows] + [mark or 0]) or 1
        x = lambda v: LABEL + v / full * (WIDTH - LABEL - RIGHT)
        out.append(f'<text class="h" x="16" y="{y + 20}">{escape(title)}</text>')
        y += GROUP - 14
        begin = y
        for name, mid, low, high in rows:
            colour = OURS if name.startswith("shadowmesh") else PEER
            out.append(f'<text x="{LABEL - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>')
            out.append(f'<rect x="{LABEL}" y="{y}" width="{max(1, x(mid) - LABEL):.1f}" height="{BAR}" rx="2" fill="{colour}"/>')
            out.append(f'<path d="M{x(low):.1f} {y + BAR / 2}H{x(high):.1f}" stroke="#111827" stroke-width="1.5" opacity=".6"/>')
            out.append(f'<text x="{x(max(mid, high)) + 6:.1f}" y="{y + 13}">{mid:.2f}</text>')
            y += BAR + GAP
        if mark:
            out.append(f'<path d="M{x(mark):.1f} {begin - 4}V{y}" stroke="{FLOOR}" stroke-width="2" stroke-dasharray="5 4"/>')
            out.append(f'<text x="{x(mark):.1f}" y="{begin - 8}" text-anchor="end" style="fill:{FLOOR}">{escape(floor)} {mark:.1f}</text>')
        y += 14
    out.append("</svg>")
    return "\n".join(out) + "\n"


def caption(suite):
    m = suite.get("meta", {})
    return (f"median of {suite.get('rounds')} interleaved rounds, thin line: range; both ends and iperf3 on one machine with "
            f"{m.get('cpus')} cores ({m.get('cpu', 'unknown CPU')}), Linux {m.get('kernel')}")
