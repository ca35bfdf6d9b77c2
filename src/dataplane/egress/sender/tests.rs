use std::sync::LazyLock;

use super::*;
use crate::dataplane::capture::Tap;
use crate::dataplane::egress::send_queue::SendQueue;
use crate::dataplane::io::memory;
use crate::dataplane::io::memory::{MemoryUdp, MemoryUnderlay};
use crate::dataplane::io::underlay_flow::UnderlayFlow;
use crate::dataplane::offload::Offloads;
use crate::dataplane::stats::direction::DirectionStats;

const ARENA: [u8; 100] = [7; 100];

fn peer() -> UnderlayFlow {
    UnderlayFlow::shared("192.0.2.1:8285".parse().unwrap())
}

fn context<'a>(arena: &'a [u8], stats: &'a DirectionStats) -> SendContext<'a> {
    static TAP: LazyLock<Tap> = LazyLock::new(Tap::default);
    SendContext { arena, stats, tap: &TAP }
}

/// Sends three datagrams of one batch while the socket reports `errnos` in turn.
fn send(errnos: &[i32]) -> (usize, Sender, DirectionStats, Vec<memory::Sent>) {
    let (socket, underlay): (MemoryUdp, MemoryUnderlay) = memory::udp(Offloads::AUTO);
    for &errno in errnos {
        underlay.refusals.push(errno);
    }
    let mut queue = SendQueue::new(true);
    for _ in 0..3 {
        queue.push(peer(), &[], 0..10);
    }
    let (mut sender, stats) = (Sender::new(true), DirectionStats::default());
    let num_done = sender.send(&socket, queue.batches(), &context(&ARENA, &stats));
    (num_done, sender, stats, underlay.sent.try_iter().collect())
}

#[test]
fn batch_is_sent_by_one_call() {
    let (num_done, sender, stats, sent) = send(&[]);
    assert_eq!((num_done, sent.len(), sent[0].gso_size), (1, 1, Some(10)));
    assert_eq!((stats.packets.value(), stats.bytes.value(), stats.writes.value()), (3, 30, 1));
    assert!(sender.gso());
}

#[test]
fn full_buffer_keeps_the_batch() {
    let (num_done, _, stats, sent) = send(&[libc::EAGAIN]);
    assert_eq!((num_done, sent.len(), stats.packets.value()), (0, 0, 0));
}

#[test]
fn interrupted_send_is_repeated() {
    let (num_done, _, _, sent) = send(&[libc::EINTR, libc::EINTR]);
    assert_eq!((num_done, sent.len()), (1, 1));
}

#[test]
fn device_without_gso_turns_it_off_and_loses_nothing() {
    let (num_done, sender, stats, sent) = send(&[libc::EIO]);
    assert_eq!((num_done, sent.len(), stats.packets.value()), (1, 3, 3));
    assert!(sent.iter().all(|sent| sent.gso_size.is_none()));
    assert!(!sender.gso());
}

/// EMSGSIZE about a batch must be reported twice: the first may be about an earlier datagram.
fn refusals_of_a_batch(errno: i32) -> Vec<i32> {
    vec![errno; if errno == libc::EMSGSIZE { 2 } else { 1 }]
}

#[test]
fn batch_too_long_for_the_path_is_sent_singly_and_gso_stays() {
    for errno in [libc::EMSGSIZE, libc::EINVAL] {
        let (_, sender, stats, sent) = send(&refusals_of_a_batch(errno));
        assert_eq!((sent.len(), stats.packets.value()), (3, 3));
        assert!(sender.gso());
    }
}

/// Three datagrams of one batch: the kernel accepts the first one alone, then its buffer is full.
#[test]
fn what_a_refused_batch_could_not_send_singly_is_kept() {
    for errno in [libc::EIO, libc::EINVAL, libc::EMSGSIZE] {
        let (socket, underlay) = memory::udp(Offloads::AUTO);
        let mut queue = SendQueue::new(true);
        for start in 0..3 {
            queue.push(peer(), &[], start * 10..start * 10 + 10);
        }
        queue.push(UnderlayFlow { source: 1, ..peer() }, &[], 30..40);
        let arena: Vec<u8> = (0..100).collect();
        let (mut sender, stats) = (Sender::new(true), DirectionStats::default());
        for errno in refusals_of_a_batch(errno) {
            underlay.refusals.push(errno);
        }
        underlay.refusals.pass();
        underlay.refusals.push(libc::EAGAIN);
        assert_eq!(sender.send(&socket, queue.batches(), &context(&arena, &stats)), 0, "kept");
        assert_eq!(stats.packets.value(), 1);
        underlay.refusals.push(libc::EAGAIN);
        assert_eq!(
            sender.send(&socket, queue.batches(), &context(&arena, &stats)),
            0,
            "still full"
        );
        assert_eq!(sender.send(&socket, queue.batches(), &context(&arena, &stats)), 2);
        let sent: Vec<u8> = underlay.sent.try_iter().flat_map(|sent| sent.bytes).collect();
        assert_eq!(sent, arena[..40], "errno {errno}: each once and in order");
        assert_eq!((stats.packets.value(), stats.bytes.value()), (4, 40));
        assert_eq!(stats.dropped(DropReason::NoBuffers), 0);
    }
}

#[test]
fn what_cannot_be_sent_is_counted_by_reason() {
    for (errno, reason) in [
        (libc::ENOBUFS, DropReason::NoBuffers),
        (libc::ENETUNREACH, DropReason::SendRefused),
        (libc::EPERM, DropReason::SendRefused),
    ] {
        let (num_done, _, stats, sent) = send(&[errno, errno]);
        assert_eq!((num_done, sent.len(), stats.dropped(reason)), (1, 0, 3), "errno {errno}");
    }
    let long = libc::EMSGSIZE; // as a batch, whole, in fragments, and each again
    let errnos = [long, long, long, long, long, long, libc::EPERM, libc::ENOBUFS];
    let (_, _, stats, sent) = send(&errnos);
    assert_eq!(sent.len(), 0);
    assert_eq!(stats.dropped(DropReason::TooBigForPath), 1);
    assert_eq!(stats.dropped(DropReason::SendRefused), 1);
    assert_eq!(stats.dropped(DropReason::NoBuffers), 1);
}

#[test]
fn error_about_an_earlier_datagram_costs_nothing_and_is_hinted_at() {
    for errno in [libc::ECONNREFUSED, libc::EHOSTUNREACH, libc::ENETUNREACH, libc::EPROTO] {
        let (num_done, mut sender, stats, sent) = send(&[errno]);
        assert_eq!((num_done, sent.len(), stats.packets.value()), (1, 1, 3), "errno {errno}");
        let hints = sender.take_hints();
        assert_eq!((hints.errors, hints.too_long), (true, None));
        assert!(!sender.take_hints().errors, "hinted at once");
    }
}

#[test]
fn batch_that_is_too_long_is_hinted_at_with_its_length() {
    let (_, mut sender, _, _) = send(&[libc::EMSGSIZE; 2]);
    let hints = sender.take_hints();
    assert_eq!((hints.errors, hints.too_long), (true, Some((*peer().dst.ip(), 10))));
    let (_, mut sender, _, _) = send(&[]);
    assert!(sender.take_hints().too_long.is_none());
}
