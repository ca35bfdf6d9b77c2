//! [`Annotations`]: what a node object says of its node's lease.
//!
//! | annotation | holds |
//! |---|---|
//! | `kube-subnet-manager` | `true`: the node is a peer |
//! | `backend-type` | `vxlan`, `host-gw`, …; empty for udp |
//! | `backend-data`, `backend-v6-data` | JSON; `null` for none |
//! | `public-ip`, `public-ipv6` | the address that peers send to |
//! | `public-ip-overwrite` | the operator's, in place of the address that was found |
//! | `node-public-ip` | the operator's, in place of `--public-ip` |

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Serialize;
use serde_json::Value;

use crate::control::config::kube::AnnotationPrefix;
use crate::control::subnet::lease::{FamilyAttrs, LeaseAttrs, excerpt};

const MANAGED: &str = "kube-subnet-manager";
const BACKEND_TYPE: &str = "backend-type";
const BACKEND_DATA: &str = "backend-data";
const BACKEND_V6_DATA: &str = "backend-v6-data";
const PUBLIC_IP: &str = "public-ip";
const PUBLIC_IPV6: &str = "public-ipv6";
const PUBLIC_IP_OVERWRITE: &str = "public-ip-overwrite";
const NODE_PUBLIC_IP: &str = "node-public-ip";

/// All that are read.
const NAMES: [&str; 8] = [
    MANAGED,
    BACKEND_TYPE,
    BACKEND_DATA,
    BACKEND_V6_DATA,
    PUBLIC_IP,
    PUBLIC_IPV6,
    PUBLIC_IP_OVERWRITE,
    NODE_PUBLIC_IP,
];

/// Most characters of a wrong annotation that are shown.
const MAX_SHOWN: usize = 60;

/// The annotations of one node that are flannel's, by their names without the prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Annotations(BTreeMap<&'static str, String>);

