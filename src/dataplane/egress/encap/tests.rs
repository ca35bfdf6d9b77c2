use std::time::Instant;

use super::*;
use crate::dataplane::egress::gso_batch::MAX_PIECES;
use crate::dataplane::io::underlay_flow::PORTS_PER_CLASS;
use crate::dataplane::packet::builder::PacketBuilder;
use crate::dataplane::packet::vnet_hdr::{Gso, PartialChecksum};
use crate::dataplane::pmtu::PathMtuCache;
use crate::routes::{NextHop, Route};

fn routes() -> RouteTable {
    let route = |subnet: &str, peer: &str| Route {
        subnet: subnet.parse().unwrap(),
        next_hop: NextHop::new(peer.parse().unwrap()),
    };
    let network = "10.1.0.0/16".parse().unwrap();
    RouteTable::build(network, 24, [route("10.1.16.0/24", "192.168.64.3:8285")])
}

/// What one packet, read from the TUN, leaves as.
fn forward(header: &VnetHdr, packet: &[u8]) -> Result<Vec<Vec<u8>>, DropReason> {
    forward_over(&PathMtus::NONE, header, packet)
}

fn forward_over(
    paths: &PathMtus,
    header: &VnetHdr,
    packet: &[u8],
) -> Result<Vec<Vec<u8>>, DropReason> {
    let mut encap = Encap::new(true);
    encap.room().unwrap()[..packet.len()].copy_from_slice(packet);
    encap.forward(header, packet.len(), &routes(), paths)?;
    let (queue, arena) = encap.pending();
    let mut datagrams = Vec::new();
    for batch in queue.batches() {
        assert_eq!(batch.flow, UnderlayFlow::shared("192.168.64.3:8285".parse().unwrap()));
        for index in 0..batch.num_datagrams() {
            let mut slices = [std::io::IoSlice::new(&[]); MAX_PIECES];
            let pieces = batch.gather(index..index + 1, arena, &mut slices);
            datagrams.push(pieces.iter().flat_map(|piece| piece.to_vec()).collect());
        }
    }
    Ok(datagrams)
}

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

#[test]
fn datagram_of_our_own_that_comes_back_goes_no_further() {
    let network = "10.1.0.0/16".parse().unwrap();
    let next_hop = NextHop::new("10.1.16.5:8285".parse().unwrap());
    let route = Route { subnet: "10.1.16.0/24".parse().unwrap(), next_hop };
    let routes = RouteTable::build(network, 24, [route]);
    let mut encap = Encap::new(true);
    let mut forward = |packet: &[u8]| {
        encap.room().unwrap()[..packet.len()].copy_from_slice(packet);
        encap.forward(&VnetHdr::default(), packet.len(), &routes, &PathMtus::NONE)
    };
    let packet = PacketBuilder::udp("10.1.15.2:1", "10.1.16.9:2").payload(&[7; 9]).build();
    assert_eq!(forward(&packet), Ok(false));
    let datagram = PacketBuilder::udp("192.0.2.15:8285", "10.1.16.5:8285").payload(&packet);
    assert_eq!(forward(&datagram.build()), Err(DropReason::Recursion));
}

#[test]
fn packet_leaves_as_stock_sends_it() {
    let tun = hex("45000024123440004011f58f0a010f020a011002000102030405060708090a0b0c0d0e0f");
    let wire = hex("45000024123440003f11f68f0a010f020a011002000102030405060708090a0b0c0d0e0f");
    assert_eq!(forward(&VnetHdr::default(), &tun), Ok(vec![wire]));
}

#[test]
fn ttl_steps_as_stock_does_but_never_wraps() {
    for (ttl, expected) in [(255, Ok(254)), (64, Ok(63)), (2, Ok(1))] {
        let packet = PacketBuilder::udp("10.1.15.2:1", "10.1.16.2:2").ttl(ttl).build();
        assert_eq!(forward(&VnetHdr::default(), &packet).map(|sent| sent[0][8]), expected);
    }
    for ttl in [1, 0] {
        let packet = PacketBuilder::udp("10.1.15.2:1", "10.1.16.2:2").ttl(ttl).build();
        assert_eq!(forward(&VnetHdr::default(), &packet), Err(DropReason::TtlExpired));
    }
}

#[test]
fn missing_route_is_noticed_before_the_ttl() {
    let packet = PacketBuilder::udp("10.1.15.2:1", "10.1.99.2:2").ttl(1).build();
    assert_eq!(forward(&VnetHdr::default(), &packet), Err(DropReason::NoRoute));
}

#[test]
fn superpacket_leaves_as_its_segments() {
    let payload: Vec<u8> = (0..=255).cycle().take(3000).collect();
    let packet = |payload: &[u8], id: u16, sequence: u32, ttl| {
        let builder = PacketBuilder::tcp("10.1.15.2:4000", "10.1.16.2:5001").payload(payload);
        builder.id(id).sequence(sequence, 1).ttl(ttl).build()
    };
    let header = VnetHdr {
        gso: Some(Gso::Tcp4 { gso_size: 1400 }),
        checksum: Some(PartialChecksum { start: 20, offset: 16 }),
        header_len: 40,
    };
    let expected = vec![
        packet(&payload[..1400], 7, 0, 63),
        packet(&payload[1400..2800], 8, 1400, 63),
        packet(&payload[2800..], 9, 2800, 63),
    ];
    assert_eq!(forward(&header, &packet(&payload, 7, 0, 64)), Ok(expected));
}

