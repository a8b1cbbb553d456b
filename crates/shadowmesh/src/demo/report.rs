//! What the demo found out: as a table for a person, as JSON for a program.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::bad_network::{Blocked, Lossy};
use super::format;
use super::lan::Joined;
use super::ping::Echoes;
use super::progress::Style;
use super::table::Table;
use super::tcp::Transferred;

/// Moving to another address must not interrupt the link for longer.
const ROAMING_GAP_MS_MAX: f64 = 500.0;
/// Below this many heap allocations a packet, what is shown is 0.00.
const ALLOCATIONS_PER_PACKET_MAX: f64 = 0.005;

/// The JSON object of `demo --json`. Parts that were not reached are `null`.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Of this format: 1.
    pub(super) version: u32,
    /// Whether every step held.
    pub(super) ok: bool,
    /// How long the demo took.
    pub(super) seconds: f64,
    /// The steps in order.
    pub(super) steps: Vec<StepReport>,
    pub(super) handshake: Option<Handshake>,
    pub(super) ping: Option<Ping>,
    /// Left to right, right to left, and several flows at once.
    pub(super) throughput: Vec<Throughput>,
    pub(super) roaming: Option<Roaming>,
    pub(super) rekey: Option<Rekey>,
    pub(super) allocations: Option<Allocations>,
    pub(super) drops: Option<Drops>,
    pub(super) joined: Option<Joined>,
    pub(super) blocked: Option<Blocked>,
    pub(super) lossy: Option<Lossy>,
}

/// One step.
#[derive(Debug, Serialize)]
pub(super) struct StepReport {
    pub(super) name: &'static str,
    pub(super) ok: bool,
    pub(super) seconds: f64,
    /// The line that a person sees.
    pub(super) detail: String,
}

/// What a step has found out.
pub(super) trait Finding {
    /// Whether it is as it has to be.
    fn held(&self) -> bool;
    /// In one line.
    fn detail(&self) -> String;
}

/// That something was done, and what came of it.
pub(super) struct Note<T> {
    pub(super) value: T,
    pub(super) detail: String,
}

/// What became of all packets, both nodes together.
#[derive(Debug, Serialize)]
pub(super) struct Drops {
    /// Inner packets that went into the tunnel, and that came out of it.
    pub(super) sent: u64,
    pub(super) received: u64,
    /// Trains of datagrams that the kernel threw away because a node's socket buffer was full.
    pub(super) socket_overruns: u64,
    /// How many the left node dropped, by reason.
    pub(super) left: Reasons,
    /// How many the right node dropped, by reason.
    pub(super) right: Reasons,
}

/// Packets by why they were dropped.
pub(super) type Reasons = BTreeMap<String, u64>;

/// The first handshake.
#[derive(Debug, Serialize)]
pub(super) struct Handshake {
    /// From the first message to the session.
    pub(super) ms: Option<f64>,
    pub(super) protocol: String,
    pub(super) post_quantum: bool,
    pub(super) cipher: Option<String>,
}

/// Echo requests through the overlay.
#[derive(Debug, Serialize)]
pub(super) struct Ping {
    pub(super) sent: usize,
    pub(super) lost: usize,
    pub(super) avg_ms: Option<f64>,
    pub(super) p99_ms: Option<f64>,
    pub(super) max_ms: Option<f64>,
}

/// One TCP transfer, every byte of which was right.
#[derive(Debug, Serialize)]
pub(super) struct Throughput {
    pub(super) direction: &'static str,
    pub(super) flows: usize,
    /// Payload received and compared.
    pub(super) bytes: u64,
    pub(super) seconds: f64,
    pub(super) bits_per_second: f64,
}

/// A change of address while the link is full.
#[derive(Debug, Serialize)]
pub(super) struct Roaming {
    pub(super) from: String,
    pub(super) to: String,
    /// The longest silence, either way, from the moment of the change on.
    pub(super) gap_ms: f64,
    /// The longest silence before it, for comparison.
    pub(super) gap_before_ms: f64,
    pub(super) probes_sent: u64,
    pub(super) probes_lost: u64,
    /// What the TCP flow that filled the link carried meanwhile, every byte right.
    pub(super) tcp_bytes: u64,
    /// The longest time that TCP flow stood still.
    pub(super) tcp_gap_ms: f64,
}

