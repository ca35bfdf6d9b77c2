//! [`KubeConfig`]: the settings of Kubernetes mode, `--kube-subnet-mgr`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where the API server is, and what this node is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubeConfig {
    /// `-kube-api-url`: takes the place of the kubeconfig's server.
    pub api_url: Option<String>,
    /// `-kubeconfig-file`.
    pub kubeconfig: Option<PathBuf>,
    /// `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`: the API server as pods see it.
    pub service: Option<(String, String)>,
    /// `-kube-annotation-prefix`.
    pub prefix: AnnotationPrefix,
    /// `-net-config-path`.
    pub net_conf: PathBuf,
    /// `-set-node-network-unavailable`: whether the node's condition is kept.
    pub sets_condition: bool,
    /// Which node this is.
    pub node: NodeIdentity,
    /// `EVENT_QUEUE_DEPTH`: how many changes of nodes may wait for the backend. With more of them
    /// the API server has to wait, and nothing is lost.
    pub queue_depth: usize,
}

/// Which node this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeIdentity {
    /// `NODE_NAME`.
    Name(String),
    /// The node on which this pod runs: `POD_NAMESPACE` and `POD_NAME`.
    Pod {
        /// The namespace.
        namespace: String,
        /// The pod.
        name: String,
    },
}

impl fmt::Display for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Pod { namespace, name } => write!(f, "the node of pod {namespace}/{name}"),
        }
    }
}

/// What the names of our annotations begin with: `flannel.alpha.coreos.com/`. The rules are those of
/// `newAnnotations` in flannel's `pkg/subnet/kube/annotations.go`, for the whole text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnotationPrefix(String);

/// A text that is no [`AnnotationPrefix`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a prefix such as flannel.alpha.coreos.com or example.com/flannel: a domain name \
     with a dot, at most one slash, and only a-z, 0-9, -, _ and ."
)]
pub struct PrefixError(String);

impl AnnotationPrefix {
    /// The full name of an annotation.
    pub fn key(&self, name: &str) -> String {
        format!("{}{name}", self.0)
    }

    /// The prefix with its last character, `/` or `-`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AnnotationPrefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (domain, part) = text.split_once('/').unwrap_or((text, ""));
        let is_word = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
        };
        let is_part = part.is_empty() || is_word(part);
        if !domain.contains('.') || !domain.split('.').all(is_word) || !is_part {
            return Err(PrefixError(text.to_owned()));
        }
        let hyphen = if part.is_empty() || part.ends_with('-') { "" } else { "-" };
        Ok(Self(format!("{domain}/{part}{hyphen}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of flannel's `pkg/subnet/kube/annotations_test.go`.
    #[test]
    fn prefix_gets_a_slash_or_a_hyphen() {
        for (text, key) in [
            ("flannel.alpha.coreos.com", "flannel.alpha.coreos.com/backend-type"),
            ("flannel.alpha.coreos.com/", "flannel.alpha.coreos.com/backend-type"),
            ("flannel.alpha.coreos.com/prefix", "flannel.alpha.coreos.com/prefix-backend-type"),
            ("flannel.alpha.coreos.com/prefix-", "flannel.alpha.coreos.com/prefix-backend-type"),
            ("org.com", "org.com/backend-type"),
            ("org9.com", "org9.com/backend-type"),
            ("org.com/9", "org.com/9-backend-type"),
        ] {
            assert_eq!(text.parse::<AnnotationPrefix>().unwrap().key("backend-type"), key);
        }
    }

    #[test]
    fn prefix_without_a_domain_or_with_other_characters_is_refused() {
        for text in [
            "org",
            "org/",
            "org/prefix",
            "org.COM",
            "org.com/PREFIX",
            "",
            "a..b",
            "a.b/c/d",
            "a.b/é",
        ] {
            let error = text.parse::<AnnotationPrefix>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{text:?} is not a prefix")), "{error}");
        }
    }
}
