//! What a program of the benchmark does on its host: publish, browse, look up, or only receive. It prints numbers, and goes on when
//! it is told to by a line.

use std::collections::HashMap;
use std::error::Error;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use beacon::{Beacon, Service, ServiceEvent};
use mdns_sd::{DaemonEvent, ServiceDaemon, ServiceInfo};
use tokio::time::timeout;

use crate::packets::{SERVICES, TYPE, service_name};

/// Services that are looked up at once.
pub const LOOK_UPS: usize = SERVICES - 1;
/// Longer than the goal of 5 s allows; who has not found all by then is asked how many it has found.
const FOUND_WITHIN: Duration = Duration::from_secs(8);
/// Long enough for whatever would be told a second time.
const QUIET: Duration = Duration::from_secs(1);

type Outcome = Result<(), Box<dyn Error>>;

/// Prints numbers for whoever has started this.
///
/// # Errors
/// When nobody listens.
pub fn say(numbers: &[f64]) -> Outcome {
    let mut stdout = std::io::stdout().lock();
    for number in numbers {
        write!(stdout, "{number} ")?;
    }
    writeln!(stdout)?;
    stdout.flush()?;
    Ok(())
}

/// Waits to be told to go on.
pub fn wait_to_go_on() {
    let _ = std::io::stdin().read(&mut [0; 1]);
}

/// Publishes all services, says how long that took and how many they are, and goes on until it is killed.
///
/// # Errors
/// When it cannot be started.
pub fn publish(who: &str) -> Outcome {
    let begin = Instant::now();
    if who == "mdns-sd" {
        let daemon = ServiceDaemon::new()?;
        let events = daemon.monitor()?;
        for number in 0..SERVICES {
            let port = number as u16;
            let (name, properties) = (service_name(number), [("path", "/index.html")]);
            let service = ServiceInfo::new(
                &format!("{TYPE}.local."),
                &name,
                "publisher.local.",
                "",
                port,
                &properties[..],
            )?
            .enable_addr_auto();
            while let Err(mdns_sd::Error::Again) = daemon.register(service.clone()) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let mut announced = std::collections::HashSet::new();
        while announced.len() < SERVICES
            && let Ok(event) = events.recv_timeout(FOUND_WITHIN)
        {
            if let DaemonEvent::Announce(name, _) = event {
                announced.insert(name);
            }
        }
        say(&[begin.elapsed().as_secs_f64(), announced.len() as f64])?;
        loop {
            let _ = events.recv();
        }
    }
    runtime()?.block_on(async {
        let beacon = Beacon::builder().host_name("publisher").start().await?;
        let tasks: Vec<_> = (0..SERVICES)
            .map(|number| {
                let service =
                    Service::new(service_name(number), TYPE, number as u16).txt("path", "/index.html");
                let beacon = beacon.clone();
                tokio::spawn(async move { beacon.publish(service).await })
            })
            .collect();
        let mut publications = Vec::new();
        for task in tasks {
            publications.push(task.await??);
        }
        say(&[begin.elapsed().as_secs_f64(), publications.len() as f64])?;
        std::future::pending::<Outcome>().await
    })
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Browses until all services are found and resolved, and a little longer. Says how long that took, how many were found and how often
/// the program was told that there is one.
///
/// # Errors
/// When it cannot be started.
pub fn browse(who: &str) -> Outcome {
    let begin = Instant::now();
    let mut times: HashMap<String, u32> = HashMap::new();
    let mut took = None;
    let mut count = |name: String, took: &mut Option<Duration>| {
        *times.entry(name).or_default() += 1;
        if times.len() == SERVICES && took.is_none() {
            *took = Some(begin.elapsed());
        }
        times.len()
    };
    let limit = |took: Option<Duration>| if took.is_none() { FOUND_WITHIN } else { QUIET };
    if who == "mdns-sd" {
        let daemon = ServiceDaemon::new()?;
        let events = daemon.browse(&format!("{TYPE}.local."))?;
        while let Ok(event) = events.recv_timeout(limit(took)) {
            if let mdns_sd::ServiceEvent::ServiceResolved(service) = event {
                count(service.fullname.clone(), &mut took);
            }
            if begin.elapsed() > FOUND_WITHIN {
                break;
            }
        }
    } else {
        runtime()?.block_on(async {
            let beacon = Beacon::builder().host_name("browser").search_only().start().await?;
            let mut found = beacon.browse(TYPE)?;
            while let Ok(Some(event)) = timeout(limit(took), found.next()).await {
                if let ServiceEvent::Added(service) | ServiceEvent::Changed(service) = event {
                    count(service.instance.to_string(), &mut took);
                }
                if begin.elapsed() > FOUND_WITHIN {
                    break;
                }
            }
            Ok::<_, Box<dyn Error>>(())
        })?;
    }
    let told: u32 = times.values().sum();
    say(&[took.map_or(f64::NAN, |took| took.as_secs_f64()), times.len() as f64, f64::from(told)])?;
    wait_to_go_on();
    Ok(())
}

/// Looks one service up by name, then all others at once. Says how long the one took, how long all of them took together, the median of them, and how
/// many were found.
///
/// # Errors
/// When it cannot be started, or the one is not found.
pub fn look_up() -> Outcome {
    runtime()?.block_on(async {
        let beacon = Beacon::builder().host_name("asker").search_only().start().await?;
        let begin = Instant::now();
        beacon.resolve(&service_name(0), TYPE).await?;
        let one = begin.elapsed();
        let begin = Instant::now();
        let tasks: Vec<_> = (1..=LOOK_UPS)
            .map(|number| {
                let beacon = beacon.clone();
                tokio::spawn(async move {
                    beacon.resolve(&service_name(number), TYPE).await.map(|_| begin.elapsed())
                })
            })
            .collect();
        let mut took = Vec::new();
        for task in tasks {
            took.extend(task.await?.ok());
        }
        took.sort_unstable();
        let at = |index: usize| took.get(index).map_or(f64::NAN, Duration::as_secs_f64);
        say(&[one.as_secs_f64(), at(took.len().saturating_sub(1)), at(took.len() / 2), took.len() as f64])
    })
}

/// Browses for the printer of [`response`](crate::packets::response) until the process is killed; whenever it is told to go on it says what
/// `counters` returns.
///
/// # Errors
/// When it cannot be started.
pub fn receive(who: &str, counters: impl Fn() -> [f64; 2]) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut peer = None;
    let mut ours = None;
    if who == "mdns-sd" {
        let daemon = ServiceDaemon::new()?;
        let events = daemon.browse("_ipp._tcp.local.")?;
        peer = Some((daemon, events));
    } else {
        let beacon = runtime.block_on(Beacon::builder().host_name("receiver").search_only().start())?;
        let found = beacon.browse("_ipp._tcp")?;
        ours = Some((beacon, found));
    }
    say(&[0.0])?;
    loop {
        wait_to_go_on();
        // Events that nobody takes would wait, or hold the peer up.
        while peer.as_ref().is_some_and(|(_, events)| events.try_recv().is_ok()) {}
        let [allocations, bytes] = counters();
        let packets = match &ours {
            Some((beacon, _)) => runtime.block_on(beacon.statistics())?.engine.packets_received as f64,
            None => f64::NAN,
        };
        // Asking has allocated: what counts begins here.
        let [allocations_after, bytes_after] = counters();
        say(&[allocations, bytes, allocations_after, bytes_after, packets])?;
    }
}
