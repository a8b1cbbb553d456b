//! Forward error correction: the bytes of kcp-go, and what can be computed when datagrams are lost.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use stream::fec::{DATAGRAM_MAX, Decoder, Encoder, FecConfig, FecError, is_protected};

fn datagram(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 253 + seed * 7 + 1) as u8).collect()
}

/// A protected datagram, and the parities that follow it.
fn protect(encoder: &mut Encoder, config: FecConfig, payload: &[u8]) -> Vec<Vec<u8>> {
    let mut out = vec![0; config.header_len()];
    out.extend_from_slice(payload);
    encoder.protect(&mut out);
    let mut all = vec![out];
    all.extend(parities(encoder));
    all
}

fn parities(encoder: &mut Encoder) -> Vec<Vec<u8>> {
    let mut buf = [0; DATAGRAM_MAX];
    std::iter::from_fn(|| encoder.poll_parity(&mut buf).map(|len| buf[..len].to_vec())).collect()
}

/// What a decoder makes of datagrams, in the order in which it comes out.
fn decode(decoder: &mut Decoder, datagrams: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    let mut recovered = Vec::new();
    for datagram in datagrams {
        assert!(is_protected(datagram));
        out.extend(decoder.handle(datagram).unwrap().map(<[u8]>::to_vec));
        while decoder.poll_recovered(&mut recovered) {
            out.push(recovered.clone());
        }
    }
    out
}

/// Two ends of the same configuration, of which the second has seen two whole groups of the first.
fn acquainted(config: FecConfig, data: usize) -> (Encoder, Decoder) {
    let (mut encoder, mut decoder) = (Encoder::new(config).unwrap(), Decoder::new(config));
    for at in 0..2 * data {
        let sent = protect(&mut encoder, config, &datagram(at, 50));
        decode(&mut decoder, &sent);
    }
    (encoder, decoder)
}

#[test]
fn headers_are_those_of_kcp_go() {
    let config = FecConfig::fixed(2, 1).unwrap();
    let mut encoder = Encoder::new(config).unwrap();
    let first = protect(&mut encoder, config, b"abc");
    assert_eq!(first, [b"\0\0\0\0\xf1\0\x05\0abc"]);
    let second = protect(&mut encoder, config, b"defgh");
    assert_eq!(second[0], b"\x01\0\0\0\xf1\0\x07\0defgh");
    // The inverse of the upper square [[1, 0], [1, 1]] is itself, so the third row [1, 2] becomes [3, 2].
    let coded = |at: usize| {
        let (a, b) = (b"\x05\0abc\0\0"[at], b"\x07\0defgh"[at]);
        let double = |a: u8| (a << 1) ^ if a & 0x80 != 0 { 0x1d } else { 0 };
        double(a) ^ a ^ double(b)
    };
    let expected: Vec<u8> = b"\x02\0\0\0\xf2\0".iter().copied().chain((0..7).map(coded)).collect();
    assert_eq!(second[1], expected);
}

/// Another implementation of the same code, which nobody here wrote.
#[test]
fn parities_are_those_of_the_reference_implementation() {
    for (data, parity) in [(1, 1), (2, 2), (10, 3), (20, 10), (70, 30), (200, 55)] {
        let config = FecConfig::fixed(data, parity).unwrap();
        let mut encoder = Encoder::new(config).unwrap();
        let payloads: Vec<Vec<u8>> = (0..data).map(|at| datagram(at, 200 + at * 13 % 1_000)).collect();
        let mut sent: Vec<Vec<u8>> = Vec::new();
        for payload in &payloads {
            sent.extend(protect(&mut encoder, config, payload));
        }
        let coded_len = sent.iter().map(Vec::len).max().unwrap() - 6;
        let mut shards: Vec<Vec<u8>> = sent[..data].iter().map(|datagram| datagram[6..].to_vec()).collect();
        shards.resize(data + parity, Vec::new());
        for shard in &mut shards {
            shard.resize(coded_len, 0);
        }
        let reference = reed_solomon_erasure::galois_8::ReedSolomon::new(data, parity).unwrap();
        reference.encode(&mut shards).unwrap();
        assert_eq!(sent.len(), data + parity);
        for (ours, theirs) in sent[data..].iter().zip(&shards[data..]) {
            assert!(ours[6..] == theirs[..], "{data} + {parity}");
        }
    }
}

