//! A relay that is far away: what comes to one side leaves by the other a while later, and as much as there is.

use std::net::{Ipv4Addr, SocketAddr};
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
    _tasks: JoinSet<()>,
}

impl Relay {
    /// To `origin`, which is half of `round_trip` away.
    pub async fn start(origin: SocketAddr, round_trip: Duration) -> Relay {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut ways = JoinSet::new();
            loop {
                let Ok((near, _)) = listener.accept().await else { continue };
                let Ok(far) = TcpStream::connect(origin).await else { continue };
                let _ = (near.set_nodelay(true), far.set_nodelay(true));
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                ways.spawn(carry(near_in, far_out, round_trip / 2));
                ways.spawn(carry(far_in, near_out, round_trip / 2));
            }
        });
        Relay { address, _tasks: tasks }
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (sender, mut under_way) = mpsc::unbounded_channel::<(Instant, Bytes)>();
    let takes = async move {
        loop {
            let mut piece = BytesMut::with_capacity(PIECE_BYTES);
            match from.read_buf(&mut piece).await {
                Ok(count) if count > 0 => {
                    let _ = sender.send((Instant::now() + delay, piece.freeze()));
                }
                _ => return,
            }
        }
    };
    let gives = async {
        while let Some((due, piece)) = under_way.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(takes, gives);
}
