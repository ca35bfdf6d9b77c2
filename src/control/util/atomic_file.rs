//! Replaces a file as a whole: a reader sees the old text or the new, never a part.
//! And reads one, whatever else has its name.
//!
//! Both may take as long as the disk does. While the node forwards they belong on a thread of
//! their own.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{
    DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown,
};
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
/// directories are made. The temporary file that becomes the new one is in the same directory and has a
/// name that begins with a dot.
///
/// A FIFO or a symbolic link at `path` is replaced; a device is not: `/dev/null` is everybody's.
///
/// # Errors
/// [`FileError`] naming the file or directory; the file is as it was.
pub(crate) fn replace_file(path: &Path, text: &str) -> Result<(), FileError> {
    let directory = directory_of(path);
    let failed = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| FileError { operation, path, source }
    };
    if is_device(path) {
        let source = io::Error::other("it is a device, not a file");
        return Err(failed("replace", path)(source));
    }
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

/// The content of the file at `path`. Does not wait for the writer of a FIFO.
///
/// # Errors
/// What the kernel says, or that it is no regular file.
pub(crate) fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    // Opening a FIFO waits for its other end otherwise. On a regular file the flag does nothing.
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut content = Vec::new();
    file.read_to_end(&mut content)?;
    Ok(content)
}

fn is_device(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| {
        found.file_type().is_char_device() || found.file_type().is_block_device()
    })
}

/// The directory of the file at `path`.
pub(crate) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}

/// Gives the new file mode and owner of the one that it is to replace.
fn take_after(new: &File, path: &Path) -> io::Result<()> {
    let old = fs::metadata(path).ok().filter(fs::Metadata::is_file);
    let Some(old) = old else {
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