#[test]
fn flows_to_a_peer_that_takes_any_source_port_spread_and_stay() {
    let to = "192.168.64.3:8285".parse().unwrap();
    let next_hop = NextHop { any_source_port: true, ..NextHop::new(to) };
    let flow_of = |build: fn(&str, &str) -> PacketBuilder, port: u16, id: u16| {
        let packet = build(&format!("10.1.15.2:{port}"), "10.1.16.2:2").id(id).build();
        underlay_flow(next_hop, &packet, &classify::inner(&packet).unwrap())
    };
    let tcp = 1..=PORTS_PER_CLASS;
    let other = PORTS_PER_CLASS + 1..=2 * PORTS_PER_CLASS;
    for (build, sources) in
        [(PacketBuilder::tcp as fn(&str, &str) -> _, tcp), (PacketBuilder::udp, other)]
    {
        let mut seen = std::collections::HashSet::new();
        for port in 4000..4100 {
            assert_eq!(flow_of(build, port, 1), flow_of(build, port, 2), "one flow");
            assert!(sources.contains(&flow_of(build, port, 1).source));
            seen.insert(flow_of(build, port, 1).source);
        }
        assert_eq!(seen.len(), usize::from(PORTS_PER_CLASS));
    }
}

#[test]
fn partial_checksum_is_completed_before_a_packet_is_quoted() {
    let complete = PacketBuilder::udp("10.1.15.2:1", "10.1.99.2:2").payload(&[5; 40]).build();
    let mut packet = complete.clone();
    let pseudo = crate::dataplane::packet::checksum::Sum::of_pseudo_header(
        [10, 1, 15, 2].into(),
        [10, 1, 99, 2].into(),
        17,
        48,
    );
    packet[26..28].copy_from_slice(&pseudo.fold());
    let checksum = Some(PartialChecksum { start: 20, offset: 6 });
    let header = VnetHdr { checksum, ..VnetHdr::default() };

    let mut encap = Encap::new(true);
    encap.room().unwrap()[..packet.len()].copy_from_slice(&packet);
    assert_eq!(
        encap.forward(&header, packet.len(), &routes(), &PathMtus::NONE),
        Err(DropReason::NoRoute)
    );
    let mut quote = Vec::new();
    assert!(encap.refused(&header, packet.len(), &mut quote).is_some());
    assert_eq!(quote, complete[..28]);
}

#[test]
fn arena_is_reused_once_all_is_sent() {
    let mut encap = Encap::new(true);
    let packet = PacketBuilder::udp("10.1.15.2:1", "10.1.16.2:2").payload(&[0; 60_000]).build();
    let mut num_taken = 0;
    while let Some(room) = encap.room() {
        room[..packet.len()].copy_from_slice(&packet);
        encap.forward(&VnetHdr::default(), packet.len(), &routes(), &PathMtus::NONE).unwrap();
        num_taken += 1;
    }
    assert!(num_taken >= ARENA_LEN / MAX_PACKET_LEN - 1, "{num_taken}");
    encap.reclaim();
    assert!(encap.room().is_none(), "still referred to");
    let (queue, _) = encap.pending();
    let num = queue.batches().len();
    queue.release(num);
    encap.reclaim();
    assert!(encap.room().is_some());
}

/// The path to our peer takes packets of 1000 bytes.
fn narrow() -> PathMtuCache {
    let mut cache = PathMtuCache::new(1472);
    cache.learn([192, 168, 64, 3].into(), 1028, Instant::now());
    cache
}

#[test]
fn packet_with_df_passes_a_narrow_path_only_if_it_fits() {
    let narrow = narrow();
    let forward = |len: usize, fragment: u16| {
        let builder = PacketBuilder::udp("10.1.15.2:1", "10.1.16.2:2").fragment(fragment);
        let packet = builder.payload(&vec![1; len - 28]).build();
        forward_over(narrow.current(), &VnetHdr::default(), &packet).map(|sent| sent.len())
    };
    assert_eq!(forward(1000, ipv4::DF), Ok(1));
    assert_eq!(forward(1001, ipv4::DF), Err(DropReason::TooBigForPath));
    assert_eq!(forward(1001, 0), Ok(1), "the underlay fragments");
    assert_eq!(forward(1468, ipv4::MF), Ok(1), "and fragments of packets, too");
    assert_eq!(forward(1468, ipv4::DF | ipv4::MF), Err(DropReason::TooBigForPath));
}

#[test]
fn superpacket_passes_a_narrow_path_if_its_segments_fit() {
    let narrow = narrow();
    let forward = |gso_size: u16, payload_len: usize| {
        let builder = PacketBuilder::tcp("10.1.15.2:1", "10.1.16.2:2").fragment(ipv4::DF);
        let packet = builder.payload(&vec![1; payload_len]).build();
        let gso = Some(Gso::Tcp4 { gso_size });
        let header = VnetHdr { gso, ..VnetHdr::default() };
        forward_over(narrow.current(), &header, &packet).map(|sent| sent.len())
    };
    assert_eq!(forward(960, 9600), Ok(10));
    assert_eq!(forward(961, 9600), Err(DropReason::TooBigForPath));
    assert_eq!(forward(1400, 960), Ok(1));
}

#[test]
fn refused_packet_stands_as_it_came_and_knows_what_would_fit() {
    let builder = PacketBuilder::udp("10.1.15.2:1", "10.1.16.2:2").fragment(ipv4::DF);
    let packet = builder.payload(&[7; 1200]).build();
    let mut encap = Encap::new(true);
    encap.room().unwrap()[..packet.len()].copy_from_slice(&packet);
    let narrow = narrow();
    let result = encap.forward(&VnetHdr::default(), packet.len(), &routes(), narrow.current());
    assert_eq!((result, encap.path_mtu()), (Err(DropReason::TooBigForPath), 1000));
    let mut quote = Vec::new();
    assert!(encap.refused(&VnetHdr::default(), packet.len(), &mut quote).is_some());
    assert_eq!(quote, packet[..28]);
}