#[test]
fn any_datagrams_of_a_group_suffice() {
    let (data, parity) = (5, 3);
    let config = FecConfig::fixed(data, parity).unwrap();
    let (mut encoder, _) = acquainted(config, data);
    let payloads: Vec<Vec<u8>> = (0..data).map(|at| datagram(at, 40 + at * 97)).collect();
    let mut sent = Vec::new();
    for payload in &payloads {
        sent.extend(protect(&mut encoder, config, payload));
    }
    for lost in 0_u32..1 << (data + parity) {
        let arrived: Vec<Vec<u8>> =
            (0..sent.len()).filter(|at| lost >> at & 1 == 0).map(|at| sent[at].clone()).collect();
        let (_, mut decoder) = acquainted(config, data);
        let mut out = decode(&mut decoder, &arrived);
        out.sort();
        if lost.count_ones() as usize <= parity {
            let mut all = payloads.clone();
            all.sort();
            assert_eq!(out, all, "lost {lost:08b}");
            assert_eq!(decoder.stats().recovered, u64::from((lost & 0b11111).count_ones()));
        } else {
            assert!(out.iter().all(|payload| payloads.contains(payload)), "nothing is made up");
        }
    }
}

#[test]
fn a_decoder_learns_the_groups_of_the_other_end() {
    for (data, parity) in [(10, 3), (3, 1), (20, 5)] {
        let theirs = FecConfig::fixed(data, parity).unwrap();
        let mut encoder = Encoder::new(theirs).unwrap();
        let mut decoder = Decoder::new(FecConfig::fixed(7, 2).unwrap());
        let mut sent = Vec::new();
        for at in 0..data * 10 {
            sent.extend(protect(&mut encoder, theirs, &datagram(at, 100)));
        }
        decode(&mut decoder, &sent);
        assert_eq!(decoder.fixed_shards(), (data, parity));
        let mut group = Vec::new();
        for at in 0..data {
            group.extend(protect(&mut encoder, theirs, &datagram(at, 100)));
        }
        group.remove(0);
        assert!(decode(&mut decoder, &group).contains(&datagram(0, 100)));
    }
}

/// All datagrams of a group are equally long and begin alike, and so does whatever is computed from them, rightly or wrongly: KCP
/// took what was computed in groups of the wrong size for the segments that were lost, and streams broke.
#[test]
fn nothing_is_made_up_before_the_groups_of_the_other_end_are_known() {
    let theirs = FecConfig::fixed(5, 2).unwrap();
    let fixed = [(7, 2), (10, 3), (2, 1), (6, 1), (4, 3), (5, 1)];
    let fixed = fixed.map(|(data, parity)| FecConfig::fixed(data, parity).unwrap());
    for ours in fixed.into_iter().chain([FecConfig::Off]) {
        let mut encoder = Encoder::new(theirs).unwrap();
        let payloads: Vec<Vec<u8>> = (0..15).map(|at| datagram(at, 100)).collect();
        let sent: Vec<Vec<u8>> =
            payloads.iter().flat_map(|payload| protect(&mut encoder, theirs, payload)).collect();
        for first_lost in 0..sent.len() {
            for last_lost in first_lost..sent.len() {
                let mut arrived = sent.clone();
                arrived.drain(first_lost..=last_lost);
                let came = decode(&mut Decoder::new(ours), &arrived);
                assert!(
                    came.iter().all(|datagram| payloads.contains(datagram)),
                    "{ours:?}, without {first_lost} to {last_lost}"
                );
            }
        }
    }
}

#[test]
fn reordering_and_duplicates_within_a_few_groups_do_not_matter() {
    let config = FecConfig::fixed(10, 3).unwrap();
    let (mut encoder, mut decoder) = acquainted(config, 10);
    let payloads: Vec<Vec<u8>> = (0..1_000).map(|at| datagram(at, 60 + at % 500)).collect();
    let mut sent: Vec<Vec<u8>> = Vec::new();
    for payload in &payloads {
        sent.extend(protect(&mut encoder, config, payload));
    }
    // A tenth is lost, a twelfth comes twice, and each comes up to 20 places late.
    let mut arrived: Vec<(usize, &Vec<u8>)> =
        sent.iter().enumerate().filter(|(at, _)| at % 10 != 4).collect();
    arrived.extend(sent.iter().enumerate().filter(|(at, _)| at % 12 == 5));
    arrived.sort_by_key(|(at, _)| at + at * 7 % 20);
    let arrived: Vec<Vec<u8>> = arrived.into_iter().map(|(_, datagram)| datagram.clone()).collect();
    let out = decode(&mut decoder, &arrived);
    assert!(payloads.iter().all(|payload| out.contains(payload)));
    assert_eq!(decoder.stats().lost, 0);
}

