//! Nodes against a double of an API server.
//!
//! What flannel's own tests of Kubernetes mode demand, and where it is tested here:
//!
//! | demand | test |
//! |---|---|
//! | prefixes of annotations | `config::kube::tests::prefix_gets_a_slash…`, `prefix_without_a_domain…` |
//! | which range contains which | `pod_cidr::tests::range_is_contained_or_not` |
//! | subnet.env, with `--kubeconfig-file` and `--kube-api-url` | `tests/cli/kube.rs`, `node_of_flannels_functional_test…` |
//! | `public-ip-overwrite` before the start, and later | the same, and `lease::operators_address…` |
//! | a restart keeps the subnet | the same, and `tests/netns/kube.rs`, `nodes_of_a_rolling_update…` |
//! | the manifest is accepted | `tests/manifests.rs` |
//! | pods reach each other with every backend | `tests/netns/kube.rs`, `every_backend…` |
//! | rules of iptables and nftables, exactly | the same, and `tests/firewall` |
//! | two daemons on one host, two prefixes | `tests/netns/access.rs`, `two_daemons_on_one_host…` |
//! | etcd with client certificates | `kv::registry::etcd3::tests::access`, `etcd2::tests::access` |
//!
//! Services, names and a kubelet are not here: they are of others.

mod cluster;
mod faults;
mod lease;
mod lies;
mod start;
