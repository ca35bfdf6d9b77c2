//! The demo: a lab, every pod pinged from every pod, and the datapaths measured against each other.

use std::thread;

use super::LabError;
use super::host::command::Tool;
use super::host::wait::wait_for;
use super::network::Lab;
use super::network::datapath;
use super::network::datapath::Datapath;
use super::network::node::Node;
use super::network::pods::Pod;
use super::progress::step;
use super::report::{Report, Row, Spread, median_of_sorted, table};
use super::traffic::measure;
use super::traffic::measure::TcpServer;

/// How long and how often to measure.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How often every datapath is measured.
    pub rounds: u32,
    /// Length of each TCP flow, in seconds.
    pub seconds: u32,
}

/// The figures of one datapath, one for each round.
#[derive(Debug)]
struct Samples {
    datapath: Datapath,
    name: String,
    pod_mtu: u16,
    gbps: Vec<f64>,
    rtt_us: Vec<f64>,
    retransmits: Vec<u64>,
}

/// Pings of each round: enough for a median, over in a fraction of a second.
const NUM_PINGS: u32 = 100;

/// A table of round-trip times from every pod to every pod, in microseconds.
///
/// # Errors
/// [`LabError`] when a pod does not answer another.
pub fn ping_matrix(lab: &Lab) -> Result<String, LabError> {
    let pods: Vec<&Pod> = lab.nodes().iter().flat_map(Node::pods).collect();
    let names = pods.iter().map(|pod| pod.name.clone());
    let mut rows = vec![["ping µs".to_owned()].into_iter().chain(names).collect::<Vec<_>>()];
    for from in &pods {
        let mut row = vec![from.name.clone()];
        for to in &pods {
            let times = measure::round_trips(&from.netns, to.addr, 5)?;
            row.push(format!("{:.0}", median_of_sorted(&times)));
        }
        rows.push(row);
    }
    Ok(table(&rows))
}

/// Measures all datapaths between the first pods of the lab's first two nodes, in rounds.
///
/// Every other round runs backwards, so that none has always the same neighbour, and flanneld
/// is restarted once a round instead of twice.
///
/// # Errors
/// [`LabError`] of the measurement that failed.
pub fn measure(lab: &mut Lab, plan: Plan) -> Result<Report, LabError> {
    let [client, server] = measured_pods(lab)?;
    let iperf3 = TcpServer::start(&server.netns, &lab.names().dir())?;
    datapath::prepare(lab)?;
    let off = datapath::offload_can_be_off(lab);
    let datapaths = Datapath::ALL.into_iter().filter(|c| off || *c != Datapath::OverlayOffloadOff);
    let mut all: Vec<Samples> = datapaths.map(|datapath| Samples::new(datapath, lab)).collect();
    for round in 1..=plan.rounds {
        let order: Vec<usize> = match round % 2 {
            1 => (0..all.len()).collect(),
            _ => (0..all.len()).rev().collect(),
        };
        for samples in order {
            let samples = &mut all[samples];
            samples.take(lab, &client, &server, plan.seconds)?;
            let (name, gbps) = (&samples.name, samples.gbps.last().unwrap_or(&0.0));
            step(&format!("round {round} of {}: {name}: {gbps:.2} Gb/s", plan.rounds));
        }
    }
    drop(iperf3);
    Ok(Report {
        kernel: Tool::new("uname").arg("-r").run()?.trim().to_owned(),
        num_cpus: thread::available_parallelism().map_or(0, usize::from),
        underlay_mtu: lab.mtu(),
        frames_only: lab.spec().frames_only,
        seconds: plan.seconds,
        systems: rows(&all),
    })
}

/// The first pod of the first two nodes.
fn measured_pods(lab: &Lab) -> Result<[Pod; 2], LabError> {
    let first_pod = |node: Option<&Node>| node.and_then(|node| node.pods().first()).cloned();
    let [Some(client), Some(server)] = [0, 1].map(|index| first_pod(lab.nodes().get(index))) else {
        return Err(LabError::TooFew { what: "nodes with a pod each", least: 2 });
    };
    Ok([client, server])
}

impl Samples {
    fn new(datapath: Datapath, lab: &Lab) -> Self {
        let (gbps, rtt_us, retransmits) = Default::default();
        Self { datapath, name: datapath.name(lab), pod_mtu: 0, gbps, rtt_us, retransmits }
    }

    fn take(
        &mut self,
        lab: &mut Lab,
        client: &Pod,
        server: &Pod,
        seconds: u32,
    ) -> Result<(), LabError> {
        self.pod_mtu = self.datapath.activate(lab)?;
        let what = format!("{} to carry a ping", self.name);
        wait_for(&what, super::network::node::READY, || {
            Ok(measure::reaches(&client.netns, server.addr)?.then_some(()))
        })?;
        let times = measure::round_trips(&client.netns, server.addr, NUM_PINGS)?;
        self.rtt_us.push(median_of_sorted(&times));
        let flow = measure::tcp_flow(&client.netns, server.addr, seconds)?;
        self.gbps.push(flow.bits_per_second / 1e9);
        self.retransmits.push(flow.retransmits);
        Ok(())
    }
}

fn rows(all: &[Samples]) -> Vec<Row> {
    let of = |datapath| {
        all.iter().find(|samples| samples.datapath == datapath).map(|s| Spread::of(&s.gbps))
    };
    let (raw, off) = (of(Datapath::Raw), of(Datapath::OverlayOffloadOff));
    let row = |samples: &Samples| {
        let gbps = Spread::of(&samples.gbps);
        Row {
            system: samples.name.clone(),
            pod_mtu: samples.pod_mtu,
            ratio_to_raw: raw.as_ref().and_then(|raw| gbps.ratio_to(raw)),
            ratio_to_offload_off: off.as_ref().and_then(|off| gbps.ratio_to(off)),
            gbps,
            rtt_us: Spread::of(&samples.rtt_us),
            retransmits: samples.retransmits.clone(),
        }
    };
    all.iter().map(row).collect()
}