#[test]
fn sequence_numbers_wrap_around_behind_a_whole_group() {
    let config = FecConfig::fixed(10, 3).unwrap();
    let (_, mut decoder) = acquainted(config, 10);
    // The largest multiple of the group's size: no group is cut in two.
    let wrap = u32::MAX / 13 * 13;
    let numbered = |number: u32, payload: &[u8]| {
        let mut out = number.to_le_bytes().to_vec();
        out.extend([0xf1, 0]);
        out.extend((payload.len() as u16 + 2).to_le_bytes());
        out.extend_from_slice(payload);
        out
    };
    for number in (wrap - 130..wrap).chain(0..1_300).filter(|number| number % 13 < 10) {
        assert_eq!(decoder.handle(&numbered(number, b"payload")), Ok(Some(&b"payload"[..])));
    }
    assert_eq!(decoder.stats().lost, 0, "every group was found whole");
}

#[test]
fn an_adaptive_encoder_does_nothing_without_loss() {
    let mut encoder = Encoder::new(FecConfig::Adaptive).unwrap();
    assert!(!encoder.is_active());
    encoder.set_loss(0.05);
    assert!(encoder.is_active());
    encoder.set_loss(0.001);
    assert!(!encoder.is_active());
}

#[test]
fn a_lone_datagram_of_a_thin_flow_survives_a_loss() {
    let config = FecConfig::Adaptive;
    let mut encoder = Encoder::new(config).unwrap();
    encoder.set_loss(0.05);
    for round in 0..100 {
        let payload = datagram(round, 88);
        assert_eq!(
            protect(&mut encoder, config, &payload).len(),
            1,
            "parities wait for the end of the burst"
        );
        encoder.flush();
        let parities = parities(&mut encoder);
        assert_eq!(parities.len(), 2);
        for parity in parities {
            assert_eq!(
                decode(&mut Decoder::new(config), std::slice::from_ref(&parity)),
                std::slice::from_ref(&payload)
            );
        }
        encoder.flush();
        assert_eq!(encoder.poll_parity(&mut [0; DATAGRAM_MAX]), None, "a burst ends once");
    }
}

#[test]
fn loss_that_is_learnt_within_a_group_counts_from_the_next_one_on() {
    let config = FecConfig::Adaptive;
    let mut encoder = Encoder::new(config).unwrap();
    encoder.set_loss(0.004);
    let payloads: Vec<Vec<u8>> = (0..3).map(|at| datagram(at, 100 + at)).collect();
    let mut sent = protect(&mut encoder, config, &payloads[0]);
    encoder.set_loss(0.2);
    sent.extend(protect(&mut encoder, config, &payloads[1]));
    sent.extend(protect(&mut encoder, config, &payloads[2]));
    encoder.flush();
    // Whatever was lost is computed as it was, or not at all.
    for parity in parities(&mut encoder) {
        let arrived = [sent[0].clone(), sent[2].clone(), parity];
        let out = decode(&mut Decoder::new(config), &arrived);
        assert!(out.contains(&payloads[1]), "{out:?}");
    }
}

#[test]
fn bursts_of_any_length_survive_as_many_losses_as_they_have_parities() {
    let config = FecConfig::Adaptive;
    let mut encoder = Encoder::new(config).unwrap();
    encoder.set_loss(0.05);
    let mut decoder = Decoder::new(config);
    for burst in 1..=40 {
        let payloads: Vec<Vec<u8>> = (0..burst).map(|at| datagram(at + burst, 20 + at * 31)).collect();
        let mut sent = Vec::new();
        for payload in &payloads {
            sent.extend(protect(&mut encoder, config, payload));
        }
        encoder.flush();
        sent.extend(parities(&mut encoder));
        sent.remove(burst / 3);
        let out = decode(&mut decoder, &sent);
        assert!(payloads.iter().all(|payload| out.contains(payload)), "burst of {burst}");
    }
    assert_eq!((decoder.stats().recovered, decoder.stats().lost), (40, 0));
}

#[test]
fn what_no_encoder_makes_is_refused() {
    let mut decoder = Decoder::new(FecConfig::Off);
    assert_eq!(decoder.handle(b"\0\0\0\0\xf1\0\x02"), Err(FecError::Truncated));
    assert_eq!(decoder.handle(&[0xf1; DATAGRAM_MAX + 1]), Err(FecError::TooLong));
    assert_eq!(decoder.handle(b"\0\0\0\0\xf4\0\x11\0\x02\0"), Err(FecError::OutOfRange), "17 data shards");
    assert_eq!(decoder.handle(b"\0\0\0\0\xf3\x10\0\0\x02\0"), Err(FecError::OutOfRange), "the 17th datagram");
    assert!(!is_protected(&[0, 0, 0, 0, 81, 0]), "a KCP segment");
    assert_eq!(FecConfig::fixed(200, 56), Err(FecError::TooManyShards { data: 200, parity: 56 }));
    assert_eq!(FecConfig::fixed(0, 3), Ok(FecConfig::Off));
}
