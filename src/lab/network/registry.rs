//! [`Registry`]: where a lab's nodes find their network config and keep their leases.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::etcd::{self, Etcd};
use super::kube::{self, KubeServer};
use super::topology::Names;
use crate::lab::LabError;

/// Which registry a lab has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RegistryKind {
    /// An etcd in a namespace of its own, as in a real network
    #[default]
    Etcd,
    /// A JSON file that all nodes share: starts faster, and needs no etcd
    File,
    /// A double of a Kubernetes API server: every node takes its podCIDR, as kube-flannel does
    Kube,
}

/// The registry of a running lab.
#[derive(Debug)]
pub enum Registry {
    /// An etcd.
    Etcd(Box<Etcd>),
    /// A file; the README describes its form in "Without etcd".
    File(RegistryFile),
    /// A double of an API server.
    Kube(Box<KubeServer>),
}

/// A JSON file of config and leases, seen as its operator sees it.
#[derive(Debug, Clone)]
pub struct RegistryFile {
    path: PathBuf,
}

impl RegistryKind {
    /// The flags that say to a node of `names`' lab where its registry is.
    pub(super) fn flags(self, names: &Names) -> Vec<String> {
        match self {
            Self::Etcd => vec![format!("-etcd-endpoints={}", etcd::endpoint())],
            Self::File => vec![format!("-registry=file:{}", names.registry_file().display())],
            Self::Kube => kube::flags(names),
        }
    }
}

impl Registry {
    /// Writes the network config, as an operator would.
    ///
    /// # Errors
    /// [`LabError`] of etcd or the file.
    pub fn put_config(&self, json: &str) -> Result<(), LabError> {
        match self {
            Self::Etcd(etcd) => etcd.put_config(json),
            Self::File(file) => file.put_config(json),
            Self::Kube(server) => server.put_config(json),
        }
    }

    /// Every lease: the subnet as in the key, such as `10.5.7.0-24`, and the value.
    ///
    /// # Errors
    /// [`LabError`] of etcd or the file.
    pub fn leases(&self) -> Result<Vec<(String, String)>, LabError> {
        match self {
            Self::Etcd(etcd) => etcd.leases(),
            Self::File(file) => file.leases(),
            Self::Kube(server) => server.leases(),
        }
    }

    /// Deletes the lease of a subnet such as `10.5.7.0-24`; whether there was one.
    ///
    /// # Errors
    /// [`LabError`] of etcd or the file.
    pub fn delete_lease(&self, subnet: &str) -> Result<bool, LabError> {
        match self {
            Self::Etcd(etcd) => etcd.delete_lease(subnet),
            Self::File(file) => file.delete_lease(subnet),
            Self::Kube(server) => server.delete_lease(subnet),
        }
    }
}

impl RegistryFile {
    /// The file at `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Its place.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn put_config(&self, json: &str) -> Result<(), LabError> {
        let unreadable = |_| LabError::Unreadable {
            what: "the network config as JSON".to_owned(),
            text: json.to_owned(),
        };
        let config: Value = serde_json::from_str(json).map_err(unreadable)?;
        self.edit(|document| document["config"] = config)
    }

    fn leases(&self) -> Result<Vec<(String, String)>, LabError> {
        let document = self.read()?;
        let leases = document["leases"].as_object().into_iter().flatten();
        Ok(leases.map(|(key, value)| (key.clone(), value.to_string())).collect())
    }

    fn delete_lease(&self, subnet: &str) -> Result<bool, LabError> {
        self.edit(|document| {
            document["leases"].as_object_mut().is_some_and(|leases| leases.remove(subnet).is_some())
        })
    }

    /// Replaces the file under the lock that the daemons take too.
    fn edit<T>(&self, change: impl FnOnce(&mut Value) -> T) -> Result<T, LabError> {
        let _lock = self.lock().map_err(LabError::io(format!("lock {}", self.path.display())))?;
        let mut document = self.read()?;
        let changed = change(&mut document);
        let fresh = self.path.with_extension("fresh");
        fs::write(&fresh, format!("{document:#}\n"))
            .and_then(|()| fs::rename(&fresh, &self.path))
            .map_err(LabError::io(format!("write {}", self.path.display())))?;
        Ok(changed)
    }

    /// Held until the file it gives is dropped.
    fn lock(&self) -> io::Result<File> {
        let mut path = self.path.clone().into_os_string();
        path.push(".lock");
        let lock = OpenOptions::new().create(true).append(true).open(path)?;
        lock.lock()?;
        Ok(lock)
    }

    /// A file that is not there holds nothing.
    fn read(&self) -> Result<Value, LabError> {
        let text = match fs::read_to_string(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(json!({})),
            read => read.map_err(LabError::io(format!("read {}", self.path.display())))?,
        };
        serde_json::from_str(&text)
            .map_err(|_| LabError::Unreadable { what: self.path.display().to_string(), text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_is_written_beside_leases_and_a_lease_is_deleted_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registry.json");
        let registry = Registry::File(RegistryFile::new(&path));
        assert!(registry.leases().unwrap().is_empty());
        fs::write(&path, r#"{"leases":{"10.5.7.0-24":{"PublicIP":"192.0.2.7"}}}"#).unwrap();
        registry.put_config(r#"{"Network":"10.5.0.0/16"}"#).unwrap();
        let lease = ("10.5.7.0-24".to_owned(), r#"{"PublicIP":"192.0.2.7"}"#.to_owned());
        assert_eq!(registry.leases().unwrap(), [lease]);
        assert!(registry.delete_lease("10.5.7.0-24").unwrap());
        assert!(!registry.delete_lease("10.5.7.0-24").unwrap());
        let left: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(left, json!({ "config": { "Network": "10.5.0.0/16" }, "leases": {} }));
        let error = registry.put_config("{").unwrap_err();
        assert!(error.to_string().contains("network config as JSON"), "{error}");
    }
}
