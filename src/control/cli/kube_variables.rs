//! [`KubeVariables`]: the variables of Kubernetes mode, which manifests set without our prefix.

use std::collections::HashMap;
use std::ffi::OsString;

use super::error::FlagError;
use crate::control::config::kube::NodeIdentity;

/// How many changes of nodes may wait for the backend: stock's default.
const QUEUE_DEPTH: usize = 5000;

const NAMES: [&str; 6] = [
    "NODE_NAME",
    "POD_NAME",
    "POD_NAMESPACE",
    "EVENT_QUEUE_DEPTH",
    "KUBERNETES_SERVICE_HOST",
    "KUBERNETES_SERVICE_PORT",
];

/// Those that are set and not empty.
#[derive(Debug, Default)]
pub(super) struct KubeVariables(HashMap<&'static str, String>);

impl KubeVariables {
    /// Picks them out of `all`.
    pub(super) fn of(all: &[(OsString, OsString)]) -> Self {
        let pick = |(name, value): &(OsString, OsString)| {
            let name = NAMES.into_iter().find(|known| name == known)?;
            let value = value.to_string_lossy().trim().to_owned();
            (!value.is_empty()).then_some((name, value))
        };
        Self(all.iter().filter_map(pick).collect())
    }

    fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }

    /// The API server as pods see it.
    pub(super) fn service(&self) -> Option<(String, String)> {
        self.get("KUBERNETES_SERVICE_HOST").zip(self.get("KUBERNETES_SERVICE_PORT"))
    }

    /// Which node this is.
    pub(super) fn node(&self) -> Result<NodeIdentity, FlagError> {
        if let Some(name) = self.get("NODE_NAME") {
            return Ok(NodeIdentity::Name(name));
        }
        match self.get("POD_NAMESPACE").zip(self.get("POD_NAME")) {
            Some((namespace, name)) => Ok(NodeIdentity::Pod { namespace, name }),
            None => Err(FlagError::Value {
                origin: "flag --kube-subnet-mgr".to_owned(),
                reason:
                    "env variables POD_NAME and POD_NAMESPACE must be set, or NODE_NAME: which \
                         node this is"
                        .to_owned(),
            }),
        }
    }

    /// How many changes may wait. As with stock, a number that is not positive means the default.
    pub(super) fn queue_depth(&self) -> Result<usize, FlagError> {
        let Some(text) = self.get("EVENT_QUEUE_DEPTH") else { return Ok(QUEUE_DEPTH) };
        match text.parse::<i32>() {
            Ok(depth) => {
                Ok(usize::try_from(depth).ok().filter(|&it| it > 0).unwrap_or(QUEUE_DEPTH))
            }
            Err(_) => Err(FlagError::Value {
                origin: "variable EVENT_QUEUE_DEPTH".to_owned(),
                reason: format!("{text:?} is not a whole number"),
            }),
        }
    }
}
