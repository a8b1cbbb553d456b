//! Random faults, then a quiet time in which everything must work again.
//!
//! `SIM_SEEDS=1000 cargo test -p sim --test faults` tries more seeds than CI does; `SIM_SEED=17` replays one.

use std::net::IpAddr;
use std::time::Duration;

use handshake::Protocol;
use sim::{Dice, LinkConfig, Load, NodeId, NodeSpec, PeerOptions, Uplink, World};

const SECOND: Duration = Duration::from_secs(1);
/// After all faults have ended: a handshake may just have failed (5 s and jitter), or a peer's restart may not have been
/// noticed yet (15 s), or both.
const RECOVERY: Duration = Duration::from_secs(30);

/// Seeds to try: what the environment says, or 20.
fn seeds() -> Vec<u64> {
    let number = |name| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    match number("SIM_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("SIM_SEEDS").unwrap_or(20)).collect(),
    }
}

struct Chaos {
    world: World,
    nodes: Vec<NodeId>,
    dice: Dice,
    paused: Vec<bool>,
}

impl Chaos {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0xc4a0_5000);
        let mut world = World::new(seed);
        let count = 2 + dice.below(2) as usize;
        let nodes: Vec<NodeId> = (0..count)
            .map(|_| {
                world.add(NodeSpec {
                    workers: 1 + dice.below(3) as usize,
                    offloads: dice.chance(0.8),
                    gro: dice.chance(0.8),
                    ..NodeSpec::default()
                })
            })
            .collect();
        for a in 0..count {
            for b in a + 1..count {
                let wireguard = dice.chance(0.25);
                world.peer_with(
                    nodes[a],
                    nodes[b],
                    &PeerOptions {
                        protocol: if wireguard { Protocol::WireGuard } else { Protocol::ShadowMesh },
                        preshared_key: dice.chance(0.3),
                        host_names: true,
                        keepalive: dice.chance(0.3).then_some(10 * SECOND),
                        ..PeerOptions::default()
                    },
                );
            }
        }
        Self { world, paused: vec![false; nodes.len()], nodes, dice }
    }

    fn traffic(&mut self) {
        for &from in &self.nodes {
            for &to in self.nodes.iter().filter(|&&to| to != from) {
                let tcp = self.world.tcp(from, to);
                let udp = self.world.udp(from, to);
                let every = Duration::from_millis(20);
                let bulk = Load { bytes: 9_000, segment_bytes: Some(1_200), every, ticks: 4_000 };
                self.world.generate(tcp, bulk);
                self.world.generate(udp, Load { bytes: 100, segment_bytes: None, every, ticks: 4_000 });
            }
        }
    }

    fn pick(&mut self) -> usize {
        self.dice.below(self.nodes.len() as u64) as usize
    }

    fn bad_link(&mut self) -> LinkConfig {
        let dice = &mut self.dice;
        let mut some = |most: f64| if dice.chance(0.5) { most * dice.below(100) as f64 / 100.0 } else { 0.0 };
        let (loss, duplicate, reorder, corrupt) = (some(0.3), some(0.2), some(0.2), some(0.1));
        LinkConfig {
            latency: dice.up_to(Duration::from_millis(200)),
            jitter: dice.up_to(Duration::from_millis(20)),
            rate_bps: dice.chance(0.3).then(|| 1_000_000 + dice.below(50_000_000)),
            mtu: if dice.chance(0.2) { 1_280 } else { 1_500 },
            loss,
            duplicate,
            reorder,
            corrupt,
            ..LinkConfig::default()
        }
    }

    /// One fault, or the end of one.
    fn fault(&mut self) {
        let (one, two) = (self.pick(), self.pick());
        let (a, b) = (self.nodes[one], self.nodes[two]);
        match self.dice.below(14) {
            0 | 1 => {
                let link = self.bad_link();
                self.world.set_link(a, b, link);
            }
            2 => {
                let link = self.bad_link();
                self.world.set_path(a, b, link);
            }
            3 if one != two => self.world.partition(a, b),
            4 => self.world.heal(a, b),
            5 => {
                let address = IpAddr::from([203, 0, one as u8, 1 + self.dice.below(250) as u8]);
                self.world.move_to(a, &[address]);
            }
            6 => {
                self.paused[one] = false;
                self.world.restart(a);
            }
            7 => {
                self.paused[one] = true;
                self.world.pause(a);
            }
            8 => self.thaw(one),
            9 => {
                let ahead = self.dice.up_to(Duration::from_secs(400));
                self.world.jump_clock(a, ahead);
            }
            10 if one != two => self.world.rekey(a, b),
            11 => self.world.exhaust_send_buffers(a, 50),
            12 => {
                let rate_bps = self.dice.chance(0.7).then(|| 500_000 + self.dice.below(20_000_000));
                self.world.set_uplink(a, Uplink { rate_bps, ..Uplink::default() });
            }
            13 => {
                self.world.set_tun_up(a, false);
                self.world.run_for(Duration::from_millis(300));
                self.world.set_tun_up(a, true);
            }
            _ => {}
        }
    }

    fn thaw(&mut self, node: usize) {
        if std::mem::replace(&mut self.paused[node], false) {
            self.world.resume(self.nodes[node]);
        }
    }

    /// Ends all faults.
    fn calm(&mut self) {
        for i in 0..self.nodes.len() {
            self.thaw(i);
            self.world.set_tun_up(self.nodes[i], true);
            self.world.set_uplink(self.nodes[i], Uplink::default());
            self.world.exhaust_send_buffers(self.nodes[i], 0);
            for j in 0..i {
                self.world.heal(self.nodes[i], self.nodes[j]);
            }
        }
        self.world.set_all_links(LinkConfig::default());
    }

    fn everybody_answers(&mut self) {
        for from in self.nodes.clone() {
            for to in self.nodes.clone() {
                if from == to {
                    continue;
                }
                let flow = self.world.udp(from, to);
                for _ in 0..3 {
                    self.world.send(flow, 1_000, None);
                    self.world.run_for(Duration::from_millis(500));
                }
                let report = self.world.flow(flow);
                assert_eq!(report.missing(), 0, "{from:?} to {to:?}, after all faults have ended");
            }
        }
    }
}

#[test]
fn whatever_happens_everything_works_again_afterwards() {
    for seed in seeds() {
        let mut chaos = Chaos::new(seed);
        chaos.traffic();
        for _ in 0..40 {
            let pause = chaos.dice.up_to(Duration::from_millis(2_500));
            chaos.world.run_for(pause);
            chaos.fault();
        }
        chaos.calm();
        chaos.world.run_for(RECOVERY);
        chaos.everybody_answers();
        chaos.world.settle();
    }
}
