//! What is published, and how a peer is recognised in what others publish.

use std::collections::HashMap;

use beacon::Txt;
use handshake::{DISCOVERY_TAG_LEN, PublicKey};
use node::PeerId;
use rand_core::Rng;

use super::Acquaintance;

type Tag = [u8; DISCOVERY_TAG_LEN];

/// The attributes that hold tags, in the order they are filled.
const KEYS: [&str; 4] = ["t0", "t1", "t2", "t3"];

/// Tags of one attribute: an attribute has 255 bytes, key and `=` included (RFC 6763 §6.1).
const KEY_TAGS: usize = 31;

/// Tags of one instance. With names and addresses they stay within a packet of 1,500 bytes, as RFC 6763 §6.2 asks.
pub(super) const INSTANCE_TAGS: usize = KEYS.len() * KEY_TAGS;

/// The least number of tags: a node with one peer is not told from one with eight.
const TAGS_MIN: usize = 8;

/// The most instances, and so the most peers that can find us (1,984).
const INSTANCES_MAX: usize = 16;

/// The most peers that are told of us.
pub(super) const PEERS_MAX: usize = INSTANCES_MAX * INSTANCE_TAGS;

/// A name that nobody has had before, for an instance or a host.
pub(super) fn random_name(rng: &mut impl Rng) -> String {
    format!("{:016x}", rng.next_u64())
}

/// The attributes of each instance to publish on a day: the tags by which our peers know us, and random ones so that
/// their number says little about ours. They are sorted, so that their order says nothing.
pub(super) fn announcements(
    own: &PublicKey,
    peers: &[Acquaintance],
    day: u32,
    rng: &mut impl Rng,
) -> Vec<Vec<(&'static str, Vec<u8>)>> {
    let mut tags: Vec<Tag> = peers.iter().take(PEERS_MAX).map(|peer| peer.key.tag(day, own)).collect();
    if tags.is_empty() {
        return Vec::new();
    }
    tags.resize_with(padded(tags.len()), || {
        let mut tag = Tag::default();
        rng.fill_bytes(&mut tag);
        tag
    });
    tags.sort_unstable();
    let attributes =
        |tags: &[Tag]| KEYS.into_iter().zip(tags.chunks(KEY_TAGS).map(<[Tag]>::concat)).collect();
    tags.chunks(INSTANCE_TAGS).map(attributes).collect()
}

/// The next power of two; whole instances where one is not enough.
fn padded(count: usize) -> usize {
    if count > INSTANCE_TAGS {
        count.next_multiple_of(INSTANCE_TAGS)
    } else {
        count.next_power_of_two().clamp(TAGS_MIN, INSTANCE_TAGS)
    }
}

/// The tags by which our peers would be known to us now.
#[derive(Debug)]
pub(super) struct Tags {
    day: u32,
    known: HashMap<Tag, PeerId>,
}

impl Tags {
    /// Those of a day, of the one before and of the one after: clocks may be up to a day apart.
    pub(super) fn around(day: u32, peers: &[Acquaintance]) -> Self {
        let days = day.saturating_sub(1)..=day.saturating_add(1);
        let known = days
            .flat_map(|day| peers.iter().map(move |peer| (peer.key.tag(day, &peer.public_key), peer.peer)));
        Self { day, known: known.collect() }
    }

    /// The day in the middle.
    pub(super) fn day(&self) -> u32 {
        self.day
    }

