use std::io::{Cursor, IoSlice};
use std::time::{SystemTime, UNIX_EPOCH};

use http_body_util::BodyExt;
use pcap_parser::traits::PcapReaderIterator;
use pcap_parser::{Block, OptionCode, PcapBlockOwned, PcapError, PcapNGOption, PcapNGReader};

use super::*;
use crate::dataplane::DropReason;
use crate::dataplane::capture::{Captures, Direction, Filter, Tap};
use crate::dataplane::packet::builder::PacketBuilder;

/// A file as another library reads it.
#[derive(Debug, Default, PartialEq, Eq)]
struct File {
    device: String,
    /// Bytes, whole length, flags, comment.
    packets: Vec<(Vec<u8>, u32, u64, Option<String>)>,
    /// Matched and lost packets.
    statistics: Vec<(u64, u64)>,
}

fn read(bytes: &[u8]) -> File {
    let mut reader = PcapNGReader::new(1 << 20, Cursor::new(bytes)).unwrap();
    let mut file = File::default();
    loop {
        match reader.next() {
            Ok((len, block)) => {
                if let PcapBlockOwned::NG(block) = block {
                    file.add(&block);
                }
                reader.consume(len);
            }
            Err(PcapError::Eof) => return file,
            Err(PcapError::Incomplete(_)) => reader.refill().unwrap(),
            Err(error) => panic!("{error}"),
        }
    }
}

impl File {
    fn add(&mut self, block: &Block<'_>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        if let Block::InterfaceDescription(block) = block {
            assert_eq!((block.linktype.0, block.if_tsresol), (101, 9));
            self.device = block.if_name().unwrap().unwrap().to_owned();
        }
        if let Block::EnhancedPacket(block) = block {
            let (seconds, _) = block.decode_ts(0, 1_000_000_000);
            assert!(now.abs_diff(seconds.into()) < 60, "{seconds}");
            let comment = option(&block.options, OptionCode::Comment);
            let comment = comment.map(|text| text.as_str().unwrap().to_owned());
            let flags = number(option(&block.options, OptionCode(2)), 4);
            let bytes = block.data[..block.caplen as usize].to_vec();
            self.packets.push((bytes, block.origlen, flags, comment));
        }
        if let Block::InterfaceStatistics(block) = block {
            let nanos = u64::from(block.ts_high) << 32 | u64::from(block.ts_low);
            assert!(now.abs_diff(nanos / 1_000_000_000) < 60, "{nanos}");
            let [received, dropped] =
                [4, 5].map(|code| number(option(&block.options, OptionCode(code)), 8));
            self.statistics.push((received, dropped));
        }
    }
}

fn option<'o, 'a>(
    options: &'o [PcapNGOption<'a>],
    code: OptionCode,
) -> Option<&'o PcapNGOption<'a>> {
    options.iter().find(|option| option.code == code)
}

fn number(option: Option<&PcapNGOption<'_>>, len: usize) -> u64 {
    option.unwrap().value()[..len].iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
}

fn start(snap_len: u32, count: u64, seconds: u64) -> (Tap, Captures, CaptureBody) {
    let captures = Captures::default();
    let snap = usize::try_from(snap_len).unwrap();
    let filter =
        Filter { subnets: Vec::new(), direction: None, only_dropped: false, snap_len: snap };
    let capture = captures.start(filter).unwrap();
    let duration = Duration::from_secs(seconds);
    let body = CaptureBody::new(capture, "flannel0", snap_len, (count, duration));
    (Tap::new(captures.clone()), captures, body)
}

fn packet(len: usize) -> Vec<u8> {
    PacketBuilder::udp("10.1.15.2:1", "10.1.16.2:2").payload(&vec![7; len]).build()
}

async fn whole(body: CaptureBody) -> File {
    read(&body.collect().await.unwrap().to_bytes())
}

#[tokio::test]
async fn file_reads_back_with_directions_and_reasons() {
    let (tap, captures, body) = start(60, 3, 3600);
    let [short, long] = [packet(5), packet(1000)];
    tap.offer(Direction::Egress, None, &[IoSlice::new(&short)]);
    tap.offer(Direction::Ingress, None, &[IoSlice::new(&long)]);
    tap.offer(Direction::Egress, Some(DropReason::NoRoute), &[IoSlice::new(&short)]);
    tap.offer(Direction::Egress, None, &[IoSlice::new(&short)]);
    let file = whole(body).await;
    let comment = Some("dropped: no_route".to_owned());
    let expected = File {
        device: "flannel0".to_owned(),
        packets: vec![
            (short.clone(), 33, 2, None),
            (long[..60].to_vec(), 1028, 1, None),
            (short, 33, 2, comment),
        ],
        statistics: vec![(4, 0)],
    };
    assert_eq!(file, expected, "3 packets were asked for");
    assert!(!Tap::new(captures).is_on(), "the capture is over");
}

#[tokio::test]
async fn lost_packets_are_in_the_file() {
    let (tap, _, body) = start(65_535, u64::MAX, 0);
    let long = packet(60_000);
    for _ in 0..1000 {
        tap.offer(Direction::Egress, None, &[IoSlice::new(&long)]);
    }
    let file = whole(body).await;
    let (matched, lost) = *file.statistics.last().unwrap();
    assert!(matched == 1000 && lost > 700, "{lost}");
}

#[tokio::test(start_paused = true)]
async fn capture_without_packets_ends_in_time_and_with_its_client() {
    let (_, _, body) = start(65_535, u64::MAX, 5);
    let begin = Instant::now();
    let file = whole(body).await;
    assert_eq!((file.packets.len(), file.statistics), (0, vec![(0, 0)]));
    assert_eq!((Instant::now() - begin).as_secs(), 5);
    let (_, captures, body) = start(65_535, u64::MAX, 5);
    drop(body);
    assert!(!Tap::new(captures).is_on());
}
