//! Classic BPF programs: what the kernel runs on each packet of a socket.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{c_int, sock_filter};

use crate::sys::check;

const LOAD_WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const LOAD_HALF: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const LOAD_WORD_AT_X: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_IND;
const LOAD_HALF_AT_X: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_IND;
const LOAD_BYTE_AT_X: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_IND;
const JUMP_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const JUMP_ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const MODULO: u32 = libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const SHIFT_LEFT: u32 = libc::BPF_ALU | libc::BPF_LSH | libc::BPF_K;
const SHIFT_RIGHT: u32 = libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K;
const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;
const LOAD_X: u32 = libc::BPF_LDX | libc::BPF_W | libc::BPF_IMM;
const A_TO_X: u32 = libc::BPF_MISC; // with BPF_TAX, which is 0
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
const RETURN_A: u32 = libc::BPF_RET | 0x10; // BPF_A

/// Offset of the network header, wherever it is in the packet.
pub(crate) const NETWORK: u32 = libc::SKF_NET_OFF as u32;
/// Offset of the packet's type: [`TO_HOST`] and others.
pub(crate) const PACKET_TYPE: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE) as u32;
/// `PACKET_HOST`: the packet is for this machine.
pub(crate) const TO_HOST: u32 = 0;

const fn op(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// A ← word at `offset`.
pub(crate) const fn load_word(offset: u32) -> sock_filter {
    op(LOAD_WORD, offset)
}
/// A ← 16 bits at `offset`.
pub(crate) const fn load_half(offset: u32) -> sock_filter {
    op(LOAD_HALF, offset)
}
/// A ← byte at `offset`.
pub(crate) const fn load_byte(offset: u32) -> sock_filter {
    op(LOAD_BYTE, offset)
}
/// A ← word at X + `offset`.
pub(crate) const fn load_word_at_x(offset: u32) -> sock_filter {
    op(LOAD_WORD_AT_X, offset)
}
/// A ← 16 bits at X + `offset`.
pub(crate) const fn load_half_at_x(offset: u32) -> sock_filter {
    op(LOAD_HALF_AT_X, offset)
}
/// A ← byte at X + `offset`.
pub(crate) const fn load_byte_at_x(offset: u32) -> sock_filter {
    op(LOAD_BYTE_AT_X, offset)
}
/// Skips `jt` instructions if A is `value`, otherwise `jf`.
pub(crate) const fn if_equal(value: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { jt, jf, ..op(JUMP_EQUAL, value) }
}
/// Skips `jt` instructions if A has one of `bits`, otherwise `jf`.
pub(crate) const fn if_any_bit(bits: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { jt, jf, ..op(JUMP_ANY_BIT, bits) }
}
/// A ← A mod `value`.
pub(crate) const fn modulo(value: u32) -> sock_filter {
    op(MODULO, value)
}
/// A ← A & `bits`.
pub(crate) const fn and(bits: u32) -> sock_filter {
    op(AND, bits)
}
/// A ← A << `bits`.
pub(crate) const fn shift_left(bits: u32) -> sock_filter {
    op(SHIFT_LEFT, bits)
}
/// A ← A >> `bits`.
pub(crate) const fn shift_right(bits: u32) -> sock_filter {
    op(SHIFT_RIGHT, bits)
}
/// Skips `count` instructions.
pub(crate) const fn jump(count: u32) -> sock_filter {
    op(JUMP, count)
}
/// X ← `value`.
pub(crate) const fn load_x(value: u32) -> sock_filter {
    op(LOAD_X, value)
}
/// X ← A.
pub(crate) const fn a_to_x() -> sock_filter {
    op(A_TO_X, 0)
}
/// Ends with `value`: for a filter the bytes to keep, 0 to drop.
pub(crate) const fn end(value: u32) -> sock_filter {
    op(RETURN, value)
}
/// Ends with A.
pub(crate) const fn end_with_a() -> sock_filter {
    op(RETURN_A, 0)
}

/// Gives a program to a socket, by one of the options that take a `struct sock_fprog`.
pub(crate) fn attach(
    fd: BorrowedFd<'_>,
    level: c_int,
    option: c_int,
    program: &[sock_filter],
) -> io::Result<()> {
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // SAFETY: `program` and the instructions it points to live until the call returns; the kernel copies them and
    // writes to neither.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    })
    .map(drop)
}
