//! The programs at their hooks: those of two daemons, of killed ones, and of others.

use super::*;

/// Peers at 10.1.16.0/24 and so on for programs in the host's namespace, started.
fn started(config: FastConfig) -> FastPath {
    let path = FastPath::new("10.1.0.0/16".parse().unwrap(), 24);
    path.start(config).unwrap();
    path
}

/// Names of our filters, by handle, where peers' packets arrive.
fn filters(host: &Host) -> Vec<String> {
    let listed = host.netns.tool("tc").words("filter show dev eth0 ingress").run().unwrap();
    let ours = listed.lines().filter_map(|line| line.split_once("handle "));
    ours.map(|(_, rest)| rest.split_whitespace().take(2).collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn programs_of_two_daemons_leave_each_other_alone_and_those_of_killed_ones_are_replaced() {
    let host = Host::new("bpf-two", FAST);
    for wanted in [AttachedBy::Tcx, AttachedBy::Clsact] {
        let first = || FastConfig { attach_by: wanted, ..config() };
        // Below Linux 6.6 filters are all that there is.
        let is_clsact = [wanted, AttachedBy::best()].contains(&AttachedBy::Clsact);
        let attach_by = if is_clsact { AttachedBy::Clsact } else { AttachedBy::Tcx };
        let second = || FastConfig { port: 8286, ..first() };
        let is_whole = |path: &FastPath| {
            let hooks = path.hooks();
            let by: Vec<_> = hooks.iter().map(|hook| (hook.name, hook.attached_by)).collect();
            by == [("ingress", attach_by), ("egress", attach_by)] && path.lost_link().is_none()
        };
        let run = || {
            let other = started(second());
            // As after SIGKILL, where filters do not go with the process.
            std::mem::forget(started(first()));
            let again = started(first());
            assert!(is_whole(&other) && is_whole(&again), "{:?}", again.hooks());
            let both = filters(&host);
            again.stop();
            assert!(is_whole(&other) && again.hooks().is_empty());
            let one = filters(&host);
            std::mem::forget(other);
            let is_left = remove_own_left_over("eth0", 8286);
            Ok((both, one, is_left, remove_left_over("eth0")))
        };
        let (both, one, is_left, is_more_left) = host.netns.enter(run).unwrap();
        let expected = if is_clsact { vec!["0x7477205d", "0x7477205e"] } else { vec![] };
        let handles = |filters: Vec<String>| -> Vec<String> {
            let names = filters.iter().map(|filter| filter.split(' ').next().unwrap().to_owned());
            let mut names: Vec<_> = names.collect();
            names.sort();
            names
        };
        assert_eq!(handles(both), expected);
        assert_eq!(handles(one), expected.into_iter().skip(1).collect::<Vec<_>>());
        assert_eq!((is_left, is_more_left), (is_clsact, false));
        assert!(filters(&host).is_empty());
    }
}

#[test]
fn program_that_somebody_took_away_is_missed() {
    let host = Host::new("bpf-lost", FAST);
    let run = || {
        let path = started(config());
        assert_eq!(path.lost_link(), None);
        host.netns.ip("link del eth0").unwrap();
        Ok(path.lost_link().map(|hook| (hook.name, hook.device.name)))
    };
    let lost = host.netns.enter(run).unwrap();
    assert_eq!(lost, Some(("ingress", "eth0".to_owned())));
}

#[test]
fn shortest_and_longest_mtu_are_kept() {
    let host = Host::new("bpf-mtu", FAST);
    let of_len = |len: usize| tcp(FROM_US).payload(&payload(len - 40)).build();
    for (mtu, taken, left) in [(68, 68, 69), (1252, 1252, 1253), (65_507, 1472, 1473)] {
        let run = || {
            let mut bench = bench_of(FastConfig { overlay_mtu: mtu, ..config() }, FAST);
            let fates = [taken, left].map(|len| bench.egress(&of_len(len), 0).unwrap());
            Ok((fates, bench.counters().egress.passed["too_long"]))
        };
        let (fates, too_long) = host.netns.enter(run).unwrap();
        assert!(matches!(fates, [Fate::Redirected(_), Fate::Passed]), "{mtu}: {fates:?}");
        assert_eq!(too_long, 1, "MTU {mtu}");
    }
}

#[test]
fn largest_table_is_loaded_and_its_peers_are_read() {
    let host = Host::new("bpf-large", FAST);
    let path = Arc::new(FastPath::new("10.0.0.0/8".parse().unwrap(), 28));
    let mut sink = FastPathSink::new(Arc::clone(&path));
    let hop = NextHop { kernel_receive: KernelReceive::All, ..NextHop::new(PEER.parse().unwrap()) };
    let change = |number: u32| RouteChange {
        subnet: Ipv4Network::containing((0x0a00_0000 + number * 0x800).into(), 28).unwrap(),
        next_hop: Some(hop),
    };
    sink.apply(&(0..8192).map(change).collect::<Vec<_>>()).unwrap();
    let num_slots = u32::try_from(path.num_slots()).unwrap();
    let config =
        || FastConfig { network: [10, 0, 0, 0].into(), slot_shift: 4, num_slots, ..config() };
    let start = || {
        path.start(config()).unwrap();
        Ok(())
    };
    host.netns.enter(start).unwrap();
    assert_eq!(path.peer_counts(), (vec![], vec![]));
    path.stop();
}

#[test]
fn device_without_native_xdp_and_one_that_has_some_get_no_program() {
    let host = Host::new("bpf-noxdp", FAST);
    host.netns.ip("link add br0 type bridge").unwrap();
    let run = || {
        let path = || FastPath::new("10.1.0.0/16".parse().unwrap(), 24);
        let with_xdp = || FastConfig { xdp: Some(XDP), ..config() };
        let errno = |config| {
            let error = path().start(config).unwrap_err();
            assert!(matches!(error, FastPathError::NoXdp { .. }), "{error}");
            error.errno()
        };
        let bridge = DeviceRef { index: if_nametoindex("br0").unwrap(), name: "br0".to_owned() };
        assert_eq!(errno(FastConfig { underlay: bridge, ..with_xdp() }), Some(libc::EOPNOTSUPP));
        let first = path();
        first.start(with_xdp()).unwrap();
        assert_eq!(errno(with_xdp()), Some(libc::EBUSY));
        assert_eq!(first.config(), Some(with_xdp()));
        Ok(())
    };
    host.netns.enter(run).unwrap();
    // The kernel detaches it when the last user of the link is gone, soon after.
    eventually("XDP is gone", || !host.netns.ip("link show eth0").unwrap().contains(" xdp"));
}

#[test]
fn two_capabilities_are_enough() {
    let host = Host::new("bpf-caps", FAST);
    let run = || -> Result<(), FastPathError> {
        // Of this thread alone.
        for capability in caps::all() {
            if ![Capability::CAP_BPF, Capability::CAP_NET_ADMIN].contains(&capability) {
                caps::drop(None, CapSet::Effective, capability).unwrap();
            }
        }
        let device = DeviceRef { index: if_nametoindex("lo").unwrap(), name: "lo".to_owned() };
        let gpe = Some(Gpe { device, port: 18285, vni: 77, merges: false });
        for (gpe, xdp) in [(None, None), (gpe, None), (None, Some(XDP))] {
            let path = FastPath::new("10.1.0.0/16".parse().unwrap(), 24);
            path.start(FastConfig { gpe, xdp, ..config() })?;
            path.stop();
        }
        Ok(())
    };
    host.netns.enter(|| Ok(run())).unwrap().unwrap();
}
