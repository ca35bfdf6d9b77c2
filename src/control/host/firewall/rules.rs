//! The rules as data: what to accept and to masquerade, the same for iptables and nftables.

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

/// The ranges that the rules are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ranges {
    /// The whole overlay.
    pub network: Ipv4Network,
    /// This node's lease.
    pub subnet: Ipv4Network,
}

/// One rule: which packets match, and what is done with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    /// Only packets with this bit in their mark.
    pub(super) mark: Option<u32>,
    /// Only packets from here.
    pub(super) source: Addrs,
    /// Only packets to here.
    pub(super) destination: Addrs,
    /// What is done with them.
    pub(super) verdict: Verdict,
}

/// A set of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Addrs {
    /// All there are.
    Any,
    /// Those of a range.
    In(Ipv4Network),
    /// All but those of a range.
    NotIn(Ipv4Network),
}

/// What is done with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may pass.
    Accept,
    /// The chain's further rules are not for it.
    Return,
    /// It leaves with the host's address.
    Masquerade {
        /// From a random port.
        fully_random: bool,
    },
}

/// All multicast groups: RFC 5771.
pub(super) const MULTICAST: Ipv4Network =
    Ipv4Network::new_checked(Ipv4Addr::new(224, 0, 0, 0), 4).unwrap();

/// kube-proxy's mark for what it masquerades itself: `iptablesMasqueradeBit` 14.
const KUBE_PROXY_MARK: u32 = 0x4000;

/// Lets forwarded packets of the overlay pass: `forwardRules` in flannel's
/// `pkg/trafficmngr/iptables/iptables.go`.
pub(super) fn forward(Ranges { network, .. }: Ranges) -> Vec<Rule> {
    let network = Addrs::In(network);
    let accept = |source, destination| Rule::new(source, destination, Verdict::Accept);
    vec![accept(network, Addrs::Any), accept(Addrs::Any, network)]
}

/// Masquerades what leaves the overlay, and what enters it from the host, so that the answer
/// finds back: `masqRules` in flannel's `pkg/trafficmngr/iptables/iptables.go`. What comes from
/// outside to our own containers keeps its source. Multicast stays as it is. The first rule that
/// fits counts.
pub(super) fn masquerade(Ranges { network, subnet }: Ranges, fully_random: bool) -> Vec<Rule> {
    let (overlay, outside) = (Addrs::In(network), Addrs::NotIn(network));
    let (ours, unicast) = (Addrs::In(subnet), Addrs::NotIn(MULTICAST));
    let masquerade = Verdict::Masquerade { fully_random };
    let marked = Rule::new(Addrs::Any, Addrs::Any, Verdict::Return);
    vec![
        Rule { mark: Some(KUBE_PROXY_MARK), ..marked },
        Rule::new(ours, overlay, Verdict::Return),
        Rule::new(overlay, ours, Verdict::Return),
        Rule::new(outside, ours, Verdict::Return),
        Rule::new(overlay, unicast, masquerade),
        Rule::new(outside, overlay, masquerade),
    ]
}

impl Rule {
    /// The same for every network, so that one is enough for all flannelds of the host.
    pub(super) const fn is_shared(&self) -> bool {
        self.mark.is_some()
    }

    /// It exempts packets from what other rules do with them, those for another network's too.
    pub(super) const fn is_exemption(&self) -> bool {
        matches!(self.verdict, Verdict::Return)
    }

    const fn new(source: Addrs, destination: Addrs, verdict: Verdict) -> Self {
        Self { mark: None, source, destination, verdict }
    }
}

/// A rule as a tool writes it, with what its place depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OwnRule {
    /// Its text.
    pub(super) text: String,
    /// See [`Rule::is_shared`].
    pub(super) is_shared: bool,
    /// See [`Rule::is_exemption`].
    pub(super) is_exemption: bool,
}

impl OwnRule {
    /// `rule`, which the tool writes as `text`.
    pub(super) const fn new(rule: &Rule, text: String) -> Self {
        Self { text, is_shared: rule.is_shared(), is_exemption: rule.is_exemption() }
    }
}

/// Whether `found`, a whole chain, holds `rules` as it should: each of ours once and in order,
/// whatever other rules are between them. A shared rule may be another flanneld's if it
/// comes before all of ours that it exempts from.
pub(super) fn is_right<T: AsRef<str>>(rules: &[OwnRule], found: &[T]) -> bool {
    let ours = || rules.iter().filter(|rule| !rule.is_shared);
    let is_ours = |text: &str| ours().any(|rule| rule.text == text);
    let present = found.iter().map(AsRef::as_ref).filter(|text| is_ours(text));
    if !present.eq(ours().map(|rule| rule.text.as_str())) {
        return false;
    }
    let first_of = |wanted: &OwnRule| found.iter().position(|text| text.as_ref() == wanted.text);
    let first_effect = rules.iter().filter(|rule| !rule.is_exemption).filter_map(first_of).min();
    rules.iter().filter(|rule| rule.is_shared).all(|rule| match (first_of(rule), first_effect) {
        (Some(shared), Some(effect)) => shared < effect,
        (shared, None) => shared.is_some(),
        (None, Some(_)) => false,
    })
}

/// Whether the text of a rule has this range in it.
pub(super) fn is_about(text: &str, range: Ipv4Network) -> bool {
    let range = range.to_string();
    text.split(' ').any(|word| word == range)
}
