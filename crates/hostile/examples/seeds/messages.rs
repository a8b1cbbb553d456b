//! Inputs of `handshake_messages` and `data_packets`. Their keys are always the same (see `hostile::sample_messages`), the
//! messages of the hybrid handshake are not: ML-KEM draws its own randomness.

use crate::Seeds;

const WIREGUARD: u8 = 0;
const CHACHA: u8 = 1;
const AES: u8 = 2;
const SPLIT: u8 = 4;

/// Forms of `handshake_messages`.
const AS_IT_IS: u8 = 0;
const RIGHT_MAC: u8 = 1;
const CHANGED: u8 = 2;

pub(crate) fn handshakes() -> Seeds {
    let mut seeds: Seeds = vec![
        ("wireguard-unchanged", vec![WIREGUARD, CHANGED]),
        ("shadowmesh-unchanged", vec![AES, CHANGED]),
        ("shadowmesh-split-unchanged", vec![CHACHA | SPLIT, CHANGED]),
        ("wireguard-static-key-flipped", vec![WIREGUARD, CHANGED, 0, 0, 50, 1]),
        ("shadowmesh-kem-key-flipped", vec![AES, CHANGED, 0, 2, 0, 0x80]),
        ("shadowmesh-suite-changed", vec![AES, CHANGED, 0, 0, 1, 1]),
        ("shadowmesh-part2-flipped", vec![AES | SPLIT, CHANGED, 1, 0, 40, 4]),
        ("shadowmesh-response-kem-flipped", vec![AES, CHANGED, 2, 1, 0, 1]),
        ("wireguard-response-index", vec![WIREGUARD, CHANGED, 2, 0, 9, 1]),
        ("noise", vec![WIREGUARD, AS_IT_IS, 1, 0, 0, 0, 9, 9]),
    ];
    for (name, kind, form) in [
        ("wireguard-initiation", WIREGUARD, AS_IT_IS),
        ("shadowmesh-initiation", AES, AS_IT_IS),
        ("wireguard-initiation-right-mac", WIREGUARD, RIGHT_MAC),
        ("shadowmesh-initiation-right-mac", CHACHA, RIGHT_MAC),
    ] {
        seeds.push((name, with_message(kind, form, 0)));
    }
    seeds.push(("shadowmesh-part1", with_message(AES | SPLIT, RIGHT_MAC, 0)));
    seeds.push(("shadowmesh-part2", with_message(AES | SPLIT, RIGHT_MAC, 1)));
    seeds.push(("wireguard-response", with_message(WIREGUARD, RIGHT_MAC, 1)));
    seeds.push(("shadowmesh-response", with_message(AES, RIGHT_MAC, 1)));
    seeds.push(("shadowmesh-cookie-reply", [&[AES, AS_IT_IS, 19, 0, 0, 0][..], &[1; 60]].concat()));
    seeds
}

fn with_message(kind: u8, form: u8, which: usize) -> Vec<u8> {
    let messages = hostile::sample_messages(kind);
    [&[kind, form][..], &messages[which]].concat()
}

/// Inputs of `handshake_sequences`.
pub(crate) fn sequences() -> Seeds {
    const NATIVE: u8 = 0;
    const WG: u8 = 1;
    const BOTH_CALL: u8 = 2;
    const RIGHT: u8 = 1;
    const LEFT: u8 = 0;
    let again = |to: u8, which: u8, from: u8| vec![0, to, 0, which, from];
    let changed = |to: u8, which: u8, from: u8, at: u8| vec![1, to, 0, which, from, 0, at, 0x40];
    let lost = |n: u8| vec![2, n];
    let arrives = |n: u8| vec![3, n];
    let strangers = |to: u8, from: u8, n: u8| vec![5, to, from, n];
    let run = |kind: u8, operations: &[Vec<u8>]| [vec![kind], operations.concat()].concat();
    vec![
        ("native-undisturbed", run(NATIVE, &[arrives(20)])),
        ("wireguard-undisturbed", run(WG, &[arrives(20)])),
        ("both-call", run(BOTH_CALL, &[arrives(20), vec![4, RIGHT], arrives(4)])),
        ("replayed-initiation", run(NATIVE, &[again(RIGHT, 0, 9), again(RIGHT, 0, 9), again(RIGHT, 0, 0)])),
        ("replayed-after-the-session", run(WG, &[arrives(20), again(RIGHT, 0, 9), again(RIGHT, 0, 0)])),
        ("lost-then-in-parts", run(NATIVE, &[lost(60), lost(60), again(RIGHT, 1, 9), again(RIGHT, 2, 9)])),
        (
            "part2-changed",
            run(NATIVE, &[lost(30), again(RIGHT, 1, 0), changed(RIGHT, 2, 0, 200), again(RIGHT, 2, 0)]),
        ),
        ("response-changed", run(WG, &[again(RIGHT, 0, 0), changed(LEFT, 1, 1, 60), again(LEFT, 1, 1)])),
        (
            "old-ones-fill-all-places",
            run(NATIVE, &(0..8).map(|n| [lost(63), again(RIGHT, n, 9)].concat()).collect::<Vec<_>>()),
        ),
        ("strangers", run(NATIVE, &[strangers(RIGHT, 9, 7), strangers(LEFT, 0, 7), arrives(20)])),
    ]
}

pub(crate) fn data_packets() -> Seeds {
    const SEAL: [u8; 4] = [0, 0, 40, 0xab];
    const DELIVER_FIRST: [u8; 2] = [1, 0];
    let run = |kind: u8, operations: &[&[u8]]| [&[kind, 3][..], &operations.concat()].concat();
    let window = [5, 0x1f, 0xff]; // 8,191 counters are lost
    vec![
        ("wireguard-in-order", run(WIREGUARD, &[&SEAL, &SEAL, &DELIVER_FIRST, &[1, 1]])),
        ("aes-in-order", run(AES, &[&SEAL, &SEAL, &DELIVER_FIRST, &[1, 1]])),
        ("chacha-reordered", run(CHACHA, &[&SEAL, &SEAL, &[1, 1], &DELIVER_FIRST])),
        ("replayed", run(AES, &[&SEAL, &DELIVER_FIRST, &DELIVER_FIRST])),
        ("just-in-the-window", run(AES, &[&SEAL, &window[..2], &[0xfe], &SEAL, &[1, 1], &DELIVER_FIRST])),
        ("just-too-old", run(AES, &[&SEAL, &window, &SEAL, &[1, 1], &DELIVER_FIRST])),
        ("header-changed", run(AES, &[&SEAL, &[2, 0, 0, 9, 1], &DELIVER_FIRST])),
        ("tag-changed", run(WIREGUARD, &[&SEAL, &[2, 0, 0, 71, 1], &DELIVER_FIRST])),
        ("lane-changed", run(AES, &[&SEAL, &[2, 0, 0, 1, 7], &DELIVER_FIRST])),
        ("cut-to-a-header", run(CHACHA, &[&SEAL, &[3, 0, 0, 16], &[3, 0, 0, 31], &DELIVER_FIRST])),
        ("empty-keepalive", run(WIREGUARD, &[&[0, 0, 0, 0], &DELIVER_FIRST])),
        ("made-up", run(AES, &[&[4, 0, 32, 20, 3, 0, 0], &[0; 29]])),
    ]
}
