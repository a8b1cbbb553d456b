//! Scripts for KCP conversations.

use crate::Seeds;

pub(crate) fn all() -> Seeds {
    vec![
        ("a-segment-and-its-reading", told(0x09, &[&push(0), &[6, 0, 20]])),
        (
            "segments-out-of-order-and-twice",
            told(0x04, &[&push(2), &push(1), &push(0), &push(1), &[6, 0, 99]]),
        ),
        ("acknowledgements-of-what-was-sent", told(0x05, &[&[4, 200], &[5, 1, 0], &ack(0, 16), &ack(1, 18)])),
        ("acknowledgements-of-what-was-not", told(0x02, &[&[4, 20], &ack(9, 16), &ack(0, 200), &ack(0, 3)])),
        (
            "a-window-that-closes-and-opens",
            told(0x01, &[&[4, 99], &tell(0), &[5, 99, 0], &tell(9), &[4, 99]]),
        ),
        ("any-bytes", told(0x0d, &[&[0, 0, 24], &[0x5a; 24], &[0, 0, 3, 1, 2, 3, 7, 1, 7, 255]])),
        ("silence", told(0x07, &[&[4, 99], &[5, 255, 255].repeat(60)])),
        ("there-and-back", link(0x84, &[10, 200, 0, 0, 1, 14, 5, 0, 0, 1, 1, 12, 200])),
        (
            "lost-repeated-overtaken",
            link(0x80, &[10, 255, 10, 255, 10, 255, 4, 6, 8, 0, 0, 0, 14, 50, 1, 1, 0, 0]),
        ),
        ("nothing-comes-back", link(0x8c, &[10, 255, 0, 3, 0, 14, 40, 14, 90, 14, 250, 0, 0, 0, 1, 12, 255])),
    ]
}

fn told(settings: u8, operations: &[&[u8]]) -> Vec<u8> {
    [&[settings], operations.concat().as_slice()].concat()
}

fn link(settings: u8, operations: &[u8]) -> Vec<u8> {
    [&[settings], operations.repeat(4).as_slice()].concat()
}

/// Numbers on these lines are 16 more than they mean.
fn push(sequence: u8) -> Vec<u8> {
    [&[1, 0, 0, 0, 64, 30, sequence + 16, 16, 9], &b"any bytes"[..]].concat()
}

fn ack(sequence: u8, una: u8) -> Vec<u8> {
    vec![1, 0, 1, 0, 64, 16, sequence + 16, una, 0]
}

fn tell(window: u8) -> Vec<u8> {
    vec![1, 0, 3, 0, window, 16, 16, 16, 0]
}