    /// Whose advertisement has these attributes, if it is one of our peers'. A peer has one tag for us, so the first that fits is
    /// the only one of an honest advertisement.
    pub(super) fn recognise(&self, txt: &Txt) -> Option<PeerId> {
        let values = KEYS.iter().filter_map(|key| txt.value(key).flatten());
        let mut tags = values.flat_map(|value| value.as_chunks::<DISCOVERY_TAG_LEN>().0);
        tags.find_map(|tag| self.known.get(tag).copied())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use handshake::{Identity, PeerKeys, PresharedKey, Protocol, StaticSecret};
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    use super::*;

    fn secret(number: u64) -> StaticSecret {
        StaticSecret::generate(&mut ChaCha20Rng::seed_from_u64(number))
    }

    fn public(number: u64) -> PublicKey {
        secret(number).public_key()
    }

    /// What node number `own` knows of the nodes with these numbers; their places in the list are their [`PeerId`]s.
    pub(in crate::discovery) fn peers(own: u64, others: &[u64]) -> Vec<Acquaintance> {
        let identity = Identity::new(secret(own));
        let acquaintance = |(id, &number): (usize, &u64)| {
            let public_key = public(number);
            let keys =
                PeerKeys::new(&identity, public_key, PresharedKey::default(), Protocol::ShadowMesh).unwrap();
            Acquaintance { peer: PeerId(id as u32), public_key, key: keys.discovery_key() }
        };
        others.iter().enumerate().map(acquaintance).collect()
    }

    /// What node number `own` publishes for the others.
    pub(in crate::discovery) fn published(own: u64, others: &[u64], day: u32, seed: u64) -> Vec<Txt> {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let all = announcements(&public(own), &peers(own, others), day, &mut rng);
        all.into_iter().map(|attributes| Txt::new(attributes).unwrap()).collect()
    }

    fn tags_of(txt: &Txt) -> Vec<Vec<u8>> {
        txt.iter().flat_map(|(_, value)| value.unwrap().chunks(8).map(<[u8]>::to_vec)).collect()
    }

    #[test]
    fn peers_recognise_each_other_and_nobody_else_recognises_anybody() {
        let txt = &published(1, &[2, 3], 100, 0)[0];
        assert_eq!(Tags::around(100, &peers(2, &[9, 1])).recognise(txt), Some(PeerId(1)));
        assert_eq!(Tags::around(100, &peers(3, &[1])).recognise(txt), Some(PeerId(0)));
        assert_eq!(Tags::around(100, &peers(1, &[2, 3])).recognise(txt), None, "not oneself");
        assert_eq!(
            Tags::around(100, &peers(4, &[1, 2, 3])).recognise(txt),
            None,
            "who knows all public keys"
        );
        assert_eq!(Tags::around(100, &peers(2, &[3])).recognise(txt), None, "a peer of a peer");
    }

    #[test]
    fn clocks_may_be_a_day_apart_and_not_two() {
        let txt = &published(1, &[2], 100, 0)[0];
        for (day, found) in [(98, false), (99, true), (100, true), (101, true), (102, false)] {
            assert_eq!(Tags::around(day, &peers(2, &[1])).recognise(txt).is_some(), found, "{day}");
        }
        assert_eq!(Tags::around(0, &peers(2, &[1])).day(), 0, "before the clock is set");
        assert_eq!(Tags::around(u32::MAX, &peers(2, &[1])).day(), u32::MAX);
    }

    #[test]
    fn the_number_of_tags_says_little_about_the_number_of_peers() {
        for (peers, tags) in [(1, 8), (8, 8), (9, 16), (33, 64), (64, 64), (65, 124), (124, 124), (125, 248)]
        {
            assert_eq!(padded(peers), tags);
        }
        assert!(published(1, &[], 100, 0).is_empty(), "there is nobody to be found by");
    }

    #[test]
    fn two_days_have_no_tag_in_common_nor_have_two_directions() {
        let others: Vec<u64> = (2..40).collect();
        let mut all: Vec<Vec<u8>> = Vec::new();
        for (day, seed) in [(100, 0), (101, 1)] {
            all.extend(published(1, &others, day, seed).iter().flat_map(tags_of));
            all.extend(published(2, &[1], day, seed + 2).iter().flat_map(tags_of));
        }
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!((all.len(), count), (144, 144));
    }

    #[test]
    fn the_order_of_the_tags_is_not_that_of_the_peers() {
        let tags = |others: &[u64]| tags_of(&published(1, others, 100, 0)[0]);
        assert_eq!(tags(&[2, 3, 4, 5, 6, 7, 8, 9]), tags(&[9, 8, 7, 6, 5, 4, 3, 2]));
    }

    #[test]
    fn two_hundred_peers_are_told_in_records_that_each_fit_a_packet() {
        let others: Vec<u64> = (2..202).collect();
        let all = published(1, &others, 100, 0);
        assert_eq!(all.len(), 2);
        assert!(all.iter().all(|txt| txt.as_bytes().len() <= 1_300));
        for number in [2, 100, 201] {
            let tags = Tags::around(100, &peers(number, &[1]));
            assert_eq!(all.iter().filter(|txt| tags.recognise(txt).is_some()).count(), 1);
        }
    }

    #[test]
    fn attributes_that_are_not_ours_are_looked_over() {
        let tags = Tags::around(100, &peers(2, &[1]));
        let txt = |pairs: &[(&str, &[u8])]| Txt::new(pairs.iter().copied()).unwrap();
        let tag = peers(2, &[1])[0].key.tag(100, &public(1));
        assert_eq!(tags.recognise(&Txt::default()), None);
        assert_eq!(tags.recognise(&txt(&[("t0", b""), ("t1", b"1234567"), ("x", &tag)])), None);
        assert_eq!(tags.recognise(&Txt::default().with("t0", None).unwrap()), None);
        assert_eq!(tags.recognise(&txt(&[("T3", &[&tag[..], b"123"].concat())])), Some(PeerId(0)));
    }
}
