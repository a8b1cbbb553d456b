//! The task that owns engine and sockets: everything happens in its one loop.
//!
//! ```text
//!   commands ──┐                        ┌──► sockets
//!   sockets ───┼──► handle_* ► engine ──┤ poll_transmit
//!   netlink ───┤                        └──► mailboxes of the handles
//!   timer ─────┘                             poll_event
//! ```

use std::collections::BTreeMap;
use std::future::pending;
use std::io;
use std::time::{Duration, Instant, SystemTime};

use mdns::{
    Destination, Engine, Event, Family, InterfaceAddress, InterfaceChange, PublicationId, PublishedName,
    Transmit,
};
use os::multicast::Received;
use packet::{Class, Pool, PoolConfig};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep_until;

use crate::budget::Budget;
use crate::command::Command;
use crate::condition::{Condition, Refusals, Unsent};
use crate::interfaces::{Interface, InterfaceWatch};
use crate::monitor::Packet;
use crate::publications::Publications;
use crate::searches::Searches;
use crate::sockets::Sockets;
use crate::statistics::{InterfaceStatus, Statistics};
use crate::suspension::Suspension;

/// How long after one scan of the interfaces the next one comes without being asked for: whatever netlink has not told.
const RECONCILIATION: Duration = Duration::from_secs(20);

/// How long to wait for further changes after netlink has told of one: setting up an interface makes a dozen of them.
const SETTLING: Duration = Duration::from_millis(50);

/// A failed scan is tried again after this long.
const RETRY: Duration = Duration::from_secs(1);

/// How long to wait when the kernel has no memory for a packet: no event tells when it has.
const NO_BUFFERS_WAIT: Duration = Duration::from_millis(5);

/// How long the last goodbyes may wait for room in a full socket.
const CLOSING: Duration = Duration::from_millis(250);

/// Buffers for packets that arrive: one batch a family in hand, and one a family being filled.
const BUFFERS: usize = 4 * 32;

/// An interface in use, and the families for which its group is joined.
struct Joined {
    interface: Interface,
    ipv4: bool,
    ipv6: bool,
}

impl Joined {
    /// Whether this is the same network as before, over the same families: then only addresses have changed.
    fn is_still(&self, interface: &Interface, ipv4: bool, ipv6: bool) -> bool {
        self.interface.carrier_changes == interface.carrier_changes && (self.ipv4, self.ipv6) == (ipv4, ipv6)
    }
}

/// A packet that did not fit in the socket; its bytes are in the buffer for sending.
struct Held {
    transmit: Transmit,
    retry: Retry,
}

enum Retry {
    WhenWritable,
    At(Instant),
}

/// The end has been asked for: all goodbyes are to be sent, and `done` told.
struct Closing {
    until: Instant,
    done: Option<oneshot::Sender<()>>,
}

/// What one round of the loop found to do.
enum Input {
    Command(Option<Command>),
    Packets,
    InterfacesChanged(io::Result<()>),
    Sent(io::Result<()>),
    Time,
}

pub(crate) struct Driver {
    engine: Engine,
    sockets: Sockets,
    watch: InterfaceWatch,
    /// Netlink tells of changes no more: then scanning has to do.
    watch_failed: bool,
    scan_at: Instant,
    joined: BTreeMap<u32, Joined>,
    commands: mpsc::UnboundedReceiver<Command>,
    searches: Searches,
    publications: Publications,
    monitors: Vec<mpsc::Sender<Packet>>,
    pool: Pool,
    received: Vec<Received>,
    sending: Box<[u8]>,
    held: Option<Held>,
    suspension: Suspension,
    budget: Budget,
    refusals: Refusals,
    condition: watch::Sender<Condition>,
    /// What the driver itself counts; the rest is filled in when somebody asks.
    counted: Statistics,
    closing: Option<Closing>,
}

impl Driver {
    pub(crate) fn new(
        engine: Engine,
        sockets: Sockets,
        watch: InterfaceWatch,
        commands: mpsc::UnboundedReceiver<Command>,
        publications: Publications,
        suspension: Suspension,
        condition: watch::Sender<Condition>,
    ) -> Self {
        Self {
            engine,
            sockets,
            watch,
            watch_failed: false,
            scan_at: Instant::now(),
            joined: BTreeMap::new(),
            commands,
            searches: Searches::default(),
            publications,
            monitors: Vec::new(),
            pool: Pool::new(PoolConfig { large: 0, small: BUFFERS }),
            received: Vec::with_capacity(BUFFERS),
            sending: vec![0; Class::SMALL_BYTES].into(),
            held: None,
            suspension,
            budget: Budget::new(Instant::now()),
            refusals: Refusals::default(),
            condition,
            counted: Statistics::default(),
            closing: None,
        }
    }

