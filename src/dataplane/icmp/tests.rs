use super::*;
use crate::dataplane::packet::builder::PacketBuilder;
use crate::dataplane::packet::classify;

const TUN_ADDR: Ipv4Addr = Ipv4Addr::new(10, 1, 15, 0);

fn reply(error: IcmpError, packet: &[u8]) -> Option<Vec<u8>> {
    let offender = classify::inner(packet).unwrap();
    let mut reply = [0xee; MAX_REPLY_LEN];
    let len = error.reply(&offender, packet, TUN_ADDR, &mut reply)?;
    Some(reply[..len].to_vec())
}

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

/// An ICMP message of `icmp_type` from one pod to another.
fn icmp(icmp_type: u8) -> Vec<u8> {
    let mut packet = PacketBuilder::udp("10.1.15.2:0", "10.1.99.2:0").payload(&[0; 8]).build();
    packet[ipv4::PROTOCOL] = protocol::ICMP;
    packet[20] = icmp_type;
    write_ipv4_checksum(&mut packet[..20]);
    packet
}

#[test]
fn net_unreachable_is_stocks_byte_for_byte() {
    let offender = hex("45000024123440004011a28f0a010f020a016302000102030405060708090a0b0c0d0e0f");
    let expected = hex("4500003800000000080180c20a010f000a010f02 0300f0ef00000000
                        45000024123440004011a28f0a010f020a016302 0001020304050607");
    assert_eq!(reply(IcmpError::NetUnreachable, &offender), Some(expected));
}

#[test]
fn time_exceeded_adds_up() {
    let packet = PacketBuilder::tcp("10.1.15.2:1", "10.1.16.2:2").ttl(1).build();
    let reply = reply(IcmpError::TimeExceeded, &packet).unwrap();
    let inner = classify::inner(&reply).unwrap();
    assert_eq!((inner.src, inner.dst), (TUN_ADDR, [10, 1, 15, 2].into()));
    assert_eq!(reply[20..22], [11, 0]);
    assert!(Sum::of(&reply[20..]).is_valid());
    assert_eq!(reply[28..], packet[..28]);
}

#[test]
fn fragmentation_needed_carries_the_next_hops_mtu() {
    let packet = PacketBuilder::udp("10.1.15.2:1", "10.1.16.2:2").payload(&[1; 1444]).build();
    let offender = classify::inner(&packet).unwrap();
    let error = IcmpError::for_drop(DropReason::TooBigForPath, 1372).unwrap();
    let mut reply = [0xee; MAX_REPLY_LEN];
    let len = error.reply(&offender, &packet, TUN_ADDR, &mut reply).unwrap();
    let inner = classify::inner(&reply[..len]).unwrap();
    assert_eq!((inner.src, inner.dst), (TUN_ADDR, [10, 1, 15, 2].into()));
    assert_eq!(reply[20..22], [3, 4]);
    assert_eq!(reply[24..28], [0, 0, 0x05, 0x5c]);
    assert!(Sum::of(&reply[20..len]).is_valid());
    assert_eq!(reply[28..len], packet[..28]);
}

#[test]
fn only_the_offenders_own_bytes_are_quoted() {
    let mut packet = PacketBuilder::udp("10.1.15.2:1", "10.1.99.2:2").build();
    packet.truncate(23);
    set_u16(&mut packet, ipv4::TOTAL_LEN, 23);
    write_ipv4_checksum(&mut packet[..20]);
    let reply = reply(IcmpError::NetUnreachable, &packet).unwrap();
    assert_eq!(reply[28..], packet[..]);
}

#[test]
fn offender_with_the_longest_header_is_answered() {
    let mut packet = vec![1; 60]; // 40 bytes of no-operation options
    packet[..20].copy_from_slice(&PacketBuilder::udp("10.1.15.2:1", "10.1.99.2:2").build()[..20]);
    packet[0] = 0x4f;
    packet.extend_from_slice(&[9; 8]);
    set_u16(&mut packet, ipv4::TOTAL_LEN, 68);
    write_ipv4_checksum(&mut packet[..60]);
    let reply = reply(IcmpError::NetUnreachable, &packet).unwrap();
    assert_eq!(reply.len(), MAX_REPLY_LEN);
    assert_eq!(reply[28..], packet[..]);
}

#[test]
fn errors_are_never_sent_about_errors() {
    for icmp_type in [3, 4, 5, 11, 12, 42] {
        assert_eq!(reply(IcmpError::NetUnreachable, &icmp(icmp_type)), None, "type {icmp_type}");
    }
    for icmp_type in [0, 8, 13, 14] {
        assert!(reply(IcmpError::NetUnreachable, &icmp(icmp_type)).is_some(), "type {icmp_type}");
    }
}

#[test]
fn errors_are_sent_only_about_packets_between_single_hosts() {
    let silent = |src: &str, dst: &str| {
        assert_eq!(reply(IcmpError::NetUnreachable, &PacketBuilder::udp(src, dst).build()), None);
    };
    silent("10.1.15.2:1", "224.0.0.251:5353");
    silent("10.1.15.2:1", "255.255.255.255:67");
    silent("0.0.0.0:1", "10.1.99.2:2");
    silent("127.0.0.1:1", "10.1.99.2:2");
    silent("224.0.0.1:1", "10.1.99.2:2");
}

#[test]
fn errors_are_sent_about_first_fragments_only() {
    let fragment =
        |field| PacketBuilder::udp("10.1.15.2:1", "10.1.99.2:2").payload(&[0; 24]).fragment(field);
    assert!(reply(IcmpError::NetUnreachable, &fragment(ipv4::MF).build()).is_some());
    assert_eq!(reply(IcmpError::NetUnreachable, &fragment(4).build()), None);
}

#[test]
fn limit_lets_a_burst_through_and_then_one_each_interval() {
    let start = Instant::now();
    let mut limit = IcmpLimit::new(start);
    let allowed = (0..1000).filter(|_| limit.allow(start)).count();
    assert_eq!(allowed, BURST as usize);
    assert!(!limit.allow(start + INTERVAL / 2));
    assert!(limit.allow(start + INTERVAL));
    assert!(!limit.allow(start + INTERVAL));
    let later = start + Duration::from_secs(3600);
    assert_eq!((0..1000).filter(|_| limit.allow(later)).count(), BURST as usize);
}

#[test]
fn limit_keeps_the_fractions_of_an_interval() {
    for step in [400, 600, 999, 1001, 1700] {
        let start = Instant::now();
        let mut limit = IcmpLimit::new(start);
        while limit.allow(start) {}
        let asked = (1..).map(|n| Duration::from_micros(n * step));
        let asked = asked.take_while(|&after| after <= Duration::from_secs(10));
        let (mut num_asked, mut num_allowed) = (0, 0);
        for after in asked {
            num_asked += 1;
            num_allowed += i32::from(limit.allow(start + after));
        }
        let expected = num_asked.min(10_000);
        assert!((num_allowed - expected).abs() <= 1, "{num_allowed} at {step} us");
    }
}
