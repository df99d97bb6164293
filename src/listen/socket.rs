//! The socket of a data directory, by which the server's own user calls: the way in that needs no token, and stays when there
//! are some. Whoever else is on the machine cannot open it, and is not served where it can.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::listen::ListenSettings;
use crate::listen::accept::PAUSE;
use crate::listen::calls::Answers;
use crate::listen::connection::Common;
use crate::listen::places::Places;

/// The user that everything belongs to.
const ROOT: u32 = 0;
/// An address that stands for this machine, whose users have no bound of their own.
const HERE: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// A socket that is listened on. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Listens at `path`, whose directory nobody else uses: what an earlier server left there is removed.
    pub fn bind(path: &Path) -> io::Result<Socket> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        let socket = Socket { listener, path: path.to_owned() };
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
        Ok(socket)
    }

    /// Serves the server's own user and root until `closing`, and then until all connections have ended.
    pub async fn serve<S: Answers>(self, service: S, settings: ListenSettings, closing: CancellationToken) {
        let places = Places::new(settings.connections_max, settings.connections_max);
        let calls = TaskTracker::new();
        let common = Arc::new(Common::new(service, None, settings, calls.clone(), closing.clone()));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
                () = closing.cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) if is_owner(&stream) => {
                    if let Some(place) = places.take(HERE) {
                        let common = common.clone();
                        connections.spawn(async move { common.serve_owner(stream, place).await });
                    }
                }
                Ok(_) => tracing::warn!("another user's connection to `{}` is refused", self.path.display()),
                Err(error) => {
                    tracing::debug!("connections cannot be accepted at `{}` just now: {error}", self.path.display());
                    places.displace();
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        // No client must connect to a server that does not answer it.
        drop(self);
        while connections.join_next().await.is_some() {}
        calls.close();
        calls.wait().await;
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The next start removes it, where this cannot.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Whether the other end is the user that this process runs as, or root: both could read the database anyway.
fn is_owner(stream: &UnixStream) -> bool {
    let owner = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == owner || peer.uid() == ROOT)
}
