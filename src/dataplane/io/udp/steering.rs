//! The program that tells the kernel which socket of a group receives a datagram.

use std::io;
use std::net::SocketAddrV4;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::AttachReusePortCbpf;
use socket2::Socket;

/// Offset in a program's loads at which the IPv4 header begins: `SKF_NET_OFF` in
/// `include/uapi/linux/filter.h`. A header with options is longer than the program expects; then it
/// reads something else, which is as constant as the options.
const NET_OFF: u32 = 0xfff0_0000;
const SOURCE_ADDR: u32 = NET_OFF + 12;
const SOURCE_PORT: u32 = NET_OFF + 20;

/// Length of the program, in instructions.
const LEN: usize = 17;

/// 2³² / φ, for multiplicative hashing (Knuth, TAOCP 6.4).
const GOLDEN_RATIO: u32 = 0x9e37_79b9;

/// Makes the kernel steer by class the datagrams for the group of `socket`, which has `num_sockets`
/// sockets, bound one after the other to `addr`. Datagrams of one source address and port always
/// meet the same socket.
///
/// # Errors
/// What the kernel said; it then spreads datagrams over all sockets, as without the program.
pub(super) fn by_class(socket: &Socket, addr: SocketAddrV4, num_sockets: usize) -> io::Result<()> {
    let half = u32::try_from(num_sockets / 2).unwrap_or(1).max(1);
    let mut program = program(addr.port().into(), half);
    #[expect(clippy::cast_possible_truncation, reason = "17")]
    let filter = libc::sock_fprog { len: LEN as u16, filter: program.as_mut_ptr() };
    Ok(setsockopt(socket, AttachReusePortCbpf, &filter)?)
}

/// A classic BPF program (Documentation/networking/filter.rst) whose result is the index of a socket
/// of the group. Sockets below `half` are for TCP.
fn program(own_port: u32, half: u32) -> [libc::sock_filter; LEN] {
    const LOAD_HALF: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
    const LOAD_WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const LOAD_SCRATCH: u32 = libc::BPF_LD | libc::BPF_MEM;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_A;
    let calculate = |operation, value| step(libc::BPF_ALU | operation | libc::BPF_K, value);
    [
        step(LOAD_HALF, SOURCE_PORT),
        step(libc::BPF_MISC | libc::BPF_TAX, 0),
        step(LOAD_WORD, SOURCE_ADDR),
        calculate(libc::BPF_MUL, GOLDEN_RATIO),
        step(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_X, 0),
        calculate(libc::BPF_MUL, GOLDEN_RATIO),
        calculate(libc::BPF_RSH, 16),
        calculate(libc::BPF_MOD, half),
        step(libc::BPF_ST, 0),
        step(libc::BPF_MISC | libc::BPF_TXA, 0),
        // Everything of a peer that has no further ports is one flow of the underlay.
        jump(libc::BPF_JEQ, own_port, 4),
        jump(libc::BPF_JSET, 1, 3),
        step(LOAD_SCRATCH, 0),
        calculate(libc::BPF_ADD, half),
        step(RETURN, 0),
        step(LOAD_SCRATCH, 0),
        step(RETURN, 0),
    ]
}

/// An instruction that goes on with the next.
#[expect(clippy::cast_possible_truncation, reason = "the kernel's field has 16 bits")]
const fn step(code: u32, value: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k: value }
}

/// Passes over the next `distance` instructions if the comparison with `value` holds.
const fn jump(comparison: u32, value: u32, distance: u8) -> libc::sock_filter {
    let code = libc::BPF_JMP | comparison | libc::BPF_K;
    libc::sock_filter { jt: distance, ..step(code, value) }
}
