//! The world changes under load.

use std::thread;
use std::time::{Duration, Instant};

use super::Pair;
use crate::lab::{self, SOON, Steady, WIRE, wait_for};

const SECOND: Duration = Duration::from_secs(1);

/// How long until pings are answered again.
fn outage(steady: &Steady) -> Duration {
    let start = Instant::now();
    steady.wait_for_answers(1, 2 * SOON);
    start.elapsed()
}

/// Returns once nothing is answered any more.
fn wait_for_silence(steady: &Steady) {
    let mut seen = (steady.answered(), Instant::now());
    wait_for("silence", SOON, || {
        let answered = steady.answered();
        if answered != seen.0 {
            seen = (answered, Instant::now());
        }
        (seen.1.elapsed() > Duration::from_millis(100)).then_some(())
    });
}

pub(crate) fn an_underlay_that_was_down_is_used_again_as_soon_as_it_is_up() {
    let pair = Pair::connected();
    let steady = pair.steady();
    pair.left.set_up(WIRE, false);
    wait_for_silence(&steady);
    pair.left.set_up(WIRE, true);
    let outage = outage(&steady);
    assert!(outage < 2 * SECOND, "{outage:?}");
    steady.wait_for_answers(100, SOON);
    assert_eq!(steady.finish().twice, 0);
    // It was the same session all along, or one that replaced it; in any case nothing is stuck.
    assert_eq!(pair.left_node.status().buffers_in_use(), 0);
}

pub(crate) fn an_address_that_changes_under_load_is_followed() {
    let pair = Pair::connected();
    let steady = pair.steady();
    thread::scope(|scope| {
        let bulk =
            scope.spawn(|| lab::transfer(&pair.left.netns, &pair.right.netns, "10.77.0.2", 300_000_000));
        for (new, old) in [(3, 1), (4, 3), (1, 4)] {
            steady.wait_for_answers(50, SOON);
            pair.left.add_address(WIRE, &format!("192.0.2.{new}/24"));
            pair.left.del_address(WIRE, &format!("192.0.2.{old}/24"));
            let endpoint = format!("192.0.2.{new}:9443");
            wait_for("the peer follows", SOON, || {
                (pair.right_node().status().endpoint().as_deref() == Some(&endpoint)).then_some(())
            });
        }
        bulk.join().unwrap();
    });
    steady.wait_for_answers(50, SOON);
    let report = steady.finish();
    assert!(report.gap < SECOND, "{report:?}");
    pair.right_node().wait_for_log("moved to 192.0.2.4:9443", SOON);
}

pub(crate) fn a_peer_that_is_stopped_and_started_is_found_again() {
    let mut pair = Pair::connected();
    let steady = pair.steady();
    pair.right_node.take().unwrap().stop();
    wait_for_silence(&steady);
    pair.start_right();
    let outage = outage(&steady);
    assert!(outage < 6 * SECOND, "{outage:?}");
}

pub(crate) fn a_killed_peer_that_cannot_call_us_is_found_again() {
    let mut pair = Pair::connected();
    let steady = pair.steady();
    pair.right_node.take().unwrap().kill();
    pair.start_right();
    // It drops what belongs to its former life, says nothing to us, and has no endpoint to call: we notice.
    let outage = outage(&steady);
    assert!(outage < 6 * SECOND, "{outage:?}");
    assert!(pair.right_node().status().dropped("unknown_session") > 0);
}
