//! Where calls come in: the places of the settings, that of metrics, and the socket of the server's own user.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::Access;
use socket2::{Domain, Type};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::config::network::Place;
use crate::listen::ListenSettings;
use crate::listen::accept::{self, ConnectionRoom, Listener};
use crate::listen::socket::Socket;
use crate::listen::tls::Tls;
use crate::named_file::may;
use crate::server::error::ServeError;
use crate::server::services::{self, Layers};

/// The socket in the data directory by which the server's own user calls.
const SOCKET: &str = "haul.sock";

/// Where calls come in.
pub(super) struct Listeners {
    main: Vec<Listener>,
    /// For metrics and probes alone.
    metrics: Option<Listener>,
}

/// Why a place cannot be listened at: the flag that names it, the place, and the error.
pub(super) type Unbound = (&'static str, String, std::io::Error);

impl Listeners {
    /// Listens at all these places, of which each may be reached.
    pub(super) async fn bind(
        places: &[Place],
        metrics: Option<Place>,
        tls: Option<&Arc<Tls>>,
    ) -> Result<Listeners, Unbound> {
        let mut main = Vec::with_capacity(places.len());
        for place in places {
            main.push(bound("listen", place, tls).await?);
        }
        let metrics = match metrics {
            Some(place) => {
                let listener = bound("metrics-listen", &place, tls).await?;
                tracing::info!(address = %listener, "metrics are served");
                Some(listener)
            }
            None => None,
        };
        Ok(Listeners { main, metrics })
    }

    /// Where calls are accepted, in the order of the settings.
    pub(super) fn addresses(&self) -> Vec<String> {
        self.main.iter().map(ToString::to_string).collect()
    }

    /// Accepts calls, also by the socket of the data directory, until `closing`.
    pub(super) fn serve(
        self,
        data_dir: &Path,
        routes: Routes,
        layers: &Layers,
        bounds: &ListenSettings,
        closing: &CancellationToken,
    ) -> JoinSet<()> {
        let mut calls = JoinSet::new();
        let layered = services::layered(routes, layers, self.metrics.is_none());
        // That socket has room of its own: whatever others hold, the server's own user comes in.
        let own = socket(data_dir).map(|socket| (Listener::Socket(socket), ConnectionRoom::new(bounds)));
        let room = ConnectionRoom::new(bounds);
        for (listener, room) in self.main.into_iter().map(|listener| (listener, room.clone())).chain(own) {
            calls.spawn(accept::serve(listener, layered.clone(), room, bounds.clone(), closing.clone()));
        }
        if let Some(listener) = self.metrics {
            let alone = services::metrics_alone(layers, listener.is_near());
            // Nor do they keep out who looks whether the server is well. These are few, and leave descriptors to the others.
            let few = ListenSettings { connections_max: bounds.connections_max.div_ceil(4), ..bounds.clone() };
            calls.spawn(accept::serve(listener, alone, ConnectionRoom::new(&few), few, closing.clone()));
        }
        calls
    }
}

/// Fails where a place could not be listened at, as far as that shows without it: whether an address or a socket is in use by
/// another program is not looked at.
pub(super) fn look(flag: &'static str, place: &Place) -> Result<(), ServeError> {
    let may_be = match place {
        Place::Address(address) => may_be_bound(*address),
        Place::Socket { path, group: Some(group), .. } if !Socket::may_be_of(path, *group) => {
            return Err(ServeError::SocketGroup(*group));
        }
        Place::Socket { path, .. } => {
            let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let access = Access::WRITE_OK | Access::EXEC_OK;
            Socket::may_be_at(path).and_then(|()| may(above, access))
        }
    };
    may_be.map_err(|error| ServeError::Listen(flag, place.to_string(), error))
}

/// Fails where this machine does not have the address, or this user may not have the port. Nobody can connect meanwhile.
fn may_be_bound(address: SocketAddr) -> io::Result<()> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    match socket.bind(&address.into()) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(()),
        bound => bound,
    }
}

async fn bound(flag: &'static str, place: &Place, tls: Option<&Arc<Tls>>) -> Result<Listener, Unbound> {
    let bound = match place {
        Place::Address(address) => {
            TcpListener::bind(address).await.map(|listener| Listener::Network(listener, tls.cloned()))
        }
        Place::Socket { path, mode, group } => Socket::of_users(path, *mode, *group).map(Listener::Socket),
    };
    bound.map_err(|error| (flag, place.to_string(), error))
}

/// Listens at the socket of the data directory, whose lock is held. Where there can be none the server does without.
fn socket(data_dir: &Path) -> Option<Socket> {
    let path = data_dir.join(SOCKET);
    match Socket::of_owner(&path) {
        Ok(socket) => Some(socket),
        Err(error) => {
            tracing::warn!(
                "cannot listen on `{}` ({error}), so the server's own user needs a token too, once there is one",
                path.display()
            );
            None
        }
    }
}
