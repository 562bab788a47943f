//! The runtime folder: private, ours, and one daemon in it.

use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::model::{ErrorCode, Refusal};

/// The folder's name below the user's runtime folder.
pub const FOLDER: &str = "aegis-broker";

/// The name of the programs' socket.
pub const SOCKET: &str = "broker.sock";

/// The name of the models' socket.
pub const MCP_SOCKET: &str = "mcp.sock";

/// The file whose lock the one daemon of a folder holds.
pub const LOCK: &str = "broker.lock";

/// `sun_path` holds 108 bytes, one of them the final NUL.
const MAX_SOCKET_PATH: usize = 107;

/// As many connections may wait to be accepted; the kernel cuts it to `net.core.somaxconn`.
/// A burst of a build's many processes must not be turned away.
const BACKLOG: i32 = 1024;

/// Why a runtime folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It does not exist.
    #[error("the runtime folder does not exist")]
    Missing,
    /// A file or a symbolic link stands in its place.
    #[error("the runtime folder's place is taken by something that is not a folder")]
    NotAFolder,
    /// It belongs to somebody else.
    #[error("the runtime folder belongs to another user")]
    OtherOwner,
    /// Group or others may enter it.
    #[error("the runtime folder is open to group or others")]
    Open,
    /// The socket's path is longer than a socket address can hold.
    #[error("the socket's path is longer than {MAX_SOCKET_PATH} bytes")]
    PathTooLong,
    /// Something that is not a socket stands where the socket belongs.
    #[error("the socket's place is taken by something that is not a socket")]
    NotASocket,
    /// The lock is held.
    #[error("another daemon is already running for this user")]
    AlreadyRunning,
    /// The file system said no.
    #[error("the runtime folder cannot be used")]
    Io(#[from] io::Error),
}

impl FolderError {
    /// What a person is told: which folder, what is wrong with it, and what to do.
    pub fn at(&self, folder: &Path) -> Refusal {
        let place = folder.display();
        let told = |code| Refusal::new(code).with_message(&format!("{self}: {place}"));
        match self {
            // The daemon makes it.
            Self::Missing => ErrorCode::DaemonUnreachable.into(),
            Self::NotAFolder | Self::OtherOwner | Self::Open | Self::NotASocket => {
                told(ErrorCode::RuntimeFolderUnsafe)
            }
            Self::PathTooLong => {
                told(ErrorCode::RuntimeFolderUnsafe).with_fix("use a shorter XDG_RUNTIME_DIR")
            }
            Self::AlreadyRunning => told(ErrorCode::AlreadyRunning),
            Self::Io(cause) => {
                Refusal::new(ErrorCode::Io).with_message(&format!("{self}: {place}: {cause}"))
            }
        }
    }
}

/// A folder that was checked: a folder and not a link, ours, closed to group and others (PE-1).
#[derive(Debug, Clone)]
pub struct RuntimeFolder {
    path: PathBuf,
}

impl RuntimeFolder {
    /// Makes the folder with mode 0700 where it is missing, then checks it. What stands there
    /// already is never repaired.
    ///
    /// # Errors
    /// [`FolderError`] by what is wrong.
    pub fn prepare(path: &Path) -> Result<Self, FolderError> {
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
        Self::check(path)
    }

