//! [`Settings`]: what a vxlan device that exists has, and whether it can be kept.

use std::net::Ipv4Addr;

use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage,
};

use super::device::DeviceSpec;
use crate::control::backend::peer_routes::Mac;

/// The settings of a device, as far as they are compared.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) kind: Option<InfoKind>,
    pub(super) mac: Option<Mac>,
    pub(super) vni: Option<u32>,
    pub(super) lower: Option<u32>,
    pub(super) local: Option<Ipv4Addr>,
    pub(super) has_group: bool,
    pub(super) l2miss: bool,
    pub(super) port: Option<u16>,
    pub(super) gbp: bool,
    pub(super) learning: bool,
}

impl Settings {
    /// The settings that the kernel reports.
    pub(super) fn of(message: &LinkMessage) -> Self {
        let mut settings = Self::default();
        for attribute in &message.attributes {
            if let LinkAttribute::Address(octets) = attribute {
                settings.mac = Mac::from_slice(octets);
            } else if let LinkAttribute::LinkInfo(infos) = attribute {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        settings.kind = Some(kind.clone());
                    } else if let LinkInfo::Data(InfoData::Vxlan(infos)) = info {
                        infos.iter().for_each(|info| settings.take(info));
                    }
                }
            }
        }
        settings
    }

    fn take(&mut self, info: &InfoVxlan) {
        #[expect(clippy::wildcard_enum_match_arm, reason = "the kernel has many more settings")]
        match info {
            InfoVxlan::Id(vni) => self.vni = Some(*vni),
            InfoVxlan::Link(lower) => self.lower = Some(*lower),
            InfoVxlan::Local(local) => self.local = Some(*local),
            InfoVxlan::Group(_) | InfoVxlan::Group6(_) => self.has_group = true,
            InfoVxlan::L2Miss(on) => self.l2miss = *on,
            InfoVxlan::Port(port) => self.port = Some(*port),
            InfoVxlan::Gbp => self.gbp = true,
            InfoVxlan::Learning(on) => self.learning = *on,
            _ => {}
        }
    }
}

impl DeviceSpec {
    /// The first setting for which the device cannot be kept: name, wanted, found. The list is
    /// stock's.
    pub(super) fn difference(&self, settings: &Settings, lower: u32) -> Option<String> {
        let differs = |what: &str, wanted: &dyn ToString, found: Option<&dyn ToString>| {
            let found = found?;
            let (wanted, found) = (wanted.to_string(), found.to_string());
            (wanted != found).then(|| format!("{what}: {wanted} vs {found}"))
        };
        let some = |value: &'_ Option<u32>| value.map(|value| value.to_string());
        let (vni, found_lower) = (some(&settings.vni), some(&settings.lower));
        let port = self.port.and(settings.port);
        differs("vni", &self.vni, vni.as_ref().map(|it| it as &dyn ToString))
            .or_else(|| {
                let found = found_lower.as_ref().map(|it| it as &dyn ToString);
                differs("vtep (external) interface", &lower, found)
            })
            .or_else(|| {
                let found = settings.local.as_ref().map(|it| it as &dyn ToString);
                differs("vtep (external) IP", &self.local, found)
            })
            .or_else(|| settings.has_group.then(|| "group address: none vs one".to_owned()))
            .or_else(|| differs("l2miss", &false, Some(&settings.l2miss)))
            .or_else(|| {
                let wanted = self.port.unwrap_or_default();
                differs("port", &wanted, port.as_ref().map(|it| it as &dyn ToString))
            })
            .or_else(|| differs("gbp", &self.gbp, Some(&settings.gbp)))
    }
}
