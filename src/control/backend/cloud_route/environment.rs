//! [`Environment`]: the variables by which the clouds' own tools are set up.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Reads variables of the environment. An empty variable counts as unset.
#[derive(Clone)]
pub(in crate::control::backend) struct Environment(Arc<Lookup>);

/// Finds the value of a variable.
type Lookup = dyn Fn(&str) -> Option<String> + Send + Sync;

impl Environment {
    /// That of this process.
    pub(in crate::control::backend) fn of_process() -> Self {
        Self(Arc::new(|name| std::env::var(name).ok()))
    }

    /// These variables and no others.
    #[cfg(test)]
    pub(in crate::control::backend) fn of(variables: &[(&str, &str)]) -> Self {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let variables: Vec<(String, String)> = variables.iter().map(owned).collect();
        Self(Arc::new(move |name| {
            variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
        }))
    }

    /// The value of the first of `names` that is set.
    pub(in crate::control::backend) fn get(&self, names: &[&str]) -> Option<String> {
        names.iter().filter_map(|name| (self.0)(name)).find(|value| !value.is_empty())
    }

    /// A file in the home directory, if there is one.
    pub(in crate::control::backend) fn in_home(&self, path: &str) -> Option<PathBuf> {
        self.get(&["HOME"]).map(|home| PathBuf::from(home).join(path))
    }
}

/// Reads a file that a variable names. The disk may be slow, and the daemon has one thread.
///
/// # Errors
/// As `std::fs::read`.
pub(in crate::control::backend) async fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || fs::read(path))
        .await
        .unwrap_or_else(|error| Err(error.into()))
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Environment")
    }
}