/// Fresh keys while packets flow.
#[derive(Debug, Serialize)]
pub(super) struct Rekey {
    pub(super) rekeys: u32,
    pub(super) packets_sent: u64,
    pub(super) packets_lost: u64,
}

/// Heap allocations of the data-plane threads.
#[derive(Debug, Serialize)]
pub(super) struct Allocations {
    /// Inner packets that entered or left a tunnel, both nodes together.
    pub(super) packets: u64,
    pub(super) count: u64,
    pub(super) per_packet: f64,
}

impl Finding for Handshake {
    fn held(&self) -> bool {
        self.post_quantum
    }

    fn detail(&self) -> String {
        let kind = if self.post_quantum { "post-quantum" } else { "NOT post-quantum" };
        [self.ms.map(format::millis), Some(kind.to_owned()), self.cipher.clone()]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(" · ")
    }
}

impl Ping {
    pub(super) fn new(echoes: &Echoes) -> Self {
        let ms = |time: Option<Duration>| time.map(millis);
        Self {
            sent: echoes.sent,
            lost: echoes.lost(),
            avg_ms: ms(echoes.average()),
            p99_ms: ms(echoes.percentile(99)),
            max_ms: ms(echoes.percentile(100)),
        }
    }
}

impl Finding for Ping {
    fn held(&self) -> bool {
        self.lost == 0
    }

    fn detail(&self) -> String {
        let part = |name, value: Option<f64>| value.map(|value| format!("{name} {}", format::millis(value)));
        let lost = Some(format!("{} of {} lost", self.lost, self.sent));
        let parts = [part("avg", self.avg_ms), part("p99", self.p99_ms), lost];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" · ")
    }
}

impl Throughput {
    pub(super) fn new(direction: &'static str, flows: usize, transferred: &Transferred) -> Self {
        Self {
            direction,
            flows,
            bytes: transferred.bytes,
            seconds: seconds(transferred.elapsed),
            bits_per_second: transferred.bits_per_second().round(),
        }
    }

    fn name(&self) -> String {
        match (self.flows, self.direction) {
            (1, "right_to_left") => "TCP right → left".to_owned(),
            (1, _) => "TCP left → right".to_owned(),
            (flows, _) => format!("TCP, {flows} flows"),
        }
    }
}

impl Finding for Throughput {
    fn held(&self) -> bool {
        self.bytes > 0
    }

    fn detail(&self) -> String {
        format!("{} · {}, every byte right", format::rate(self.bits_per_second), format::bytes(self.bytes))
    }
}

impl Finding for Roaming {
    fn held(&self) -> bool {
        self.gap_ms <= ROAMING_GAP_MS_MAX && self.tcp_bytes > 0
    }

    fn detail(&self) -> String {
        format!(
            "gap {} ({} before) · {} {} lost",
            format::millis(self.gap_ms),
            format::millis(self.gap_before_ms),
            format::count(self.probes_lost),
            if self.probes_lost == 1 { "probe" } else { "probes" },
        )
    }
}

impl Finding for Rekey {
    fn held(&self) -> bool {
        self.packets_lost == 0 && self.rekeys > 0
    }

    fn detail(&self) -> String {
        format!(
            "{} of {} packets lost in {} rekeys",
            format::count(self.packets_lost),
            format::count(self.packets_sent),
            self.rekeys
        )
    }
}

impl Allocations {
    pub(super) fn new(packets: u64, count: u64) -> Self {
        Self { packets, count, per_packet: count as f64 / packets.max(1) as f64 }
    }
}

impl Finding for Allocations {
    fn held(&self) -> bool {
        self.packets > 0 && self.per_packet < ALLOCATIONS_PER_PACKET_MAX
    }

    fn detail(&self) -> String {
        format!(
            "{:.2} a packet · {} over {} packets",
            self.per_packet,
            format::count(self.count),
            format::count(self.packets)
        )
    }
}

