use proptest::prelude::*;

use std::io::IoSlice;
use std::net::SocketAddrV4;

use super::*;
use crate::dataplane::egress::gso_batch::MAX_PIECES;

fn peer(number: u8) -> UnderlayFlow {
    UnderlayFlow::shared(SocketAddrV4::new([192, 0, 2, number].into(), 8285))
}

fn queue(gso: bool) -> SendQueue {
    SendQueue::new(gso)
}

fn shape(queue: &SendQueue) -> Vec<(UnderlayFlow, usize, Option<u16>)> {
    queue
        .batches()
        .iter()
        .map(|batch| (batch.flow, batch.num_datagrams(), batch.gso_size()))
        .collect()
}

#[test]
fn datagrams_of_one_length_share_a_batch() {
    let mut queue = queue(true);
    for start in 0..3 {
        assert!(!queue.push(peer(1), &[], start * 100..start * 100 + 100));
    }
    assert_eq!(shape(&queue), [(peer(1), 3, Some(100))]);
}

#[test]
fn shorter_datagram_seals_its_batch_and_a_longer_one_opens_the_next() {
    let mut queue = queue(true);
    queue.push(peer(1), &[], 0..100);
    assert!(queue.push(peer(1), &[], 0..60), "sealed by the short one");
    queue.push(peer(1), &[], 0..60);
    queue.push(peer(1), &[], 0..100);
    assert_eq!(shape(&queue), [(peer(1), 2, Some(100)), (peer(1), 1, None), (peer(1), 1, None)]);
}

#[test]
fn peers_do_not_break_each_others_batches() {
    let mut queue = queue(true);
    for _ in 0..2 {
        queue.push(peer(1), &[], 0..100);
        queue.push(peer(2), &[], 0..50);
    }
    assert_eq!(shape(&queue), [(peer(1), 2, Some(100)), (peer(2), 2, Some(50))]);
}

#[test]
fn source_ports_keep_batches_apart() {
    let mut queue = queue(true);
    let other = UnderlayFlow { source: 3, ..peer(1) };
    for flow in [peer(1), other, peer(1)] {
        queue.push(flow, &[], 0..100);
    }
    assert_eq!(shape(&queue), [(peer(1), 2, Some(100)), (other, 1, None)]);
}

#[test]
fn batch_ends_at_the_most_segments_and_at_the_most_bytes() {
    let mut queue = queue(true);
    let full: Vec<bool> = (0..65).map(|_| queue.push(peer(1), &[], 0..10)).collect();
    assert_eq!(full.iter().position(|&full| full), Some(63));
    assert_eq!(shape(&queue), [(peer(1), 64, Some(10)), (peer(1), 1, None)]);

    let mut queue = SendQueue::new(true);
    for _ in 0..45 {
        queue.push(peer(1), &[7; 52], 0..1420);
    }
    assert_eq!(shape(&queue), [(peer(1), 44, Some(1472)), (peer(1), 1, None)]);
}

#[test]
fn without_gso_every_batch_is_one_datagram() {
    let mut queue = queue(false);
    assert!(queue.push(peer(1), &[], 0..100));
    assert!(queue.push(peer(1), &[], 0..100));
    assert_eq!(shape(&queue), [(peer(1), 1, None), (peer(1), 1, None)]);
}

#[test]
fn released_batches_give_way_to_the_rest() {
    let mut queue = queue(true);
    queue.push(peer(1), &[], 0..100);
    queue.push(peer(2), &[], 0..100);
    queue.release(1);
    assert_eq!(shape(&queue), [(peer(2), 1, None)]);
    queue.push(peer(2), &[], 0..100);
    assert_eq!(shape(&queue), [(peer(2), 2, Some(100))]);
}

proptest! {
    /// Whatever is pushed comes out per peer in order, in batches that `UDP_SEGMENT` may send.
    #[test]
    fn batches_give_back_what_was_pushed(
        pushes in prop::collection::vec((0_u8..3, 0_usize..40, 1_usize..200), 1..400),
    ) {
        let arena: Vec<u8> = (0..400_usize).map(|at| u8::try_from(at % 256).unwrap()).collect();
        let mut queue = queue(true);
        let mut expected = vec![Vec::new(); 3];
        for &(number, headers_len, body_len) in &pushes {
            let headers = vec![number; headers_len];
            queue.push(peer(number), &headers, headers_len..headers_len + body_len);
            expected[usize::from(number)]
                .push([&headers[..], &arena[headers_len..headers_len + body_len]].concat());
        }
        let mut sent = vec![Vec::new(); 3];
        for batch in queue.batches() {
            let mut slices = [IoSlice::new(&[]); MAX_PIECES];
            let pieces = batch.gather(0..batch.num_datagrams(), &arena, &mut slices);
            let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
            prop_assert_eq!(bytes.len(), batch.len());
            prop_assert!(batch.len() <= 65_507 && batch.num_datagrams() <= MAX_GSO_SEGMENTS);
            let datagram_len = batch.gso_size().map_or(bytes.len(), usize::from);
            let datagrams: Vec<Vec<u8>> = bytes.chunks(datagram_len).map(<[u8]>::to_vec).collect();
            prop_assert_eq!(datagrams.len(), batch.num_datagrams());
            for (index, datagram) in datagrams.iter().enumerate() {
                let mut slices = [IoSlice::new(&[]); MAX_PIECES];
                let alone = batch.gather(index..index + 1, &arena, &mut slices);
                prop_assert_eq!(&alone.iter().flat_map(|piece| piece.to_vec()).collect::<Vec<u8>>(), datagram);
            }
            sent[usize::from(batch.flow.dst.ip().octets()[3])].extend(datagrams);
        }
        prop_assert_eq!(sent, expected);
    }
}