    /// Checks a folder without touching it or following a link.
    ///
    /// # Errors
    /// [`FolderError`] by what is wrong.
    pub fn check(path: &Path) -> Result<Self, FolderError> {
        let found = match path.symlink_metadata() {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(FolderError::Missing);
            }
            Err(error) => return Err(error.into()),
        };
        if !found.is_dir() {
            return Err(FolderError::NotAFolder);
        }
        if found.uid() != rustix::process::geteuid().as_raw() {
            return Err(FolderError::OtherOwner);
        }
        if found.mode() & 0o077 != 0 {
            return Err(FolderError::Open);
        }
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Becomes the one daemon of this folder. The kernel takes the lock back on any death.
    ///
    /// # Errors
    /// [`FolderError::AlreadyRunning`], [`FolderError::Io`].
    pub fn lock(self) -> Result<Instance, FolderError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(self.path.join(LOCK), flags, Mode::from_raw_mode(0o600))
            .map_err(io::Error::from)?;
        let lock = File::from(file);
        match lock.try_lock() {
            Ok(()) => Ok(Instance {
                folder: self,
                bound: Vec::new(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(FolderError::AlreadyRunning),
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    }
}

/// A socket we bound: its path, and which file stood there then.
#[derive(Debug)]
struct Bound {
    path: PathBuf,
    file: (u64, u64),
}

/// Being the one daemon of a runtime folder. Dropped, it unlinks the sockets it bound, then
/// gives up the lock.
#[derive(Debug)]
pub struct Instance {
    folder: RuntimeFolder,
    bound: Vec<Bound>,
    _lock: File,
}

impl Instance {
    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder.path
    }

    /// Binds the socket of that name with mode 0600, in place of a stale one: who holds the
    /// lock knows that no daemon listens there.
    ///
    /// # Errors
    /// [`FolderError::PathTooLong`], [`FolderError::NotASocket`], [`FolderError::Io`].
    pub fn bind(&mut self, name: &str) -> Result<UnixListener, FolderError> {
        let path = self.folder.path.join(name);
        check_length(&path)?;
        match path.symlink_metadata() {
            Ok(found) if found.file_type().is_socket() => std::fs::remove_file(&path)?,
            Ok(_) => return Err(FolderError::NotASocket),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        let umask = rustix::process::umask(Mode::from_raw_mode(0o077));
        let bound = UnixListener::bind(&path);
        rustix::process::umask(umask);
        let listener = bound?;
        let found = path.symlink_metadata()?;
        self.bound.push(Bound {
            path: path.clone(),
            file: (found.dev(), found.ino()),
        });
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600))?;
        rustix::net::listen(&listener, BACKLOG).map_err(io::Error::from)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        for Bound { path, file } in &self.bound {
            // Somebody else's file may have taken its place meanwhile, or another folder ours.
            let removed = path.symlink_metadata().and_then(|found| {
                if (found.dev(), found.ino()) == *file {
                    std::fs::remove_file(path)
                } else {
                    Err(io::ErrorKind::NotFound.into())
                }
            });
            if let Err(error) = removed {
                tracing::debug!(%error, "the socket was gone before the daemon");
            }
        }
    }
}

/// Whether a socket address can hold that path.
pub(super) fn check_length(path: &Path) -> Result<(), FolderError> {
    if path.as_os_str().as_bytes().len() > MAX_SOCKET_PATH {
        return Err(FolderError::PathTooLong);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }

    fn fault(result: Result<RuntimeFolder, FolderError>) -> String {
        result.unwrap_err().to_string()
    }

    /// PE-1: the folder is made private and the socket in it too.
    #[test]
    fn a_new_folder_and_its_socket_are_ours_alone() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(FOLDER);
        let mut instance = RuntimeFolder::prepare(&path).unwrap().lock().unwrap();
        let listener = instance.bind(SOCKET).unwrap();
        let mode = |path: &Path| path.symlink_metadata().unwrap().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&path.join(SOCKET)), 0o600);
        assert_eq!(mode(&path.join(LOCK)), 0o600);
        drop((listener, instance));
        assert!(!path.join(SOCKET).exists(), "unlinked at the end");
    }

    /// PE-1: whatever is not a private folder of ours is refused, and never repaired.
    #[test]
    fn a_folder_that_is_not_private_is_refused() {
        let root = tempfile::tempdir().unwrap();
        for mode in [0o755, 0o770, 0o701, 0o710, 0o702] {
            let path = root.path().join(format!("mode-{mode:o}"));
            std::fs::create_dir(&path).unwrap();
            set_mode(&path, mode);
            assert_eq!(
                fault(RuntimeFolder::prepare(&path)),
                FolderError::Open.to_string(),
                "{mode:o}"
            );
            assert_eq!(path.symlink_metadata().unwrap().mode() & 0o777, mode);
        }
    }

    /// PE-1: a link is refused even where it leads to a good folder.
    #[test]
    fn a_link_or_a_file_in_the_place_of_the_folder_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let good = root.path().join("good");
        RuntimeFolder::prepare(&good).unwrap();
        let link = root.path().join("link");
        symlink(&good, &link).unwrap();
        let file = root.path().join("file");
        std::fs::write(&file, "").unwrap();
        for path in [link, file] {
            assert_eq!(
                fault(RuntimeFolder::prepare(&path)),
                FolderError::NotAFolder.to_string()
            );
        }
        assert_eq!(
            fault(RuntimeFolder::check(&root.path().join("absent"))),
            FolderError::Missing.to_string()
        );
    }

    /// PE-1: another user's folder is refused. Only root can make one to try.
    #[test]
    fn a_folder_of_another_user_is_refused() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(FOLDER);
        RuntimeFolder::prepare(&path).unwrap();
        std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
        assert_eq!(
            fault(RuntimeFolder::check(&path)),
            FolderError::OtherOwner.to_string()
        );
    }

    /// A second daemon ends before it touches the first one's socket; a stale one is replaced.
    #[test]
    fn one_daemon_holds_the_folder_and_a_stale_socket_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(FOLDER);
        let folder = RuntimeFolder::prepare(&path).unwrap();
        drop(UnixListener::bind(path.join(SOCKET)).unwrap());
        let mut first = folder.clone().lock().unwrap();
        assert_eq!(
            folder.lock().unwrap_err().to_string(),
            FolderError::AlreadyRunning.to_string()
        );
        let listener = first.bind(SOCKET).unwrap();
        let connected = UnixStream::connect(path.join(SOCKET)).unwrap();
        drop((connected, listener, first));
        drop(RuntimeFolder::check(&path).unwrap().lock().unwrap());
    }

    #[test]
    fn what_is_not_a_socket_is_not_removed() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(FOLDER);
        let mut instance = RuntimeFolder::prepare(&path).unwrap().lock().unwrap();
        std::fs::write(path.join(SOCKET), "precious").unwrap();
        assert_eq!(
            instance.bind(SOCKET).unwrap_err().to_string(),
            FolderError::NotASocket.to_string()
        );
        drop(instance);
        assert_eq!(std::fs::read(path.join(SOCKET)).unwrap(), b"precious");
    }

    /// Whatever took our socket's place, in this folder or in another one that was put here, is
    /// somebody else's: it is not removed at the end.
    #[test]
    fn only_the_socket_that_was_bound_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(FOLDER);
        let bind = || {
            let mut instance = RuntimeFolder::prepare(&path).unwrap().lock().unwrap();
            (instance.bind(SOCKET).unwrap(), instance)
        };
        let first = bind();
        std::fs::rename(&path, root.path().join("away")).unwrap();
        let second = bind();
        drop(first);
        assert!(
            UnixStream::connect(path.join(SOCKET)).is_ok(),
            "a successor's"
        );
        std::fs::remove_file(path.join(SOCKET)).unwrap();
        std::fs::write(path.join(SOCKET), "precious").unwrap();
        drop(second);
        assert_eq!(std::fs::read(path.join(SOCKET)).unwrap(), b"precious");
    }

    #[test]
    fn a_path_longer_than_an_address_is_said_so() {
        assert!(check_length(Path::new(&"a".repeat(107))).is_ok());
        assert!(check_length(Path::new(&"a".repeat(108))).is_err());
    }
}