impl Finding for Drops {
    fn held(&self) -> bool {
        // Each was counted, which is what is asked.
        true
    }

    fn detail(&self) -> String {
        let sides = [("left", &self.left), ("right", &self.right)];
        let dropped: Vec<_> = sides
            .iter()
            .flat_map(|(node, reasons)| reasons.iter().map(move |reason| (node, reason)))
            .map(|(node, (reason, packets))| format!("{node} {reason} {}", format::count(*packets)))
            .collect();
        if dropped.is_empty() { "none".to_owned() } else { dropped.join(", ") }
    }
}

impl Drops {
    /// What was lost between the nodes: at a socket that was full, or on the way to the old address of one
    /// that moved.
    fn lost_between(&self) -> String {
        let lost = self.sent.saturating_sub(self.received);
        let overruns = match self.socket_overruns {
            0 => String::new(),
            1 => " · 1 full socket".to_owned(),
            overruns => format!(" · {} full sockets", format::count(overruns)),
        };
        format!("{} of {}{overruns}", format::count(lost), format::count(self.sent))
    }
}

impl<T> Finding for Note<T> {
    fn held(&self) -> bool {
        true
    }

    fn detail(&self) -> String {
        self.detail.clone()
    }
}

impl Report {
    pub(super) fn new() -> Self {
        Self {
            version: 1,
            ok: false,
            seconds: 0.0,
            steps: Vec::new(),
            handshake: None,
            ping: None,
            throughput: Vec::new(),
            roaming: None,
            rekey: None,
            allocations: None,
            drops: None,
            joined: None,
            blocked: None,
            lossy: None,
        }
    }

    /// The report of a machine that lacks something.
    pub(super) fn not_begun(missing: &str) -> Self {
        let mut report = Self::new();
        let step = StepReport { name: "requirements", ok: false, seconds: 0.0, detail: missing.to_owned() };
        report.steps.push(step);
        report
    }

    /// Whether every step there was held.
    pub(super) fn all_held(&self) -> bool {
        !self.steps.is_empty() && self.steps.iter().all(|step| step.ok)
    }

    /// The results, aligned, with what each had to be; `None` without any.
    pub(super) fn table(&self, style: Style) -> Option<String> {
        let mut table = Table::new(["", "Measured", "Result", "Required"]);
        let row = |table: &mut Table<_>, held, name: &str, result: String, required: &str| {
            let mark = if held { "✓" } else { "✗" };
            table.row([mark.to_owned(), name.to_owned(), result, required.to_owned()]);
        };
        if let Some(handshake) = &self.handshake {
            row(&mut table, handshake.held(), "Handshake", handshake.detail(), "post-quantum");
        }
        if let Some(ping) = &self.ping {
            row(&mut table, ping.held(), "Ping", ping.detail(), "none lost");
        }
        for throughput in &self.throughput {
            row(&mut table, throughput.held(), &throughput.name(), throughput.detail(), "every byte");
        }
        if let Some(roaming) = &self.roaming {
            row(
                &mut table,
                roaming.held(),
                "Roaming",
                roaming.detail(),
                &format!("≤ {ROAMING_GAP_MS_MAX:.0} ms"),
            );
        }
        if let Some(rekey) = &self.rekey {
            row(&mut table, rekey.held(), "Rekey", rekey.detail(), "none lost");
        }
        if let Some(allocations) = &self.allocations {
            row(&mut table, allocations.held(), "Heap allocations", allocations.detail(), "0.00");
        }
        if let Some(drops) = &self.drops {
            row(&mut table, drops.held(), "Packets dropped", drops.detail(), "all counted");
            table.row([String::new(), "Lost in between".to_owned(), drops.lost_between(), String::new()]);
        }
        if let Some(joined) = &self.joined {
            row(&mut table, joined.held(), "Third on a LAN", joined.detail(), "none lost");
        }
        if let Some(blocked) = &self.blocked {
            row(&mut table, blocked.held(), "UDP blocked", blocked.detail(), "≤ 3,000 ms");
        }
        if let Some(lossy) = &self.lossy {
            row(&mut table, lossy.held(), "5 % loss, 20 ms", lossy.detail(), "every byte");
        }
        table.render(style)
    }
}

