//! Replaces a file as a whole: whoever reads it sees the old text or the new, never half of one.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// Why a file was not written.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {path}")]
pub struct FileError {
    operation: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Gives the file at `path` the content `text`.
///
/// A new file gets mode 0644 whatever the umask; an existing one keeps its mode and owner. Missing
/// directories are made. The temporary file that becomes the new one stands beside it and has a
/// name that begins with a dot.
///
/// # Errors
/// [`FileError`] naming the file or directory; the file is as it was.
pub(super) fn replace_file(path: &Path, text: &str) -> Result<(), FileError> {
    let directory = directory_of(path);
    let failed = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| FileError { operation, path, source }
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)
        .map_err(failed("create directory", directory))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut file = tempfile::Builder::new()
        .prefix(&format!(".{name}."))
        .tempfile_in(directory)
        .map_err(failed("create a temporary file in", directory))?;
    file.write_all(text.as_bytes())
        .and_then(|()| take_after(file.as_file(), path))
        .and_then(|()| file.as_file().sync_all())
        .map_err(failed("write", file.path()))?;
    file.persist(path).map_err(|error| error.error).map_err(failed("replace", path))?;
    Ok(())
}

/// The directory of the file at `path`.
pub(super) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}

/// Gives the new file mode and owner of the one that it is to replace.
fn take_after(new: &File, path: &Path) -> io::Result<()> {
    let Ok(old) = fs::metadata(path) else {
        return new.set_permissions(Permissions::from_mode(0o644));
    };
    let made = new.metadata()?;
    if (made.uid(), made.gid()) != (old.uid(), old.gid()) {
        // Only root may give a file away. For anybody else it is the price of not being root.
        if let Err(error) = fchown(new, Some(old.uid()), Some(old.gid())) {
            tracing::debug!(path = %path.display(), %error, "cannot keep the file's owner");
        }
    }
    new.set_permissions(Permissions::from_mode(old.permissions().mode()))
}
