//! Buffers: how many there are, that they come home, and that they come home empty.

use std::panic::{AssertUnwindSafe, catch_unwind};

use packet::{Buf, Class, ClassUse, Pool, PoolConfig};

fn pool(large: usize, small: usize) -> Pool {
    Pool::new(PoolConfig { large, small })
}

fn filled(pool: &Pool, contents: &[u8]) -> Buf {
    let mut buf = pool.take(Class::Small).expect("one is free");
    buf.storage_mut()[..contents.len()].copy_from_slice(contents);
    buf.commit(0..contents.len());
    buf
}

#[test]
fn an_exhausted_pool_refuses_and_counts_and_recovers() {
    let pool = pool(1, 2);
    let out = [pool.take(Class::Small).unwrap(), pool.take(Class::Small).unwrap()];
    assert!(pool.take(Class::Small).is_none());
    assert!(pool.take(Class::Small).is_none());
    assert_eq!(pool.usage(Class::Small), ClassUse { capacity: 2, in_use: 2, exhausted: 2 });
    assert_eq!(pool.usage(Class::Large), ClassUse { capacity: 1, in_use: 0, exhausted: 0 });
    drop(out);
    assert_eq!(pool.usage(Class::Small), ClassUse { capacity: 2, in_use: 0, exhausted: 2 });
    assert!(pool.take(Class::Small).is_some());
}

#[test]
fn a_class_the_pool_was_made_without_has_nothing_to_give() {
    let pool = pool(1, 0);
    assert!(pool.take(Class::Small).is_none());
    assert_eq!(pool.usage(Class::Small), ClassUse { capacity: 0, in_use: 0, exhausted: 1 });
}

#[test]
fn clones_share_their_buffers() {
    let pool = pool(0, 1);
    let out = pool.clone().take(Class::Small);
    assert!(out.is_some());
    assert!(pool.take(Class::Small).is_none());
}

#[test]
fn a_buffer_outlives_its_pool() {
    let buf = filled(&pool(0, 1), b"still here");
    assert_eq!(&buf[..], b"still here");
}

#[test]
fn a_panic_returns_the_buffer_it_held() {
    let pool = pool(0, 1);
    let result = catch_unwind(AssertUnwindSafe(|| {
        let _buf = filled(&pool, b"secret");
        panic!("a bug elsewhere");
    }));
    assert!(result.is_err());
    assert_eq!(pool.usage(Class::Small).in_use, 0);
    let mut buf = pool.take(Class::Small).unwrap();
    assert!(buf.storage_mut().iter().all(|byte| *byte == 0));
}

#[test]
fn what_was_committed_is_gone_when_the_buffer_is_taken_again() {
    let pool = pool(0, 1);
    let mut buf = filled(&pool, &[0xff; 3_000]);
    // A later, shorter commit does not hide the earlier, longer one.
    buf.commit(10..20);
    assert_eq!(buf.len(), 10);
    drop(buf);
    let mut buf = pool.take(Class::Small).unwrap();
    assert!(buf.is_empty());
    assert!(buf.storage_mut().iter().all(|byte| *byte == 0));
}

#[test]
fn committed_bytes_can_be_read_and_written_in_place() {
    let pool = pool(0, 1);
    let mut buf = filled(&pool, b"hello world");
    buf.commit(6..11);
    buf[0] = b'W';
    assert_eq!(&buf[..], b"World");
}

#[test]
fn a_commit_outside_the_storage_is_a_bug_of_the_caller() {
    let pool = pool(0, 1);
    let mut buf = pool.take(Class::Small).unwrap();
    let beyond = buf.capacity() + 1;
    assert!(catch_unwind(AssertUnwindSafe(|| buf.commit(0..beyond))).is_err());
    drop(buf);
    assert_eq!(pool.usage(Class::Small).in_use, 0);
}

#[test]
fn classes_have_their_sizes() {
    let pool = pool(1, 1);
    assert_eq!(pool.take(Class::Large).unwrap().capacity(), Class::LARGE_BYTES);
    assert_eq!(pool.take(Class::Small).unwrap().capacity(), Class::SMALL_BYTES);
}

#[test]
fn the_contents_never_reach_a_log() {
    let pool = pool(0, 1);
    let buf = filled(&pool, b"password");
    assert_eq!(format!("{buf:?}"), "Buf(8 of 9000 bytes)");
}

#[test]
fn buffers_come_home_from_other_threads() {
    const ROUNDS: usize = 10_000;
    let pool = pool(0, 3);
    let (send, receive) = std::sync::mpsc::sync_channel::<Buf>(8);
    let (taken, received) = std::thread::scope(|scope| {
        let receiver =
            scope.spawn(|| receive.into_iter().inspect(|buf| assert_eq!(&buf[..], b"over")).count());
        let contender = scope.spawn(|| {
            for _ in 0..ROUNDS {
                // Never more than one out here, and always empty.
                assert!(pool.take(Class::Small).is_none_or(|buf| buf.is_empty()));
            }
        });
        let mut taken = 0;
        for _ in 0..ROUNDS {
            if let Some(mut buf) = pool.take(Class::Small) {
                assert!(buf.storage_mut()[..4].iter().all(|byte| *byte == 0));
                buf.storage_mut()[..4].copy_from_slice(b"over");
                buf.commit(0..4);
                send.send(buf).unwrap();
                taken += 1;
            }
        }
        drop(send);
        contender.join().unwrap();
        (taken, receiver.join().unwrap())
    });
    assert!(taken > 0);
    assert_eq!(taken, received);
    assert_eq!(pool.usage(Class::Small).in_use, 0);
    assert_eq!(pool.usage(Class::Small).capacity, 3);
}

#[test]
fn what_anybody_can_send_gets_no_more_than_half_of_the_buffers() {
    let pool = pool(0, 8);
    let spare: Vec<_> = std::iter::from_fn(|| pool.take_spare(Class::Small)).collect();
    assert_eq!(spare.len(), 5, "down to less than half");
    let others: Vec<_> = std::iter::from_fn(|| pool.take(Class::Small)).collect();
    assert_eq!(others.len(), 3);
}
