//! Unix sockets: the one of the data directory, by which the server's own user calls, and those that are listened on for
//! others of this machine.
//!
//! The first is the way in that needs no token, and stays when there are some. Nobody else can open it, and is not served
//! where they can.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Type};
use tokio::net::{UnixListener, UnixStream};

use crate::listen::peer::Origin;

/// The user that everything belongs to.
const ROOT: u32 = 0;
/// Who may open the socket of the data directory.
const OWNER_ONLY: u32 = 0o600;
/// The most bytes of a path that a socket may have: `sun_path` has 108, the last of which is 0.
const PATH_BYTES_MAX: usize = 107;

/// Connections that may wait to be accepted.
const WAITING_MAX: i32 = 1024;

/// Who is served at a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Served {
    /// The server's own user and root.
    Owner,
    /// Every user who can open the socket.
    Everybody,
}

/// A socket that is listened on. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    served: Served,
}

impl Socket {
    /// Listens at `path`, whose directory nobody else uses, for the server's own user. The socket that an earlier server
    /// left there is removed; anything else that is there stays.
    pub fn of_owner(path: &Path) -> io::Result<Socket> {
        Socket::may_be_at(path)?;
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Socket::bind(path, OWNER_ONLY, None, Served::Owner)
    }

    /// Listens at `path` for whoever may open a file of this mode and group. A socket that nobody listens on any more is
    /// removed first; anything else that is there stays.
    pub fn of_users(path: &Path, mode: u32, group: Option<u32>) -> io::Result<Socket> {
        Socket::may_be_at(path)?;
        let there = std::fs::symlink_metadata(path);
        if there.is_ok_and(|there| there.file_type().is_socket()) {
            match std::os::unix::net::UnixStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
                _ => return Err(io::Error::new(io::ErrorKind::AddrInUse, "another program listens there")),
            }
        }
        Socket::bind(path, mode, group, Served::Everybody)
    }

    /// Fails where no server could listen at `path`, as far as that shows without a try. Nothing is made.
    pub fn may_be_at(path: &Path) -> io::Result<()> {
        let bytes = path.as_os_str().len();
        if bytes > PATH_BYTES_MAX {
            let why = format!("its path has {bytes} bytes, and that of a socket has at most {PATH_BYTES_MAX}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        match std::fs::symlink_metadata(path) {
            Ok(there) if !there.file_type().is_socket() => {
                Err(io::Error::new(io::ErrorKind::AddrInUse, "what is there is not a socket"))
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Returns whether this user may give a socket at this path to a group: who is not root has to be in it, unless what is made in
    /// the directory is of that group anyway.
    pub fn may_be_of(path: &Path, group: u32) -> bool {
        let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let is_given = |above: &std::fs::Metadata| above.mode() & 0o2000 != 0 && above.gid() == group;
        let is_of_all = || std::fs::metadata(above).is_ok_and(|above| is_given(&above));
        let is_own = || rustix::process::getegid().as_raw() == group;
        let is_in = || rustix::process::getgroups().is_ok_and(|all| all.iter().any(|it| it.as_raw() == group));
        may_give_files() || is_own() || is_in() || is_of_all()
    }

    fn bind(path: &Path, mode: u32, group: Option<u32>, served: Served) -> io::Result<Socket> {
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(path)?)?;
        let listener = listen(socket, path, mode, group).inspect_err(|_| {
            // The next start removes it, where this cannot.
            let _ = std::fs::remove_file(path);
        })?;
        Ok(Socket { listener, path: path.to_owned(), served })
    }

    /// Returns the path of its file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Accepts a connection; `None` instead of who must not be served.
    pub(super) async fn accept(&self) -> io::Result<Option<(UnixStream, Origin)>> {
        let (stream, _) = self.listener.accept().await?;
        let peer = stream.peer_cred()?;
        let is_owner = peer.uid() == rustix::process::geteuid().as_raw() || peer.uid() == ROOT;
        let origin = match self.served {
            _ if is_owner => Origin::Owner,
            Served::Everybody => Origin::User { uid: peer.uid(), gid: peer.gid() },
            Served::Owner => return Ok(None),
        };
        Ok(Some((stream, origin)))
    }
}

/// Listens at a socket once its file is only for those whom it is for: until then nobody can connect, whatever the umask is.
fn listen(socket: socket2::Socket, path: &Path, mode: u32, group: Option<u32>) -> io::Result<UnixListener> {
    if let Some(group) = group {
        std::os::unix::fs::chown(path, None, Some(group))?;
    }
    std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    socket.listen(WAITING_MAX)?;
    socket.set_nonblocking(true)?;
    UnixListener::from_std(socket.into())
}

/// Returns whether this process has the right to give files to anybody (`CAP_CHOWN`).
fn may_give_files() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let rights = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    rights.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).is_some_and(|rights| rights & 1 == 1)
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The next start removes it, where this cannot.
        let _ = std::fs::remove_file(&self.path);
    }
}