    /// Looks at the interfaces for the first time.
    pub(crate) fn begin(&mut self) -> io::Result<()> {
        let now = Instant::now();
        self.look_at_port();
        let interfaces = self.watch.scan()?;
        self.scan_at = now + RECONCILIATION;
        self.use_interfaces(interfaces, now);
        Ok(())
    }

    /// Runs until somebody asks for the end, or nobody is left to ask for anything.
    pub(crate) async fn run(mut self) {
        loop {
            let now = Instant::now();
            self.notice_suspension(now);
            self.engine.handle_timeout(now);
            if self.scan_at <= now {
                self.scan(now);
            }
            self.transmit(now);
            self.dispatch();
            if let Some(closing) = self.closing.take_if(|closing| self.held.is_none() || closing.until <= now)
            {
                if let Some(done) = closing.done {
                    answer(done, ());
                }
                return;
            }
            match self.next_input().await {
                Input::Command(Some(command)) => self.execute(command),
                Input::Command(None) => self.close(None),
                Input::Packets => self.take_packets(),
                Input::InterfacesChanged(result) => self.interfaces_changed(&result),
                Input::Sent(result) => {
                    if let Some(Held { transmit, .. }) = self.held.take() {
                        self.note_sent(&transmit, &result);
                    }
                }
                Input::Time => {}
            }
        }
    }

    /// Waits for whatever comes first.
    async fn next_input(&mut self) -> Input {
        let deadline = self.engine.poll_timeout().map_or(self.scan_at, |(at, _)| at.min(self.scan_at));
        let (deadline, writing) = match &self.held {
            None => (deadline, None),
            Some(Held { retry: Retry::At(at), .. }) => (deadline.min(*at), None),
            Some(Held { retry: Retry::WhenWritable, transmit }) => (deadline, Some(*transmit)),
        };
        let (deadline, closing) = match &self.closing {
            None => (deadline, false),
            Some(closing) => (deadline.min(closing.until), true),
        };
        let blocked = self.budget.blocked_until(Instant::now());
        let Self { commands, sockets, pool, received, watch, watch_failed, sending, .. } = self;
        let changed = async { if *watch_failed { pending().await } else { watch.changed().await } };
        // While a packet waits for room, what arrives waits in the kernel.
        let traffic = async {
            if let Some(transmit) = writing {
                return Input::Sent(sockets.send_later(&sending[..transmit.len], &transmit).await);
            }
            if let Some(until) = blocked {
                sleep_until(until.into()).await;
                return Input::Time;
            }
            sockets.recv(pool, received).await;
            Input::Packets
        };
        tokio::select! {
            command = commands.recv(), if !closing => Input::Command(command),
            input = traffic => input,
            result = changed => Input::InterfacesChanged(result),
            () = sleep_until(deadline.into()) => Input::Time,
        }
    }

    // ---- packets ---------------------------------------------------------------------------------------------

    fn take_packets(&mut self) {
        let now = Instant::now();
        self.budget.take(self.received.len(), now);
        for received in self.received.drain(..) {
            let meta = mdns::Received {
                interface: received.interface,
                from: received.from,
                to: received.to,
                hop_limit: received.hop_limit,
                truncated: received.truncated,
            };
            if !self.monitors.is_empty() {
                show(&mut self.monitors, &received, &mut self.counted.sockets.not_monitored);
            }
            self.engine.handle_packet(&received.buf, &meta, now);
        }
    }

    /// Sends what the engine has to send, until the socket is full.
    fn transmit(&mut self, now: Instant) {
        if let Some(Held { retry, transmit }) = &self.held {
            match retry {
                Retry::At(at) if *at <= now => {
                    let transmit = *transmit;
                    self.held = None;
                    self.send(transmit, now);
                }
                _ => {}
            }
        }
        while self.held.is_none() {
            let Some(transmit) = self.engine.poll_transmit(&mut self.sending, now) else { break };
            self.send(transmit, now);
        }
    }

    fn send(&mut self, transmit: Transmit, now: Instant) {
        let packet = &self.sending[..transmit.len];
        let result = self.sockets.send(packet, &transmit);
        match result.as_ref().map_err(io::Error::kind) {
            Err(io::ErrorKind::WouldBlock) => self.held = Some(Held { transmit, retry: Retry::WhenWritable }),
            Err(io::ErrorKind::OutOfMemory) => {
                self.held = Some(Held { transmit, retry: Retry::At(now + NO_BUFFERS_WAIT) });
            }
            _ => self.note_sent(&transmit, &result),
        }
    }

