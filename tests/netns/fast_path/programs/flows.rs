//! Which flows of UDP the kernel has.

use super::*;

/// A flow from this port of ours, request and answer, and the longest time between two of its packets.
struct Flow {
    request: Vec<u8>,
    answer: Vec<u8>,
    last: Instant,
    longest_pause: Duration,
}

impl Flow {
    fn from(port: u16) -> Self {
        let here = format!("10.1.15.2:{port}");
        let (request, answer) = (udp((&here, FROM_US.1)), udp((FROM_US.1, &here)));
        let (last, longest_pause) = (Instant::now(), Duration::ZERO);
        Self { request: request.build(), answer: answer.build(), last, longest_pause }
    }

    /// Whether the kernel takes a packet.
    fn is_taken(&mut self, bench: &mut Bench, packet: &[u8]) -> bool {
        let is_taken = bench.egress(packet, 0).unwrap() != Fate::Passed;
        self.longest_pause = self.longest_pause.max(self.last.elapsed());
        self.last = Instant::now();
        is_taken
    }

    /// Of so many requests the kernel takes this number.
    fn num_taken(&mut self, bench: &mut Bench, num: usize) -> usize {
        let request = self.request.clone();
        (0..num).filter(|_| self.is_taken(bench, &request)).count()
    }
}

/// What `work` finds once the machine did not pause it for so long: that would be a pause of the flow.
fn without_pause<T>(limit: Duration, mut work: impl FnMut(&mut Flow) -> T) -> T {
    for port in 1000..1050 {
        let mut flow = Flow::from(port);
        let found = work(&mut flow);
        if flow.longest_pause < limit {
            return found;
        }
    }
    panic!("this machine pauses a test for more than {limit:?} all the time");
}

#[test]
fn kernel_has_a_flow_while_few_packets_wait_for_an_answer() {
    let mut host = Host::new("bpf-flow", FAST);
    host.run(|bench| {
        let found = without_pause(Duration::from_millis(15), |flow| {
            // Each answer makes room for more, by whichever way it comes.
            let by_worker = PacketBuilder::udp(PEER, "192.0.2.15:8285").payload(&flow.answer);
            let answers = [datagram(&flow.answer), by_worker.build(), datagram(&flow.answer)];
            let taken = answers.iter().zip([8, 8, 20]).map(|(answer, num)| {
                let taken = flow.num_taken(bench, num);
                bench.ingress(answer, 0).unwrap();
                taken
            });
            let taken: Vec<_> = taken.collect();
            // The workers may have some of it still, so the last answer changes nothing.
            let after = flow.num_taken(bench, 3);
            let other = Flow::from(900).num_taken(bench, 1);
            (taken, after, other)
        });
        assert_eq!(found, (vec![8, 8, 8], 0, 1));
        Fate::Passed
    });
}

#[test]
fn flow_comes_back_after_silence_and_fragments_are_none() {
    let mut host = Host::new("bpf-silence", FAST);
    host.run(|bench| {
        let found = without_pause(Duration::from_millis(200), |flow| {
            let mut fragment = flow.request.clone();
            fragment[6] = 0x20;
            write_ipv4_checksum(&mut fragment[..20]);
            let burst = flow.num_taken(bench, 20);
            sleep(Duration::from_millis(400));
            flow.last = Instant::now();
            let after_silence = flow.num_taken(bench, 2);
            let mut fragments = 0;
            for _ in 0..8 {
                fragments += usize::from(flow.is_taken(bench, &fragment));
                sleep(Duration::from_millis(50));
            }
            (burst < 20, after_silence, fragments, flow.num_taken(bench, 1))
        });
        assert_eq!(found, (true, 2, 0, 0));
        Fate::Passed
    });
}

#[test]
fn flow_of_which_there_is_much_is_a_burst_though_it_is_answered() {
    let mut host = Host::new("bpf-much", FAST);
    let mut flow = Flow::from(1000);
    let answer = datagram(&flow.answer);
    host.run(|bench| {
        let mut is_taken = || {
            let is_taken = flow.num_taken(bench, 8) == 8;
            assert!(matches!(bench.ingress(&answer, 0).unwrap(), Fate::Redirected(_)));
            is_taken
        };
        let num_taken = (0..20_000).take_while(|_| is_taken()).count();
        assert!((4..20_000).contains(&num_taken), "{num_taken}");
        Fate::Passed
    });
}

/// Where single frames leave, TCP is as UDP.
#[test]
fn tcp_is_the_kernels_while_few_segments_wait_for_an_answer() {
    let mut host = Host::of_single_frames("bpf-flow-tcp");
    host.run(|bench| {
        let found = without_pause(Duration::from_millis(15), |flow| {
            let here =
                format!("10.1.15.2:{}", u16::from_be_bytes([flow.request[20], flow.request[21]]));
            flow.request = tcp((&here, FROM_US.1)).build();
            let answer = tcp((FROM_US.1, &here)).build();
            let first = flow.num_taken(bench, 6);
            let is_taken = bench.ingress(&datagram(&answer), 0).unwrap() != Fate::Passed;
            let second = flow.num_taken(bench, 6);
            (first, is_taken, second)
        });
        assert_eq!(found, (6, true, 6));
        // Superpackets count as their segments. The kernel's test run makes none whose headers could grow.
        for (port, gso_size, reason) in [(900, 50, "header"), (901, 10, "burst")] {
            let packet = tcp((&format!("10.1.15.2:{port}"), FROM_US.1)).build();
            let before = bench.counters().egress.passed[reason];
            assert_eq!(bench.egress(&packet, gso_size).unwrap(), Fate::Passed);
            assert_eq!(bench.counters().egress.passed[reason] - before, 1, "{gso_size}");
        }
        Fate::Passed
    });
}
