use super::*;
use crate::dataplane::packet::builder::PacketBuilder;

fn all() -> Filter {
    Filter { subnets: Vec::new(), direction: None, only_dropped: false, snap_len: 65_535 }
}

fn packet(dst: &str) -> Vec<u8> {
    PacketBuilder::udp("10.1.15.2:1", dst).payload(&[7; 72]).build()
}

fn offer(tap: &Tap, direction: Direction, reason: Option<DropReason>, packet: &[u8]) {
    tap.offer(direction, reason, &[IoSlice::new(&packet[..30]), IoSlice::new(&packet[30..])]);
}

#[test]
fn tap_is_on_while_there_is_a_capture() {
    let captures = Captures::default();
    let mut tap = Tap::new(captures.clone());
    assert!(!tap.is_on());
    let first = captures.start(all()).unwrap();
    let second = captures.start(all()).unwrap();
    tap.refresh();
    assert!(tap.is_on());
    drop(first);
    tap.refresh();
    offer(&tap, Direction::Egress, None, &packet("10.1.16.2:2"));
    let taken: Vec<Captured> = second.take().collect();
    assert_eq!((taken.len(), taken[0].len), (1, 100));
    assert_eq!(taken[0].bytes, packet("10.1.16.2:2"), "both pieces");
    drop(second);
    tap.refresh();
    assert!(!tap.is_on());
    let worker_that_starts_late = Tap::new(captures.clone());
    assert!(!worker_that_starts_late.is_on());
    let _running: Vec<Capture> =
        (0..MAX_CAPTURES).map(|_| captures.start(all()).unwrap()).collect();
    assert_eq!(captures.start(all()).unwrap_err(), TooManyCaptures);
    assert!(Tap::new(captures).is_on());
}

fn matching(filter: Filter) -> Vec<Captured> {
    let captures = Captures::default();
    let capture = captures.start(filter).unwrap();
    let tap = Tap::new(captures);
    offer(&tap, Direction::Egress, None, &packet("10.1.16.2:2"));
    offer(&tap, Direction::Ingress, None, &packet("10.1.17.2:2"));
    offer(&tap, Direction::Egress, Some(DropReason::NoRoute), &packet("10.1.18.2:2"));
    tap.offer(Direction::Ingress, Some(DropReason::TooShort), &[IoSlice::new(&[0x45; 9])]);
    assert_eq!(capture.counts().1, 0);
    capture.take().collect()
}

#[test]
fn filter_chooses_by_subnet_direction_and_fate() {
    let reasons = |filter| matching(filter).iter().map(|p| p.reason).collect::<Vec<_>>();
    assert_eq!(matching(all()).len(), 4);
    let (no_route, too_short) = (Some(DropReason::NoRoute), Some(DropReason::TooShort));
    assert_eq!(reasons(Filter { only_dropped: true, ..all() }), [no_route, too_short]);
    let direction = Some(Direction::Ingress);
    assert_eq!(reasons(Filter { direction, ..all() }), [None, too_short]);
    let subnets = ["10.1.17.0/24", "10.1.18.0/24"].map(|subnet| subnet.parse().unwrap()).to_vec();
    assert_eq!(reasons(Filter { subnets, ..all() }), [None, no_route]);
    let by_source = vec!["10.1.15.0/24".parse().unwrap()];
    assert_eq!(matching(Filter { subnets: by_source, ..all() }).len(), 3);
    let short = matching(Filter { snap_len: 40, ..all() });
    assert_eq!((short[0].bytes.len(), short[0].len), (40, 100));
}

#[test]
fn what_does_not_fit_is_counted_and_keeps_no_worker_waiting() {
    let captures = Captures::default();
    let capture = captures.start(all()).unwrap();
    let tap = Tap::new(captures);
    let long = vec![0x45; 65_535];
    let num = 1000;
    for _ in 0..num {
        tap.offer(Direction::Egress, None, &[IoSlice::new(&long)]);
    }
    let num_taken = capture.take().count() as u64;
    assert!((200..300).contains(&num_taken), "{num_taken}: 16 MiB");
    assert_eq!(capture.counts(), (num, num - num_taken));
    for _ in 0..20_000 {
        tap.offer(Direction::Egress, None, &[IoSlice::new(&[0x45; 20])]);
    }
    assert_eq!(capture.take().count(), 16_384);
}
