//! BPF programs that filters on a clsact qdisc run.

use std::collections::BTreeSet;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::tc::{TcAttribute, TcFilterBpfOption, TcMessage, TcOption};

use super::netlink::failed;
use super::{KernelError, Netlink};

impl Netlink {
    /// The kernel's numbers for those on what arrives at the link with this number, or on what leaves it.
    /// None if there is no such link.
    ///
    /// # Errors
    /// [`KernelError`] when the kernel does not answer.
    pub async fn filter_programs(
        &self,
        index: u32,
        is_egress: bool,
    ) -> Result<BTreeSet<u32>, KernelError> {
        let Ok(number) = i32::try_from(index) else { return Ok(BTreeSet::new()) };
        let request = self.handle().traffic_filter(number).get();
        let request = if is_egress { request.egress() } else { request.ingress() };
        let filters = request.execute().try_collect::<Vec<_>>().await;
        let filters =
            filters.map_err(|error| failed(format!("list the filters of link {index}"), error))?;
        Ok(filters.into_iter().flat_map(programs).collect())
    }
}

fn programs(filter: TcMessage) -> Vec<u32> {
    let mut programs = Vec::new();
    for attribute in filter.attributes {
        let TcAttribute::Options(options) = attribute else { continue };
        for option in options {
            if let TcOption::Bpf(TcFilterBpfOption::ProgId(id)) = option {
                programs.push(id);
            }
        }
    }
    programs
}