/// What is wrong with a node's annotations. One line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum AnnotationError {
    /// Peers do not know where to send.
    #[error("it has no annotation {0}")]
    Missing(&'static str),
    /// A value that makes no sense.
    #[error("annotation {name} is {value}, not {expected}")]
    Value {
        /// Which.
        name: &'static str,
        /// Its beginning.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
}

impl Annotations {
    /// Takes those that are flannel's out of `all`.
    pub(super) fn read(mut all: BTreeMap<String, String>, prefix: &AnnotationPrefix) -> Self {
        let found =
            NAMES.into_iter().filter_map(|name| Some((name, all.remove(&prefix.key(name))?)));
        Self(found.collect())
    }

    /// Whether the node says that it takes part.
    pub(super) fn is_managed(&self) -> bool {
        self.get(MANAGED) == Some("true")
    }

    /// What they say of the node's lease.
    pub(super) fn attrs(&self) -> Result<LeaseAttrs, AnnotationError> {
        let text = self.get(PUBLIC_IP).ok_or(AnnotationError::Missing(PUBLIC_IP))?;
        let public_ip = ipv4(text).ok_or_else(|| wrong(PUBLIC_IP, text, "an IPv4 address"))?;
        let public_ipv6: Option<Ipv6Addr> = self.get(PUBLIC_IPV6).and_then(|it| it.parse().ok());
        let backend_type = self.get(BACKEND_TYPE).filter(|name| !name.is_empty());
        let v4 = FamilyAttrs {
            public_ip: Some(public_ip).filter(|addr| !addr.is_unspecified()),
            backend_data: self.data(BACKEND_DATA)?,
        };
        let v6 = FamilyAttrs {
            public_ip: public_ipv6,
            // Nothing here reads it.
            backend_data: self.data(BACKEND_V6_DATA).unwrap_or_default(),
        };
        Ok(LeaseAttrs { backend_type: backend_type.map(str::to_owned), v4, v6 })
    }

    fn data(&self, name: &'static str) -> Result<Option<Value>, AnnotationError> {
        let Some(text) = self.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
        let value: Option<Value> =
            serde_json::from_str(text).map_err(|_| wrong(name, text, "JSON"))?;
        Ok(value.filter(|value| !value.is_null()))
    }

    /// The address that the operator wants peers to send to.
    pub(super) fn public_ip_overwrite(&self) -> Result<Option<Ipv4Addr>, AnnotationError> {
        self.address(PUBLIC_IP_OVERWRITE)
    }

    /// The address that takes the place of `--public-ip`.
    pub(super) fn node_public_ip(&self) -> Result<Option<Ipv4Addr>, AnnotationError> {
        self.address(NODE_PUBLIC_IP)
    }

    fn address(&self, name: &'static str) -> Result<Option<Ipv4Addr>, AnnotationError> {
        let Some(text) = self.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
        ipv4(text).map(Some).ok_or_else(|| wrong(name, text, "an IPv4 address"))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// What the annotations of a node are to be whose lease says `attrs`, and to which peers are to
    /// send at `public_ip`.
    pub(super) fn wanted(attrs: &LeaseAttrs, public_ip: Ipv4Addr) -> Self {
        let mut wanted = BTreeMap::new();
        let data = attrs.v4.backend_data.as_ref();
        let kind = attrs.backend_type.as_deref().unwrap_or_default();
        wanted.insert(BACKEND_TYPE, kind.to_owned());
        wanted.insert(BACKEND_DATA, data.map_or("null".to_owned(), Value::to_string));
        wanted.insert(MANAGED, "true".to_owned());
        wanted.insert(PUBLIC_IP, public_ip.to_string());
        Self(wanted)
    }

    /// The patch that makes these annotations `wanted`, byte for byte as stock writes it; `None` if
    /// they are.
    pub(super) fn patch(&self, wanted: &Self, prefix: &AnnotationPrefix) -> Option<String> {
        #[derive(Serialize)]
        struct Patch {
            metadata: Metadata,
        }
        #[derive(Serialize)]
        struct Metadata {
            annotations: BTreeMap<String, String>,
        }
        let differing = wanted.0.iter().filter(|(name, value)| self.0.get(*name) != Some(value));
        let annotations: BTreeMap<String, String> =
            differing.map(|(name, value)| (prefix.key(name), value.clone())).collect();
        if annotations.is_empty() {
            return None;
        }
        // Texts can always be written.
        serde_json::to_string(&Patch { metadata: Metadata { annotations } }).ok()
    }
}

fn wrong(name: &'static str, value: &str, expected: &'static str) -> AnnotationError {
    let value = format!("\"{}\"", excerpt(value.as_bytes(), MAX_SHOWN));
    AnnotationError::Value { name, value, expected }
}

/// Go reads the IPv4-mapped form as IPv4, too.
fn ipv4(text: &str) -> Option<Ipv4Addr> {
    match text.parse().map(|addr: IpAddr| addr.to_canonical()) {
        Ok(IpAddr::V4(addr)) => Some(addr),
        Ok(IpAddr::V6(_)) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn prefix() -> AnnotationPrefix {
        "flannel.alpha.coreos.com".parse().unwrap()
    }

    fn vxlan() -> LeaseAttrs {
        let data = json!({ "VNI": 1, "VtepMAC": "c6:d2:32:6f:8f:44" });
        let attrs = LeaseAttrs::udp([192, 168, 0, 1].into()).with_data(Some(data));
        LeaseAttrs { backend_type: Some("vxlan".to_owned()), ..attrs }
    }

    fn node(pairs: &[(&str, &str)]) -> Annotations {
        let all = pairs.iter().map(|(name, value)| (prefix().key(name), (*value).to_owned()));
        Annotations::read(all.collect(), &prefix())
    }

    #[test]
    fn patch_has_the_bytes_of_stocks() {
        let wanted = Annotations::wanted(&vxlan(), [192, 168, 0, 1].into());
        let patch = Annotations::default().patch(&wanted, &prefix()).unwrap();
        let stock = concat!(
            r#"{"metadata":{"annotations":{"flannel.alpha.coreos.com/backend-data":"#,
            r#""{\"VNI\":1,\"VtepMAC\":\"c6:d2:32:6f:8f:44\"}","#,
            r#""flannel.alpha.coreos.com/backend-type":"vxlan","#,
            r#""flannel.alpha.coreos.com/kube-subnet-manager":"true","#,
            r#""flannel.alpha.coreos.com/public-ip":"192.168.0.1"}}}"#
        );
        assert_eq!(patch, stock);
        assert_eq!(wanted.patch(&wanted, &prefix()), None, "nothing differs");
        let moved = Annotations::wanted(&vxlan(), [172, 18, 0, 2].into());
        let patch = wanted.patch(&moved, &prefix()).unwrap();
        let stock =
            r#"{"metadata":{"annotations":{"flannel.alpha.coreos.com/public-ip":"172.18.0.2"}}}"#;
        assert_eq!(patch, stock, "only what differs");
    }

    #[test]
    fn udp_has_no_type_and_no_data() {
        let wanted =
            Annotations::wanted(&LeaseAttrs::udp([192, 0, 2, 1].into()), [192, 0, 2, 1].into());
        assert_eq!((wanted.get(BACKEND_TYPE), wanted.get(BACKEND_DATA)), (Some(""), Some("null")));
        assert_eq!(wanted.attrs().unwrap(), LeaseAttrs::udp([192, 0, 2, 1].into()));
    }

    #[test]
    fn what_is_written_is_read() {
        let wanted = Annotations::wanted(&vxlan(), [192, 168, 0, 1].into());
        assert!(wanted.is_managed());
        assert_eq!(wanted.attrs().unwrap(), vxlan());
    }

    #[test]
    fn each_fault_is_named_with_the_annotation() {
        for (pairs, message) in [
            (&[][..], "it has no annotation public-ip"),
            (&[("public-ip", "nodeb")], "annotation public-ip is \"nodeb\", not an IPv4 address"),
            (&[("public-ip", "fd00::1")], "annotation public-ip is \"fd00::1\", not an IPv4"),
            (
                &[("public-ip", "192.0.2.1"), ("backend-data", "{\n")],
                "annotation backend-data is \"{\\n\", not JSON",
            ),
        ] {
            let error = node(pairs).attrs().unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
        assert!(!node(&[("kube-subnet-manager", "True")]).is_managed());
        assert!(node(&[("public-ip-overwrite", "x")]).public_ip_overwrite().is_err());
        assert_eq!(node(&[("node-public-ip", "")]).node_public_ip(), Ok(None));
    }
}
