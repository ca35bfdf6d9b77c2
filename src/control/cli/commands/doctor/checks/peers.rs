//! What the peers answered.

use super::super::facts::{Facts, PeerFact};
use super::super::finding::Finding;

/// Most peers that are shown one by one.
const MAX_SHOWN: usize = 10;
/// The same if no peer is reached.
const MAX_SHOWN_CUT_OFF: usize = 2;

/// What a fault of this host explains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Explained {
    Nothing,
    /// That ICMP echo is not answered.
    Icmp,
    /// That no peer answers, and that packets do not leave this host.
    All,
}

pub(super) fn answers(facts: &Facts, explained: Explained) -> Vec<Finding> {
    const NAME: &str = "peers";
    let num_asked = facts.peers.len();
    let mut bad: Vec<&PeerFact> = facts.peers.iter().filter(|peer| !peer.verdict.ok).collect();
    let num_bad = bad.len();
    if explained == Explained::All {
        let is_cut_off = num_bad == num_asked;
        bad.retain(|peer| !is_cut_off && !peer.verdict.is_local);
    }
    let num_explained = num_bad - bad.len();
    let is_cut_off = bad.len() == num_asked && num_asked > 1;
    let mut found = Vec::new();
    if !facts.user.may_ping && !facts.registry.leases.is_empty() {
        let text = "peers were not asked: this user may not send ICMP echo";
        found.push(Finding::warn(NAME, text, "run it as root"));
    }
    if is_cut_off {
        let text =
            format!("none of {num_asked} peers is reached: look for the cause at this host first");
        found.push(Finding::fail(NAME, text, "the lines above that fail; flanneld ping PEER"));
    }
    let max_shown = if is_cut_off { MAX_SHOWN_CUT_OFF } else { MAX_SHOWN };
    for peer in bad.iter().take(max_shown) {
        let PeerFact { public_ip, subnet, verdict } = peer;
        let text = format!("{subnet} of {public_ip}: {}", verdict.text);
        let advice = verdict.advice.clone();
        found.push(Finding { advice, ..Finding::fail(NAME, text, "") });
    }
    if bad.len() > max_shown {
        let text = format!("{} more peers are not well", bad.len() - max_shown);
        found.push(Finding::fail(NAME, text, "flanneld peers; flanneld ping PEER"));
    }
    if num_explained > 0 {
        let text = format!("{num_explained} of {num_asked}: see the line above that fails");
        found.push(Finding::warn(NAME, text, "flanneld doctor again, once that is repaired"));
    }
    let doubts = facts.peers.iter().filter(|_| explained == Explained::Nothing);
    let doubts = doubts.filter_map(|peer| Some((peer, peer.verdict.doubt.clone()?)));
    for (peer, (text, advice)) in doubts.take(MAX_SHOWN) {
        let text = format!("{} of {}: {text}", peer.subnet, peer.public_ip);
        found.push(Finding::warn(NAME, text, advice));
    }
    if facts.num_unasked > 0 {
        let text = format!(
            "{} of {} peers were not asked",
            facts.num_unasked,
            num_asked + facts.num_unasked
        );
        let advice = format!("flanneld doctor --peers={}", num_asked + facts.num_unasked);
        found.push(Finding::warn(NAME, text, advice));
    }
    if found.is_empty() && num_asked > 0 {
        let text = match num_asked {
            1 => "the one peer answers".to_owned(),
            n => format!("all {n} answer"),
        };
        found.push(Finding::ok(NAME, text));
    }
    if found.is_empty() && facts.own.is_some() {
        let text = "there is no lease of another node";
        let advice = "nodes that should be here need the same etcd and --etcd-prefix";
        found.push(Finding::warn(NAME, text, advice));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{facts, levels, only};
    use super::*;

    fn answers(facts: &Facts) -> Vec<Finding> {
        super::answers(facts, Explained::Nothing)
    }

    #[test]
    fn peers_that_are_not_well_are_named_with_the_verdict() {
        let mut facts = facts();
        assert_eq!(levels(&answers(&facts)), (0, 0));
        facts.peers[0].verdict.ok = false;
        facts.peers[0].verdict.text = "UDP 8285 is closed".to_owned();
        facts.peers[0].verdict.advice = Some("systemctl start flanneld".to_owned());
        let found = only(answers(&facts));
        assert_eq!(found.text, "10.5.9.0/24 of 192.0.2.9: UDP 8285 is closed");
        assert_eq!(found.advice.as_deref(), Some("systemctl start flanneld"));
        facts.peers = vec![facts.peers[0].clone(); 12];
        assert_eq!(answers(&facts).len(), 4, "all, two of them, and the rest");
        assert!(answers(&facts)[0].text.starts_with("none of 12 peers is reached"));
    }

    #[test]
    fn doubt_about_a_peer_warns() {
        let mut facts = facts();
        facts.peers[0].verdict.doubt = Some(("silent".to_owned(), "look".to_owned()));
        assert_eq!(only(answers(&facts)).text, "10.5.9.0/24 of 192.0.2.9: silent");
    }

    #[test]
    fn peers_that_were_not_asked_are_counted() {
        let mut facts = facts();
        facts.num_unasked = 68;
        let found = only(answers(&facts));
        assert_eq!(found.advice.as_deref(), Some("flanneld doctor --peers=69"));
        (facts.peers, facts.num_unasked) = (Vec::new(), 0);
        assert!(only(answers(&facts)).text.contains("no lease of another node"));
        facts.user.may_ping = false;
        assert!(only(answers(&facts)).text.contains("may not send ICMP"));
    }

    #[test]
    fn what_a_fault_of_this_host_explains_is_not_blamed_on_peers() {
        let mut facts = facts();
        facts.peers[0].verdict.ok = false;
        facts.peers[0].verdict.text = "UDP 8285 is filtered there".to_owned();
        facts.peers[0].verdict.advice = Some("open it".to_owned());
        let found = only(super::answers(&facts, Explained::All));
        assert_eq!(found.text, "1 of 1: see the line above that fails");
        facts.peers.push(facts.peers[0].clone());
        facts.peers[1].verdict.ok = true;
        let found = only(super::answers(&facts, Explained::All));
        assert!(found.text.ends_with("filtered there"), "another is reached: {found:?}");
        facts.peers[0].verdict.is_local = true;
        assert_eq!(levels(&super::answers(&facts, Explained::All)), (1, 0));
        facts.peers[1].verdict.doubt = Some(("silent".to_owned(), "look".to_owned()));
        assert_eq!(levels(&super::answers(&facts, Explained::Icmp)), (0, 1));
    }
}