    fn note_sent(&mut self, transmit: &Transmit, result: &io::Result<()>) {
        self.counted.sockets.failed_sends += u64::from(result.is_err());
        // That one host cannot be reached says nothing about the network.
        let Destination::Multicast(family) = transmit.to else { return };
        let result = match result {
            Ok(()) => Ok(()),
            Err(error) => Err(error.raw_os_error().unwrap_or_default()),
        };
        if self.refusals.note(transmit.interface, family, result) {
            self.tell_condition();
        }
    }

    /// Tells what has changed of the [`Condition`].
    fn tell_condition(&self) {
        let families = |joined: &Joined| {
            [(joined.ipv4, Family::V4), (joined.ipv6, Family::V6)]
                .into_iter()
                .filter_map(|(used, family)| used.then_some(family))
        };
        let links = || {
            self.joined.iter().flat_map(|(index, joined)| {
                families(joined).map(move |family| (joined, family, self.refusals.error(*index, family)))
            })
        };
        let unsent = links().filter_map(|(joined, family, error)| {
            let interface = joined.interface.name.clone();
            Some(Unsent { interface, ipv6: family == Family::V6, error: error? })
        });
        let (unsent, sends) = (unsent.collect(), links().any(|(.., error)| error.is_none()));
        self.condition.send_if_modified(|condition| {
            let changed = condition.unsent != unsent || condition.sends != sends;
            (condition.unsent, condition.sends) = (unsent, sends);
            changed
        });
    }

    // ---- interfaces and time ---------------------------------------------------------------------------------

    fn interfaces_changed(&mut self, result: &io::Result<()>) {
        match result {
            Ok(()) => self.scan_at = self.scan_at.min(Instant::now() + SETTLING),
            Err(_) => self.watch_failed = true,
        }
    }

    fn scan(&mut self, now: Instant) {
        self.scan_at = now + RECONCILIATION;
        self.look_at_port();
        if let Ok(interfaces) = self.watch.scan() {
            self.use_interfaces(interfaces, now);
        } else {
            self.counted.failed_scans += 1;
            self.scan_at = now + RETRY;
        }
        // No more often than that, or a firewall that lets half of it pass would make for ever more.
        for index in self.refusals.take_missed() {
            self.engine.handle_unsent(index, now);
        }
    }

    /// Unicast to a port that several programs have reaches only one of them (RFC 6762 §15.1), so the engine must know.
    fn look_at_port(&mut self) {
        self.counted.shares_port = self.sockets.share_port();
        self.engine.handle_port_sharing(!self.counted.shares_port);
    }

    /// Tells the engine what has changed since the last scan.
    fn use_interfaces(&mut self, mut found: BTreeMap<u32, Interface>, now: Instant) {
        let gone: Vec<u32> = self
            .joined
            .iter()
            .filter(|(index, joined)| {
                found.get(index).is_none_or(|found| found.name != joined.interface.name)
            })
            .map(|(index, _)| *index)
            .collect();
        for index in gone {
            self.leave_interface(index, now);
        }
        while let Some((index, interface)) = found.pop_first() {
            self.use_interface(index, interface, now);
        }
        self.tell_condition();
    }

    fn leave_interface(&mut self, index: u32, now: Instant) {
        if self.joined.remove(&index).is_some() {
            self.refusals.forget(index);
            self.sockets.leave(Family::V4, index);
            self.sockets.leave(Family::V6, index);
            self.engine.handle_interface(InterfaceChange::Down { index }, now);
        }
    }

    /// An interface whose groups cannot be joined (it has just gone, or the limit of memberships is reached) is tried again with
    /// the next scan.
    fn use_interface(&mut self, index: u32, interface: Interface, now: Instant) {
        let ipv4 = self.join_if(interface.has_ipv4(), Family::V4, index);
        let ipv6 = self.join_if(interface.has_ipv6(), Family::V6, index);
        if !ipv4 && !ipv6 {
            return self.leave_interface(index, now);
        }
        let nets = interface.addresses.iter();
        let addresses =
            nets.map(|net| InterfaceAddress { ip: net.addr(), prefix_length: net.prefix_len() }).collect();
        let change = match self.joined.get(&index) {
            Some(known) if known.ipv4 == ipv4 && known.ipv6 == ipv6 && known.interface == interface => return,
            Some(known) if known.is_still(&interface, ipv4, ipv6) => {
                InterfaceChange::Addresses { index, addresses }
            }
            _ => InterfaceChange::Up { index, addresses, ipv4, ipv6 },
        };
        self.engine.handle_interface(change, now);
        self.joined.insert(index, Joined { interface, ipv4, ipv6 });
    }

