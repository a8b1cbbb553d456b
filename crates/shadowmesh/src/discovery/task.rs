//! The part with sockets: what is published and withdrawn when, and where what is found goes.

use std::future::pending;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use beacon::{Beacon, Builder, Events, Instance, ResolvedService, Service, ServiceEvent, StartError};
use ipnet::IpNet;
use log::{debug, info, warn};
use os::netlink::{Address, Netlink};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use tokio::sync::mpsc::Sender;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::days::{day_of, is_over, next_look};
use super::sightings::{Sightings, address_to_try};
use super::tags::{PEERS_MAX, Tags, announcements, random_name};
use super::{Change, SERVICE, Setup, Snapshot, Surroundings};
use crate::failure::with_causes;

/// What went wrong is tried again after this long.
const RETRY: Duration = Duration::from_mins(1);

/// How old what we know of our own addresses may be when it is about a stranger.
const OWN_ADDRESSES_AGE_MAX: Duration = Duration::from_secs(1);

/// One day's advertisement. Dropping it takes it back.
struct Edition {
    day: u32,
    /// Of its own, because host and instances of each day have names of their own.
    beacon: Beacon,
    publishing: JoinSet<()>,
    published: Arc<AtomicUsize>,
}

impl Edition {
    async fn begin(setup: &Setup, day: u32, rng: &mut ChaCha20Rng) -> Result<Self, StartError> {
        let beacon = builder(setup).host_name(random_name(rng)).start().await?;
        let published = Arc::new(AtomicUsize::new(0));
        let mut publishing = JoinSet::new();
        for attributes in announcements(&setup.own, &setup.peers, day, rng) {
            let mut service = Service::new(random_name(rng), SERVICE, setup.port);
            for (key, value) in attributes {
                service = service.txt(key, value);
            }
            publishing.spawn(publish(beacon.clone(), service, Arc::clone(&published)));
        }
        debug!("discovery: the advertisement of day {day} begins");
        Ok(Self { day, beacon, publishing, published })
    }

    /// Whether an instance could not be announced. One that is announced stays so until it is ended.
    fn has_failed(&mut self) -> bool {
        self.publishing.try_join_next().is_some()
    }

    /// Says goodbye.
    async fn end(mut self) {
        debug!("discovery: the advertisement of day {} ends", self.day);
        self.publishing.shutdown().await;
        self.beacon.shutdown().await;
    }
}

/// Offers one instance until the task is ended. That somebody else takes its name does not matter: nobody knows it by that.
async fn publish(beacon: Beacon, service: Service, published: Arc<AtomicUsize>) {
    match beacon.publish(service).await {
        Ok(_publication) => {
            published.fetch_add(1, Relaxed);
            pending::<()>().await;
        }
        Err(error) => warn!("discovery: this node cannot be announced: {error}"),
    }
}

fn builder(setup: &Setup) -> Builder {
    Beacon::builder().interfaces(setup.interfaces.clone())
}

/// Looking for others. Apart from the editions, because it goes on from day to day.
struct Search {
    beacon: Beacon,
    events: Events<ServiceEvent>,
    netlink: Option<Netlink>,
    /// Our own addresses, and when they were looked at.
    own: (Vec<Address>, Instant),
}

impl Search {
    async fn begin(setup: &Setup) -> Result<Self, String> {
        let beacon = builder(setup).search_only().start().await.map_err(|error| with_causes(&error))?;
        let events = beacon.browse(SERVICE).map_err(|error| error.to_string())?;
        let mut netlink = Netlink::open().ok();
        let own = (addresses(netlink.as_mut()), Instant::now());
        Ok(Self { beacon, events, netlink, own })
    }

    /// The prefixes of our own addresses on an interface, as they are now, or as they were a moment ago.
    fn own_prefixes(&mut self, interface: u32, now: bool) -> Vec<IpNet> {
        if now || self.own.1.elapsed() > OWN_ADDRESSES_AGE_MAX {
            self.own = (addresses(self.netlink.as_mut()), Instant::now());
        }
        self.own.0.iter().filter(|address| address.index == interface).map(|address| address.net).collect()
    }
}

/// All our addresses. Where they cannot be had nobody is a neighbour.
fn addresses(netlink: Option<&mut Netlink>) -> Vec<Address> {
    netlink.and_then(|netlink| netlink.addresses().ok()).unwrap_or_default()
}

struct Task {
    setup: Setup,
    rng: ChaCha20Rng,
    editions: Vec<Edition>,
    search: Option<Search>,
    tags: Tags,
    sightings: Sightings,
    changes: Sender<Change>,
    error: Option<String>,
    /// When what went wrong is tried again.
    retry_at: Instant,
}

