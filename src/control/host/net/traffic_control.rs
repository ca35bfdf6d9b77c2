//! What `tc` put at links: queues that delay or lose packets, and filters that may drop them.

use futures_util::TryStreamExt;
use rtnetlink::packet_route::tc::{
    TcAction, TcActionAttribute, TcAttribute, TcFilterBpfOption, TcFilterMatchAllOption,
    TcFilterU32Option, TcMessage, TcOption,
};

use super::{LinkDetails, Netlink};

/// A queue or a filter at a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrafficControl {
    /// The number of the link.
    pub link: u32,
    /// The kernel's word for its kind: `netem`, `flower`.
    pub kind: String,
    /// Where it is.
    pub hook: TrafficHook,
    /// The number of its BPF program.
    pub program: Option<u32>,
    /// Whether all it does is to hand packets to another link.
    pub is_redirect: bool,
}

/// Where packets meet it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrafficHook {
    /// In the queue of packets that leave.
    Queue,
    /// As a filter of packets that come in.
    Ingress,
    /// As a filter of packets that leave.
    Egress,
}

/// The queues that filters are at.
const WITH_FILTERS: [&str; 2] = ["ingress", "clsact"];

impl Netlink {
    /// What is at `links`. Nothing if the kernel does not say it.
    pub async fn traffic_control(&self, links: &[&LinkDetails]) -> Vec<TrafficControl> {
        let queues = self.handle().qdisc().get().execute().try_collect::<Vec<_>>();
        let queues = queues.await.unwrap_or_default();
        let mut found = Vec::new();
        let queues = queues.iter().filter_map(|queue| found_at(queue, TrafficHook::Queue));
        for queue in queues.filter(|it| links.iter().any(|link| link.link.index == it.link)) {
            if WITH_FILTERS.contains(&queue.kind.as_str()) {
                found.extend(self.filters(queue.link).await);
            } else {
                found.push(queue);
            }
        }
        found
    }

    async fn filters(&self, link: u32) -> Vec<TrafficControl> {
        let Ok(index) = i32::try_from(link) else { return Vec::new() };
        let filters = || self.handle().traffic_filter(index).get();
        let asked = [
            (filters().ingress(), TrafficHook::Ingress),
            (filters().egress(), TrafficHook::Egress),
        ];
        let mut found = Vec::<TrafficControl>::new();
        for (request, hook) in asked {
            let filters = request.execute().try_collect::<Vec<_>>().await.unwrap_or_default();
            for filter in filters.iter().filter_map(|filter| found_at(filter, hook)) {
                // The kernel lists the head of a chain of filters, too.
                if !found.contains(&filter) {
                    found.push(filter);
                }
            }
        }
        found
    }
}

fn found_at(message: &TcMessage, hook: TrafficHook) -> Option<TrafficControl> {
    let link = u32::try_from(message.header.index).ok()?;
    let (mut kind, mut program, mut is_redirect) = (None, None, false);
    for attribute in &message.attributes {
        if let TcAttribute::Kind(name) = attribute {
            kind = Some(name.clone());
        } else if let TcAttribute::Options(options) = attribute {
            program = options.iter().find_map(program_of);
            is_redirect = options.iter().any(redirects);
        }
    }
    Some(TrafficControl { link, kind: kind?, hook, program, is_redirect })
}

fn redirects(option: &TcOption) -> bool {
    let is_mirred = |action: &TcAction| {
        let mirred = |it: &TcActionAttribute| matches!(it, TcActionAttribute::Kind(kind) if kind == "mirred");
        action.attributes.iter().any(mirred)
    };
    if let TcOption::MatchAll(TcFilterMatchAllOption::Action(actions))
    | TcOption::U32(TcFilterU32Option::Action(actions)) = option
    {
        !actions.is_empty() && actions.iter().all(is_mirred)
    } else {
        false
    }
}

fn program_of(option: &TcOption) -> Option<u32> {
    if let TcOption::Bpf(TcFilterBpfOption::ProgId(id)) = option { Some(*id) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_is_read_with_link_and_kind() {
        let mut message = TcMessage::default();
        message.header.index = 3;
        assert_eq!(found_at(&message, TrafficHook::Queue), None);
        message.attributes.push(TcAttribute::Kind("netem".to_owned()));
        let (kind, hook) = ("netem".to_owned(), TrafficHook::Queue);
        let found = TrafficControl { link: 3, kind, hook, program: None, is_redirect: false };
        assert_eq!(found_at(&message, hook), Some(found));
    }
}