    /// Receives from the group of a family on an interface, or no longer; whether it does now.
    fn join_if(&self, wanted: bool, family: Family, index: u32) -> bool {
        if wanted {
            return self.sockets.join(family, index);
        }
        self.sockets.leave(family, index);
        false
    }

    fn notice_suspension(&mut self, now: Instant) {
        if self.suspension.woke() {
            self.counted.wakes += 1;
            self.scan(now);
            self.engine.handle_wake(now);
        }
    }

    // ---- commands and events ---------------------------------------------------------------------------------

    fn execute(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Search { id, question, outbox, begun } => {
                answer(begun, self.searches.begin(&mut self.engine, id, question, outbox, now));
            }
            Command::EndSearch { id } => self.searches.end(&mut self.engine, id),
            Command::Publish { id, service, name, begun } => {
                answer(begun, self.publications.begin(&mut self.engine, id, *service, name, now));
            }
            Command::UpdateTxt { id, txt, reply } => {
                answer(reply, self.publications.update_txt(&mut self.engine, id, txt, now));
            }
            Command::Withdraw { id, done } => {
                if self.publications.end(&mut self.engine, id, now) {
                    self.transmit(now);
                }
                if let Some(done) = done {
                    answer(done, ());
                }
            }
            Command::Reconfirm { instance, service_type, interface } => {
                self.engine.reconfirm(&instance, &service_type, interface, now);
            }
            Command::Monitor(packets) => self.monitors.push(packets),
            Command::Statistics(reply) => answer(reply, self.statistics()),
            Command::HostName(reply) => answer(reply, self.engine.host_name().clone()),
            Command::Shutdown(done) => self.close(Some(done)),
        }
    }

    /// Brings what the engine has to tell to those who asked.
    fn dispatch(&mut self) {
        while let Some(event) = self.engine.poll_event() {
            match event {
                Event::Published { id, name } => self.tell_name(id, name, true),
                Event::Renamed { id, name } => self.tell_name(id, name, false),
                event => self.searches.tell(event),
            }
        }
    }

    fn tell_name(&mut self, id: PublicationId, name: PublishedName, ours: bool) {
        if let PublishedName::Host(host) = &name
            && ours
            && self.engine.host() == Some(id)
        {
            self.condition.send_modify(|condition| condition.host_name = Some(host.clone()));
        }
        let kept = self.publications.tell(id, name, ours);
        self.counted.unsaved_names += u64::from(kept.is_err());
    }

    fn statistics(&self) -> Statistics {
        let sockets = self.sockets.statistics();
        let interfaces = self.joined.iter().map(|(index, joined)| InterfaceStatus {
            index: *index,
            name: joined.interface.name.clone(),
            addresses: joined.interface.addresses.iter().map(ipnet::IpNet::addr).collect(),
            ipv4: joined.ipv4,
            ipv6: joined.ipv6,
            ipv4_send_error: self.refusals.error(*index, Family::V4),
            ipv6_send_error: self.refusals.error(*index, Family::V6),
        });
        let mut statistics = self.counted.clone();
        statistics.engine = self.engine.statistics();
        statistics.interfaces = interfaces.collect();
        statistics.sockets.receive_drops = sockets.receive_drops;
        statistics.sockets.failed_receives = sockets.failed_receives;
        statistics
    }

    /// Takes back everything that was published, and ends when all have been told.
    fn close(&mut self, done: Option<oneshot::Sender<()>>) {
        let now = Instant::now();
        self.engine.shutdown(now);
        self.closing = Some(Closing { until: now + CLOSING, done });
    }
}

impl Drop for Driver {
    /// When the runtime ends before the driver does: everything is taken back even so, at once, since nothing can be waited for.
    /// No way out leaves stale records in everybody's cache, unless the socket is full.
    fn drop(&mut self) {
        let now = Instant::now();
        self.engine.shutdown(now);
        while let Some(transmit) = self.engine.poll_transmit(&mut self.sending, now) {
            let _ = self.sockets.send(&self.sending[..transmit.len], &transmit);
        }
    }
}

/// Answers somebody who may have stopped waiting.
fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    let _ = reply.send(value);
}

/// Shows a packet to everybody who wants to see all.
fn show(monitors: &mut Vec<mpsc::Sender<Packet>>, received: &Received, missed: &mut u64) {
    monitors.retain(|monitor| !monitor.is_closed());
    for monitor in monitors {
        let Ok(place) = monitor.try_reserve() else {
            *missed += 1;
            continue;
        };
        place.send(Packet {
            time: SystemTime::now(),
            interface: received.interface,
            from: received.from,
            to: received.to,
            hop_limit: received.hop_limit,
            truncated: received.truncated,
            contents: (*received.buf).into(),
        });
    }
}