/// Looks for peers and lets them find us, until it is told to stop. Whatever goes wrong is tried again every minute, and told
/// once: a node without discovery is a node.
///
/// Call it in a Tokio runtime with I/O and time.
pub async fn run(setup: Setup, surroundings: Surroundings) {
    let Surroundings { stop, mut asked, changes } = surroundings;
    let mut seed = [0; 32];
    if let Err(error) = getrandom::fill(&mut seed) {
        return warn!("discovery: the kernel gives no random numbers: {error}");
    }
    if setup.peers.len() > PEERS_MAX {
        warn!("discovery: only the first {PEERS_MAX} peers can find this node on a local network");
    }
    let tags = Tags::around(day_of((setup.unix_time)()), &setup.peers);
    let mut task = Task {
        setup,
        rng: ChaCha20Rng::from_seed(seed),
        editions: Vec::new(),
        search: None,
        tags,
        sightings: Sightings::default(),
        changes,
        error: None,
        retry_at: Instant::now(),
    };
    let work = async {
        loop {
            let wait = task.look().await;
            tokio::select! {
                event = next_event(task.search.as_mut()) => task.handle(event).await,
                Some(reply) = asked.recv() => {
                    // Whoever asked may have gone away.
                    let _ = reply.send(task.snapshot());
                }
                () = sleep(wait) => {}
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = stop.requested() => {}
    }
    task.end().await;
}

/// The next event of a search; none of no search.
async fn next_event(search: Option<&mut Search>) -> Option<ServiceEvent> {
    match search {
        Some(search) => search.events.next().await,
        None => pending().await,
    }
}

impl Task {
    /// Does what the time of day asks for, and returns how long to wait before the next look.
    async fn look(&mut self) -> Duration {
        let (now, overlap) = ((self.setup.unix_time)(), self.setup.overlap);
        let wait = next_look(now, overlap);
        let today = day_of(now);
        if self.tags.day() != today {
            self.tags = Tags::around(today, &self.setup.peers);
            let changes = self.sightings.recognise_anew(&self.tags, Instant::now());
            self.tell(changes).await;
        }
        let changes = self.sightings.settle(Instant::now());
        self.tell(changes).await;
        let over = |edition: &mut Edition| is_over(edition.day, now, overlap);
        for edition in self.editions.extract_if(.., over).collect::<Vec<_>>() {
            edition.end().await;
        }
        for edition in self.editions.extract_if(.., Edition::has_failed).collect::<Vec<_>>() {
            edition.end().await;
            self.note(Some("this node cannot be announced".into()));
        }
        if self.error.is_none() || self.retry_at <= Instant::now() {
            let outcome = self.begin(today).await.and_then(|()| self.check_sending());
            self.note(outcome.err());
        }
        wait
    }

    /// Publishes what is to be published today and looks for others, if that is not done yet. First the former: the search then
    /// sees from the beginning that it is not alone at the port.
    async fn begin(&mut self, today: u32) -> Result<(), String> {
        if self.setup.peers.is_empty() {
            return Ok(());
        }
        if self.editions.iter().all(|edition| edition.day != today) {
            let edition = Edition::begin(&self.setup, today, &mut self.rng).await;
            self.editions.push(edition.map_err(|error| with_causes(&error))?);
        }
        if self.search.is_none() {
            self.search = Some(Search::begin(&self.setup).await?);
        }
        Ok(())
    }

    /// Whether what is said can be heard anywhere.
    fn check_sending(&self) -> Result<(), String> {
        let Some(search) = &self.search else { return Ok(()) };
        let condition = search.beacon.conditions().now();
        match condition.unsent.first() {
            Some(unsent) if !condition.sends => {
                Err(format!("{unsent} (a firewall on this machine may drop UDP port 5353)"))
            }
            _ => Ok(()),
        }
    }

    /// Tells people what is wrong, once.
    fn note(&mut self, error: Option<String>) {
        match (&self.error, &error) {
            (None, Some(error)) => warn!("peers on the local network are not found: {error}"),
            (Some(_), None) => info!("peers on the local network are found now"),
            _ => {}
        }
        if error.is_some() {
            self.retry_at = Instant::now() + RETRY;
        }
        self.error = error;
    }

    async fn handle(&mut self, event: Option<ServiceEvent>) {
        let changes = match event {
            Some(ServiceEvent::Added(service) | ServiceEvent::Changed(service)) => self.see(service),
            Some(ServiceEvent::Removed(instance)) => self.sightings.lose(&instance, Instant::now()),
            None => {
                self.search = None;
                self.note(Some("the search has ended".into()));
                self.sightings.lose_all(Instant::now())
            }
        };
        self.tell(changes).await;
    }

    fn see(&mut self, service: ResolvedService) -> Vec<Change> {
        let instance = Instance::of(&service);
        // The kernel is not asked again for every stranger.
        let is_peer = self.tags.recognise(&service.txt).is_some();
        let prefixes = self.search.as_mut().map(|search| search.own_prefixes(service.interface, is_peer));
        let prefixes = prefixes.unwrap_or_default();
        let (ipv4, ipv6) = (self.setup.ipv4, self.setup.ipv6);
        let is_neighbour = |ip: IpAddr| {
            (if ip.is_ipv4() { ipv4 } else { ipv6 })
                && prefixes.iter().any(|net| net.contains(&ip))
                && prefixes.iter().all(|net| net.addr() != ip)
        };
        let advertised = service.addresses.iter().map(|address| address.with_port(service.port));
        let address = address_to_try(advertised, is_neighbour);
        self.sightings.see(instance, service.txt, address, &self.tags, Instant::now())
    }

    /// Without a reader there is nothing to do but end, which comes soon.
    async fn tell(&self, changes: Vec<Change>) {
        for change in changes {
            let _ = self.changes.send(change).await;
        }
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            error: self.error.clone(),
            instances: self.editions.iter().map(|edition| edition.published.load(Relaxed)).sum(),
            found: self.sightings.found().to_vec(),
        }
    }

    async fn end(self) {
        for edition in self.editions {
            edition.end().await;
        }
        if let Some(search) = self.search {
            search.beacon.shutdown().await;
        }
    }
}
