//! How the origin writes what a test scripted, with its pauses and cuts.

use std::fmt::Write as _;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::time::Instant;

use super::reply::{Cut, Framing, Pause, Reply};
use super::request::{Request, Wire};

/// What the bodies of an origin come to, and how fast they go.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) body_bytes: AtomicU64,
    /// 0: no limit.
    pub(super) connection_rate: AtomicU64,
}

/// Returns whether the connection may carry another request.
pub(super) async fn write_reply(
    stream: &mut BufReader<impl Wire>,
    request: &Request,
    reply: Reply,
    counts: &Counts,
) -> io::Result<bool> {
    for pause in &reply.before_head {
        wait(pause, stream).await?;
    }
    if let Some(cut) = reply.drop_before_head {
        return end(stream, cut);
    }
    if let Some(raw) = &reply.raw {
        stream.write_all(raw).await?;
        return Ok(false);
    }
    let head = head_of(&reply);
    let bodiless = request.method == "HEAD" || matches!(reply.status, 204 | 304) || reply.status < 200;
    stream.write_all(head.as_bytes()).await?;
    if !bodiless && let Some(cut) = write_body(stream, &reply, counts).await? {
        return end(stream, cut);
    }
    stream.flush().await?;
    let short = matches!(reply.framing, Framing::Length(Some(claimed)) if claimed != reply.content.len());
    Ok(!reply.close && !short && reply.framing != Framing::UntilClose)
}

fn head_of(reply: &Reply) -> String {
    let framing = match reply.framing {
        Framing::Length(_) if matches!(reply.status, 204 | 304) => None,
        Framing::Length(claimed) => Some(("Content-Length", claimed.unwrap_or(reply.content.len()).to_string())),
        Framing::Chunked(_) => Some(("Transfer-Encoding", "chunked".to_owned())),
        Framing::UntilClose => Some(("Connection", "close".to_owned())),
    };
    let mut head = format!("HTTP/1.1 {} Scripted\r\n", reply.status);
    let scripted = reply.headers.iter().map(|(name, value)| (name.as_str(), value));
    for (name, value) in scripted.chain(framing.iter().map(|(name, value)| (*name, value))) {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    head + "\r\n"
}

/// Writes the body up to its end or to the cut, which is returned.
async fn write_body(stream: &mut BufReader<impl Wire>, reply: &Reply, counts: &Counts) -> io::Result<Option<Cut>> {
    let total = reply.content.len();
    let stop = reply.cut.map_or(total, |(offset, _)| offset.min(total));
    let limit = counts.connection_rate.load(Ordering::Relaxed);
    let rate = [reply.bytes_per_second, (limit > 0).then_some(limit)].into_iter().flatten().min();
    let mut pauses = reply.pauses.clone();
    pauses.sort_by_key(|(offset, _)| *offset);
    let mut at = 0;
    let started = Instant::now();
    loop {
        while let Some((_, pause)) = pauses.first().filter(|(offset, _)| *offset <= at) {
            stream.flush().await?;
            wait(pause, stream).await?;
            pauses.remove(0);
        }
        if at >= stop {
            break;
        }
        let mut to = stop.min(at + piece_bytes(rate, reply.framing));
        if let Some((offset, _)) = pauses.first() {
            to = to.min(*offset);
        }
        let piece = reply.content.piece(at, to);
        if matches!(reply.framing, Framing::Chunked(_)) {
            stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
            stream.write_all(&piece).await?;
            stream.write_all(b"\r\n").await?;
        } else {
            stream.write_all(&piece).await?;
        }
        counts.body_bytes.fetch_add(piece.len() as u64, Ordering::SeqCst);
        at = to;
        if let Some(rate) = rate {
            stream.flush().await?;
            tokio::time::sleep_until(started + Duration::from_secs_f64(at as f64 / rate as f64)).await;
        }
    }
    if let Some((_, cut)) = reply.cut {
        stream.flush().await?;
        return Ok(Some(cut));
    }
    if matches!(reply.framing, Framing::Chunked(_)) {
        stream.write_all(b"0\r\n\r\n").await?;
    }
    Ok(None)
}

/// A limited body goes out in twentieths of a second.
fn piece_bytes(rate: Option<u64>, framing: Framing) -> u64 {
    let by_rate = rate.map_or(256 << 10, |rate| (rate / 20).clamp(1, 256 << 10));
    if let Framing::Chunked(chunk_bytes) = framing { by_rate.min(chunk_bytes) } else { by_rate }
}

/// Waits, and gives up when the peer goes away meanwhile.
async fn wait(pause: &Pause, stream: &mut BufReader<impl Wire>) -> io::Result<()> {
    let pause = async {
        match pause {
            Pause::For(wait) => tokio::time::sleep(*wait).await,
            Pause::Until(token) => token.cancelled().await,
            Pause::Forever => std::future::pending().await,
        }
    };
    tokio::select! {
        () = pause => Ok(()),
        // Bytes here would be a pipelined request: nobody sends those, so the wait may end early.
        read = stream.fill_buf() => if read?.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) },
    }
}

fn end(stream: &mut BufReader<impl Wire>, cut: Cut) -> io::Result<bool> {
    if cut == Cut::Reset {
        stream.get_ref().reset();
        // Leaves the reader's loop without the orderly shutdown.
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    Ok(false)
}
