//! The socket in its folder.

use crate::access::group_id;
use crate::{FOLDER_MODE, SOCKET_MODE};
use model::port::{SOCKET_PATH_MAX, parse_socket_path};
use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long another daemon may hold the folder's lock, which it does only while it makes its socket.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// Time between two looks at the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The path cannot be a socket's.
    #[error("api.socket \"{path}\": {message}; remedy: {remedy}")]
    Path {
        /// The path, made printable.
        path: String,
        /// What is wrong with it.
        message: String,
        /// What to do.
        remedy: String,
    },
    /// Another daemon answers there.
    #[error(
        "api.socket \"{0}\": another towpathd answers there; remedy: stop it, or give this one a socket of its own"
    )]
    InUse(PathBuf),
    /// Something else is there, which is not ours to remove.
    #[error(
        "api.socket \"{0}\": there is a file that is no socket; remedy: move it away, or name another path"
    )]
    NotASocket(PathBuf),
    /// The operating system refused.
    #[error(
        "api.socket \"{path}\": cannot {action}: {source}; remedy: correct the folder's permissions, or name another path"
    )]
    Os {
        /// The path.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Its answer.
        source: io::Error,
    },
}

/// The API's socket, listening. Dropping it removes the file, if it is still the same.
#[derive(Debug)]
pub struct ApiSocket {
    listener: UnixListener,
    path: PathBuf,
    identity: (u64, u64),
}

impl ApiSocket {
    /// Makes the socket: folders that are missing (0750), the socket (0660), both of group `towpath` if there is one. A
    /// socket that a dead daemon left is replaced.
    ///
    /// # Errors
    /// A path that cannot be a socket's, a living daemon or a foreign file there, or the operating system's refusal.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let folder = check_path(path)?;
        let os = |action| move |source| BindError::Os { path: path.to_owned(), action, source };
        let group = group_id();
        make_folder(folder, group).map_err(os("make its folder"))?;
        let lock = File::open(folder).map_err(os("open its folder"))?;
        lock_patiently(&lock).map_err(os("lock its folder"))?;
        remove_stale(path)?;
        let listener = UnixListener::bind(path).map_err(os("make the socket"))?;
        if let Some(group) = group {
            chown(path, None, Some(group)).map_err(os("give the socket to its group"))?;
        }
        fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE))
            .map_err(os("set the socket's mode"))?;
        listener.set_nonblocking(true).map_err(os("use the socket"))?;
        let metadata = fs::symlink_metadata(path).map_err(os("look at the socket"))?;
        Ok(Self { listener, path: path.to_owned(), identity: (metadata.dev(), metadata.ino()) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The listening descriptor, not blocking.
    pub(crate) fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }
}

impl Drop for ApiSocket {
    fn drop(&mut self) {
        let same = fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.identity);
        if same && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the API socket stays behind");
        }
    }
}

/// The folder of a path that can be a socket's.
fn check_path(path: &Path) -> Result<&Path, BindError> {
    let text = path.to_string_lossy();
    let refuse = |message: String, remedy: String| BindError::Path {
        path: model::problem::quoted(&text),
        message,
        remedy,
    };
    if path.to_str().is_none() {
        let remedy = format!("write an absolute path of at most {SOCKET_PATH_MAX} bytes");
        return Err(refuse("is not UTF-8".into(), remedy));
    }
    parse_socket_path(&text).map_err(|refusal| refuse(refusal.message, refusal.remedy))?;
    Ok(path.parent().unwrap_or(Path::new("/")))
}

/// Makes missing folders. One that is there keeps its mode: it may be somebody else's (`/tmp`).
fn make_folder(folder: &Path, group: Option<u32>) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder)?;
    if let Some(group) = group {
        chown(folder, None, Some(group))?;
    }
    // Once more, because the mode above passed through the umask.
    fs::set_permissions(folder, Permissions::from_mode(FOLDER_MODE))
}

/// Takes the lock of a folder, so that of two daemons that start at once the later one sees the earlier one's socket.
fn lock_patiently(folder: &File) -> io::Result<()> {
    let start = Instant::now();
    loop {
        match folder.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if start.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(LOCK_PAUSE);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Removes a socket on which nobody listens.
fn remove_stale(path: &Path) -> Result<(), BindError> {
    let os = |action, source| BindError::Os { path: path.to_owned(), action, source };
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(os("look at the path", error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(BindError::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| os("remove the socket of a dead daemon", error))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(os("see who listens there", error)),
        Ok(_) => Err(BindError::InUse(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a01_modes_of_socket_and_folder() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("run/towpath/api.sock");
        let socket = ApiSocket::bind(&path).unwrap();
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o660, 0o750));
        if let Some(group) = group_id() {
            assert_eq!(fs::metadata(&path).unwrap().gid(), group);
        }
        drop(socket);
        assert!(!path.exists(), "the socket is removed with its owner");
    }

    #[test]
    fn a_folder_that_is_there_keeps_its_mode() {
        let root = tempfile::tempdir().unwrap();
        let before = mode(root.path());
        let _socket = ApiSocket::bind(&root.path().join("a.sock")).unwrap();
        assert_eq!(mode(root.path()), before);
    }

    #[test]
    fn a_dead_daemons_socket_is_replaced_a_living_ones_and_files_are_not() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("api.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let living = ApiSocket::bind(&path).unwrap();
        assert!(matches!(ApiSocket::bind(&path), Err(BindError::InUse(_))));
        drop(living);
        fs::write(&path, "mine").unwrap();
        assert!(matches!(ApiSocket::bind(&path), Err(BindError::NotASocket(_))));
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(root.path().join("elsewhere"), &path).unwrap();
        assert!(matches!(ApiSocket::bind(&path), Err(BindError::NotASocket(_))));
    }

    #[test]
    fn another_daemons_socket_is_not_removed() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("api.sock");
        let first = ApiSocket::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _second = ApiSocket::bind(&path).unwrap();
        drop(first);
        assert!(path.exists());
    }

    #[test]
    fn a13_paths_that_cannot_be_sockets() {
        let long = format!("/tmp/{}", "x".repeat(200));
        for bad in ["", "api.sock", "/", "/tmp/../etc/api.sock", "/tmp/a\nb", &long] {
            let error = ApiSocket::bind(Path::new(bad)).unwrap_err();
            assert!(matches!(error, BindError::Path { .. }), "{bad}: {error}");
            assert!(!error.to_string().contains('\n'));
        }
    }
}