/// Milliseconds as JSON has them, to a microsecond.
pub(super) fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}

/// Seconds as JSON has them, to a microsecond.
pub(super) fn seconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Report {
        let mut report = Report::new();
        let transferred = Transferred {
            bytes: 5_611_000_000,
            elapsed: Duration::from_secs(3),
            gap: Duration::from_millis(1),
        };
        report.handshake = Some(Handshake {
            ms: Some(1.87),
            protocol: "shadowmesh".into(),
            post_quantum: true,
            cipher: Some("AES-256-GCM".into()),
        });
        report.ping =
            Some(Ping { sent: 100, lost: 0, avg_ms: Some(0.061), p99_ms: Some(0.11), max_ms: Some(0.2) });
        report.throughput = vec![
            Throughput::new("left_to_right", 1, &transferred),
            Throughput::new("right_to_left", 1, &transferred),
            Throughput::new("left_to_right", 4, &transferred),
        ];
        report.rekey = Some(Rekey { rekeys: 4, packets_sent: 20_000, packets_lost: 1 });
        report.drops = Some(Drops {
            sent: 5_000_000,
            received: 4_998_800,
            socket_overruns: 0,
            left: Reasons::new(),
            right: Reasons::from([("egress_sojourn".to_owned(), 1_200)]),
        });
        report
    }

    #[test]
    fn the_table_shows_each_result_beside_what_is_required() {
        let table = full().table(Style::PLAIN).unwrap();
        let expected = [
            "   Measured          Result                                       Required",
            "   ────────────────  ───────────────────────────────────────────  ────────────",
            "✓  Handshake         1.87 ms · post-quantum · AES-256-GCM         post-quantum",
            "✓  Ping              avg 0.061 ms · p99 0.110 ms · 0 of 100 lost  none lost",
            "✓  TCP left → right  15.0 Gbit/s · 5.61 GB, every byte right      every byte",
            "✓  TCP right → left  15.0 Gbit/s · 5.61 GB, every byte right      every byte",
            "✓  TCP, 4 flows      15.0 Gbit/s · 5.61 GB, every byte right      every byte",
            "✗  Rekey             1 of 20,000 packets lost in 4 rekeys         none lost",
            "✓  Packets dropped   right egress_sojourn 1,200                   all counted",
            "   Lost in between   1,200 of 5,000,000",
        ];
        assert_eq!(table.lines().collect::<Vec<_>>(), expected, "\n{table}");
    }

    #[test]
    fn a_step_that_failed_or_none_at_all_is_not_ok() {
        let mut report = Report::new();
        assert!(!report.all_held());
        let step = |ok| StepReport { name: "ping", ok, seconds: 1.0, detail: String::new() };
        report.steps.push(step(true));
        assert!(report.all_held());
        report.steps.push(step(false));
        assert!(!report.all_held());
    }

    #[test]
    fn thresholds_are_where_they_are_documented() {
        assert!(Allocations::new(1_000, 4).held());
        assert!(!Allocations::new(1_000, 5).held());
        assert!(!Allocations::new(0, 0).held(), "nothing moved, nothing shown");
        assert!(!Rekey { rekeys: 0, packets_sent: 10, packets_lost: 0 }.held());
        let roaming = |gap_ms| Roaming {
            from: String::new(),
            to: String::new(),
            gap_ms,
            gap_before_ms: 0.0,
            probes_sent: 1,
            probes_lost: 1,
            tcp_bytes: 1,
            tcp_gap_ms: 0.0,
        };
        assert!(roaming(500.0).held());
        assert!(!roaming(500.1).held());
    }

    #[test]
    fn json_names_what_was_not_reached_as_null() {
        let json = serde_json::to_value(Report::new()).unwrap();
        assert_eq!(json["version"], 1);
        for part in
            ["handshake", "ping", "roaming", "rekey", "allocations", "drops", "joined", "blocked", "lossy"]
        {
            assert!(json[part].is_null(), "{part}");
        }
        assert_eq!(serde_json::to_value(full()).unwrap()["throughput"][2]["flows"], 4);
    }
}
