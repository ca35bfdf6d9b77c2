//! The unix socket that the tools ask: who may use it, and whose file it is.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use socket2::{Domain, SockAddr, Socket, Type};
use tracing::{debug, info};

use super::Endpoint;
use super::http::serve_on_thread;
use crate::control::node::status::SharedStatus;

/// Members of this group may use the socket, if the host has it.
const GROUP: &str = "flannel";

/// Connections that the kernel keeps for us until they are accepted.
const BACKLOG: i32 = 64;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// A file that we did not make.
    #[error("{} is no socket, and is left as it is", .0.display())]
    NoSocket(PathBuf),
    /// Another daemon answers there.
    #[error("{} is the socket of a running process; --socket gives this flanneld another", .0.display())]
    InUse(PathBuf),
    /// The kernel refuses.
    #[error("{}: {source}", path.display())]
    Io {
        /// The socket, or its directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The socket's file. It is removed when this is dropped, unless another process has replaced it.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            drop(fs::remove_file(&self.path));
        }
    }
}

/// Opens the socket at `path` and serves it, for the life of the process, on a thread of its own.
/// What a daemon that is dead left there is replaced.
///
/// # Errors
/// [`SocketError`]. Nothing is changed then.
pub fn start(path: &Path, status: Arc<SharedStatus>) -> Result<SocketFile, SocketError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| SocketError::Io { path, source }
    };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    fs::create_dir_all(directory).map_err(at(directory))?;
    // Two daemons that start at the same time must not replace each other's socket.
    let lock = File::open(directory).map_err(at(directory))?;
    lock.lock().map_err(at(directory))?;
    remove_left_over(path)?;
    let listener = bind(path).map_err(at(path))?;
    let file = SocketFile { path: path.to_owned(), identity: identity(path).map_err(at(path))? };
    share(path).map_err(at(path))?;
    serve_on_thread(listener, Endpoint::local(status)).map_err(at(path))?;
    info!("tools such as flanneld status ask at {}", path.display());
    Ok(file)
}

/// Removes the socket of a daemon that no longer runs.
///
/// # Errors
/// [`SocketError`] if something else is there, or a process listens.
pub fn remove_left_over(path: &Path) -> Result<bool, SocketError> {
    let at = |source| SocketError::Io { path: path.to_owned(), source };
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(at(error)),
    };
    if !kind.is_socket() {
        return Err(SocketError::NoSocket(path.to_owned()));
    }
    match connect_at_once(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(at)?;
            Ok(true)
        }
        // Also if it is too busy to accept.
        Ok(_) | Err(_) => Err(SocketError::InUse(path.to_owned())),
    }
}

/// Connects without waiting for a process that does not accept.
fn connect_at_once(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

/// A socket that nobody but us may use yet.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // The file that `bind` makes gets the mode of the socket: unix_bind_bsd() in net/unix/af_unix.c.
    let file = File::from(OwnedFd::from(socket.try_clone()?));
    file.set_permissions(Permissions::from_mode(0o600))?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.set_nonblocking(true)?;
    socket.listen(BACKLOG)?;
    Ok(OwnedFd::from(socket).into())
}

/// Lets the group use it.
fn share(path: &Path) -> io::Result<()> {
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    if let Some(group) = group_id(&groups)
        && let Err(error) = chown(path, None, Some(group))
    {
        // In a user namespace without that group.
        debug!(%error, "group {GROUP} gets no access to {}", path.display());
    }
    fs::set_permissions(path, Permissions::from_mode(0o660))
}

/// The number of the group in the text of `/etc/group`. The C library would ask the host's modules
/// (nsswitch.conf), and a static program crashes in those.
fn group_id(groups: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(GROUP)).then(|| fields.nth(1)?.parse().ok())?
    })
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn group_is_found_by_its_whole_name() {
        let groups = "root:x:0:\nflannels:x:7:\nflannel:x:993:me,you\n";
        assert_eq!(group_id(groups), Some(993));
        assert_eq!(group_id("flannel:x:\nflannel"), None);
        assert_eq!(group_id(""), None);
    }

    fn start_at(path: &Path) -> Result<SocketFile, SocketError> {
        start(path, Arc::new(SharedStatus::default()))
    }

    fn get(path: &Path, what: &str) -> String {
        let mut stream = UnixStream::connect(path).unwrap();
        let request = format!("GET {what} HTTP/1.1\r\nHost: test\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn socket_answers_tools_as_well_and_goes_with_its_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/flanneld.sock");
        let file = start_at(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
        assert!(get(&path, "/healthz").ends_with("flanneld is running"));
        let answer = get(&path, "/v1/status");
        assert!(answer.contains("\r\nserver: flanneld/"), "{answer}");
        assert!(answer.contains("\"product\":\"twill\""), "{answer}");
        assert!(get(&path, "/v1/nothing").starts_with("HTTP/1.1 404"));
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn live_socket_is_never_replaced_and_a_dead_one_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flanneld.sock");
        let live = UnixListener::bind(&path).unwrap();
        let error = start_at(&path).unwrap_err();
        assert!(matches!(error, SocketError::InUse(_)), "{error}");
        drop(live);
        let file = start_at(&path).unwrap();
        assert!(get(&path, "/healthz").starts_with("HTTP/1.1 200"));
        // Somebody else has the name by now: it is not ours to remove.
        fs::remove_file(&path).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        drop(file);
        assert!(path.exists());
        drop(other);
    }

    #[test]
    fn what_is_no_socket_stays_and_an_error_names_the_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flanneld.sock");
        fs::write(&path, "mine").unwrap();
        let error = start_at(&path).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()) && error.contains("no socket"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        let below_a_file = path.join("x.sock");
        let error = start_at(&below_a_file).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        let long = dir.path().join("x".repeat(120));
        assert!(start_at(&long).is_err(), "a socket's path has at most 107 bytes");
    }
}
