//! `flanneld capture`.

use std::path::Path;
use std::process::Output;
use std::thread;

use pcap_parser::traits::PcapReaderIterator;
use pcap_parser::{Block, OptionCode, PcapBlockOwned, PcapError, PcapNGReader};
use twill::lab::host::process::Process;
use twill::lab::network::daemon::Daemon;
use twill::lab::network::node::Node;
use twill::lab::{Lab, LabSpec};

use crate::fast_path;
use crate::harness::{FLANNELD, assert_tcp_is_whole, eventually, ping, pod, spec, up_on_workers};

/// Flags and comment of each packet that another library reads in a file, and its bytes.
fn read(path: &Path) -> Vec<(u8, Option<String>, Vec<u8>)> {
    let mut reader = PcapNGReader::new(1 << 20, std::fs::File::open(path).unwrap()).unwrap();
    let mut packets = Vec::new();
    loop {
        match reader.next() {
            Ok((len, block)) => {
                if let PcapBlockOwned::NG(Block::EnhancedPacket(packet)) = block {
                    let option = |code| packet.options.iter().find(|it| it.code == code);
                    let comment = option(OptionCode::Comment);
                    let comment = comment.map(|text| text.as_str().unwrap().to_owned());
                    let flags = option(OptionCode(2)).unwrap().value()[3];
                    packets.push((flags, comment, packet.data.to_vec()));
                }
                reader.consume(len);
            }
            Err(PcapError::Eof) => return packets,
            Err(PcapError::Incomplete(_)) => reader.refill().unwrap(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Runs `flanneld capture` with the words of `args`, while packets go to the other pod and to a subnet
/// that nobody has.
fn capture(lab: &Lab, args: &str) -> Output {
    let netns = lab.nodes()[0].netns().clone();
    let args = format!("capture {args}");
    let capture = thread::spawn(move || netns.tool(FLANNELD).words(&args).output().unwrap());
    while !capture.is_finished() {
        ping(pod(lab, 0), "-c 1 -W 1", pod(lab, 1).addr);
        ping(pod(lab, 0), "-c 1 -W 0.1", [10, 5, 254, 9].into());
    }
    let output = capture.join().unwrap();
    Output {
        status: output.status,
        stdout: output.stdout.into_bytes(),
        stderr: output.stderr.into_bytes(),
    }
}

fn log_has(node: &Node, text: &str) -> bool {
    node.log_tail(1000).contains(text)
}

/// Packet sockets in a node's namespace.
fn packet_sockets(node: &Node) -> usize {
    let listed = node.netns().tool("cat").arg("/proc/net/packet").run().unwrap();
    listed.lines().count() - 1
}

#[test]
fn capture_has_what_the_kernel_carries_and_what_workers_carry_each_packet_once() {
    let daemon = Daemon::flanneld(FLANNELD).with("--fast-path=xdp");
    let by_xdp = LabSpec { daemon, frames_only: true, ..spec("capture-xdp", 2) };
    for spec in [spec("capture-fast", 2), by_xdp] {
        assert_captured_once(&Lab::up(spec).unwrap());
    }
}

fn assert_captured_once(lab: &Lab) {
    let (node, from, to) = (&lab.nodes()[0], pod(lab, 0), pod(lab, 1));
    fast_path::wait_for_it(lab);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("both.pcapng");
    let args = format!("capture -w {} --snaplen 200 --peer {}", file.display(), to.addr);
    let args: Vec<String> = args.split(' ').map(str::to_owned).collect();
    let log = dir.path().join("log");
    let mut client = Process::start(node.netns(), Path::new(FLANNELD), &args, log).unwrap();
    eventually("the capture has begun", || packet_sockets(node) == 1);

    // Two pings that the kernel carries, and one in fragments, which workers carry.
    for args in ["-c 2 -i 0.2 -s 100", "-c 1 -s 2000"] {
        assert!(ping(from, args, to.addr).0, "{args}");
    }
    assert_tcp_is_whole(lab, from, to, 16);
    eventually("the file has it all", || {
        let kinds: Vec<_> = read(&file).into_iter().map(|(_, comment, _)| comment).collect();
        kinds.iter().filter(|comment| comment.is_none()).count() == 4 && kinds.len() > 200
    });
    client.kill();
    eventually("the capture ends with its client", || packet_sockets(node) == 0);
    let packets = read(&file);
    let pings = packets.iter().filter(|it| it.2[9] == 1 && it.2[2..4] == 128_u16.to_be_bytes());
    let pings: Vec<_> = pings.map(|it| (it.0, it.1.as_deref())).collect();
    assert_eq!(pings, [(2, Some("fast path")), (1, Some("fast path"))].repeat(2));
    let by_tcp = |flags| packets.iter().any(|it| it.0 == flags && it.2[9] == 6);
    assert!(by_tcp(1) && by_tcp(2), "both ways");
    assert!(ping(from, "-c 2 -i 0.2", to.addr).0, "nothing else ends");
}

#[test]
fn capture_without_a_packet_socket_says_what_it_takes() {
    let without = ["--bounding-set=-net_raw", "--inh-caps=-net_raw", FLANNELD].map(str::to_owned);
    let confined = Daemon { before: without.to_vec(), ..Daemon::flanneld("/usr/bin/setpriv") };
    let daemons = [("n1".to_owned(), confined.with("--ip-masq=false"))].into();
    let lab = Lab::up(LabSpec { daemons, ..spec("capture-raw", 2) }).unwrap();
    let node = &lab.nodes()[0];
    eventually("the fast path is on", || fast_path::is_active(node));
    let output = capture(&lab, "--count 1 -w /dev/null");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("it takes CAP_NET_RAW"), "{text}");
    let output = capture(&lab, "--count 1 -w /dev/null --dropped --duration 15s");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn capture_has_both_directions_and_dropped_packets_and_harms_nobody() {
    let lab = up_on_workers("capture", 2);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("all.pcapng");
    let file = file.to_str().unwrap();
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();

    let output = capture(&lab, &format!("-w {file} --count 9 --duration 15s"));
    assert!(output.status.success() && said(&output).contains("9 packets captured"), "{output:?}");
    let packets = read(Path::new(file));
    let dst = |packet: &[u8]| <[u8; 4]>::try_from(&packet[16..20]).unwrap();
    let (here, there) = (pod(&lab, 0).addr.octets(), pod(&lab, 1).addr.octets());
    let has = |flags: u8, reason: Option<&str>, to: [u8; 4]| {
        packets.iter().any(|it| (it.0, it.1.as_deref(), dst(&it.2)) == (flags, reason, to))
    };
    assert!(has(2, None, there) && has(1, None, here), "{packets:?}");
    assert!(has(2, Some("dropped: no_route"), [10, 5, 254, 9]), "{packets:?}");
    assert_eq!(packets.len(), 9);

    let peer = lab.nodes()[1].addr();
    let args = format!("-w {file} --count 3 --direction ingress --peer {peer} --json");
    let output = capture(&lab, &args);
    assert!(String::from_utf8_lossy(&output.stdout).contains("\"packets\": 3"), "{output:?}");
    assert!(read(Path::new(file)).iter().all(|it| it.0 == 1 && it.1.is_none()));

    // A full disk, a reader that has seen enough, an unknown peer.
    let output = capture(&lab, "-w /dev/full");
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("write /dev/full: No space left on device"), "{text}");
    let netns = lab.nodes()[0].netns().clone();
    let script = format!("{FLANNELD} capture | head -c 9 >/dev/null");
    let piped = thread::spawn(move || netns.tool("sh").arg("-c").arg(script).output().unwrap());
    while !piped.is_finished() {
        ping(pod(&lab, 0), "-c 1 -W 1", pod(&lab, 1).addr);
    }
    let output = piped.join().unwrap();
    assert!(output.stderr.contains("packets captured"), "{}", output.stderr);
    let output = capture(&lab, &format!("-w {file} --peer 192.0.2.99"));
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("192.0.2.99 is neither a peer's public IP"), "{output:?}");
    eventually("all captures to have ended", || {
        let log = lab.nodes()[0].log_tail(1000);
        log.matches("capture ends").count() == 4
    });
    assert!(!log_has(&lab.nodes()[0], "panicked"));
}
