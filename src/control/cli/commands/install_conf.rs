//! `install-conf SRC DST`: what flanneld does when it is run by that name. It puts the CNI
//! configuration of a config map where the kubelet looks for it, as the program of that name in
//! flannel's image does.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use crate::control::util::atomic_file::{FileError, read_file, replace_file};

/// The name.
const NAME: &str = "install-conf";

/// Why a file was not installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallConfError {
    /// There are not two arguments.
    #[error("give a file and where it is to be: install-conf SRC DST")]
    Usage,
    /// The file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no text.
    #[error("{} is not UTF-8 text", .0.display())]
    NotText(PathBuf),
    /// The copy cannot be written.
    #[error(transparent)]
    Write(#[from] FileError),
}

/// Whether `program`, the first word of the command line, is that name.
pub fn is_meant(program: Option<&OsStr>) -> bool {
    program.is_some_and(|program| Path::new(program).file_name() == Some(OsStr::new(NAME)))
}

/// Copies a file over another one, which is replaced as a whole. Missing directories are made.
///
/// # Errors
/// [`InstallConfError`].
pub fn install(args: impl IntoIterator<Item = OsString>) -> Result<(), InstallConfError> {
    let args: Vec<OsString> = args.into_iter().collect();
    let [from, to] = args.as_slice() else { return Err(InstallConfError::Usage) };
    let from = Path::new(from);
    let read = |source| InstallConfError::Read { path: from.to_owned(), source };
    let text = String::from_utf8(read_file(from).map_err(read)?);
    let text = text.map_err(|_| InstallConfError::NotText(from.to_owned()))?;
    Ok(replace_file(Path::new(to), &text)?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn file_is_copied_over_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let [from, to] = ["cni-conf.json", "net.d/10-flannel.conflist"]
            .map(|name| directory.path().join(name).into_os_string());
        for text in ["{}", "{\"name\":\"cbr0\"}"] {
            fs::write(&from, text).unwrap();
            install([from.clone(), to.clone()]).unwrap();
            assert_eq!(fs::read_to_string(&to).unwrap(), text);
        }
        let left = fs::read_dir(directory.path().join("net.d")).unwrap().count();
        assert_eq!(left, 1, "nothing else is left there");
        assert!(matches!(install([from]), Err(InstallConfError::Usage)));
        let absent = install(["/no/such".into(), to]).unwrap_err().to_string();
        assert_eq!(absent, "read /no/such");
    }

    #[test]
    fn name_is_the_last_part_of_the_program() {
        assert!(is_meant(Some(OsStr::new("/opt/bin/install-conf"))));
        assert!(!is_meant(Some(OsStr::new("/install-conf/flanneld"))));
        assert!(!is_meant(None));
    }
}
