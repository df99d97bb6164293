//! A relay that is far away: what comes to one side leaves by the other a while later, and as much as there is.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// What one read brings at most.
const PIECE_BYTES: usize = 256 << 10;

/// A running relay; dropping it ends it.
pub struct Relay {
    pub address: SocketAddr,
    /// How often the connections of until then were forgotten.
    forgotten: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Relay {
    /// To `origin`, which is half of `round_trip` away.
    pub async fn start(origin: SocketAddr, round_trip: Duration) -> Relay {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        let forgotten = Arc::<AtomicUsize>::default();
        let times = Arc::clone(&forgotten);
        tasks.spawn(async move {
            let mut ways = JoinSet::new();
            loop {
                let Ok((near, _)) = listener.accept().await else { continue };
                let Ok(far) = TcpStream::connect(origin).await else { continue };
                let _ = (near.set_nodelay(true), far.set_nodelay(true));
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                let way = Way { delay: round_trip / 2, began: times.load(Ordering::SeqCst), times: Arc::clone(&times) };
                ways.spawn(carry(near_in, far_out, way.clone()));
                ways.spawn(carry(far_in, near_out, way));
            }
        });
        Relay { address, forgotten, _tasks: tasks }
    }

    /// Carries nothing more of the connections that there are, and closes none of them, as a NAT does that has forgotten them.
    pub fn forget(&self) {
        self.forgotten.fetch_add(1, Ordering::SeqCst);
    }
}

/// One direction of a connection.
#[derive(Clone)]
struct Way {
    delay: Duration,
    began: usize,
    times: Arc<AtomicUsize>,
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, way: Way) {
    let (sender, mut under_way) = mpsc::unbounded_channel::<(Instant, Bytes)>();
    let takes = async move {
        loop {
            let mut piece = BytesMut::with_capacity(PIECE_BYTES);
            match from.read_buf(&mut piece).await {
                Ok(count) if count > 0 => {
                    let _ = sender.send((Instant::now() + way.delay, piece.freeze()));
                }
                _ => return,
            }
        }
    };
    let gives = async {
        while let Some((due, piece)) = under_way.recv().await {
            tokio::time::sleep_until(due).await;
            if way.times.load(Ordering::SeqCst) > way.began {
                continue;
            }
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(takes, gives);
}
