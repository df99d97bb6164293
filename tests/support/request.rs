//! Requests as the origin sees them, and how they are read.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, BufReader};
use tokio::net::TcpStream;

/// A request as the origin saw it.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// As in the request line: with the query, and absolute when it came through a plain proxy.
    pub target: String,
    /// Without the query.
    pub path: String,
    /// After the `?`; empty without one.
    pub query: String,
    /// In order, as they were spelt.
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    /// Where it came from.
    pub peer: SocketAddr,
    /// Number of the connection, from 0.
    pub connection: usize,
    /// Earlier requests of the same path.
    pub nth: usize,
    /// Requests in flight when it came, itself included.
    pub concurrent: usize,
    /// Since the origin's start.
    pub at: Duration,
}

impl Request {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// A parameter of the query, percent-decoded.
    pub fn param(&self, name: &str) -> Option<String> {
        url::form_urlencoded::parse(self.query.as_bytes())
            .find(|(own, _)| own == name)
            .map(|(_, value)| value.into_owned())
    }
}

/// What a connection runs over: a socket, or TLS over one.
pub trait Wire: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Makes the coming close an RST.
    fn reset(&self);
}

impl Wire for TcpStream {
    fn reset(&self) {
        let _ = socket2::SockRef::from(self).set_linger(Some(Duration::ZERO));
    }
}

impl Wire for tokio_rustls::server::TlsStream<TcpStream> {
    fn reset(&self) {
        self.get_ref().0.reset();
    }
}

pub(super) async fn read_request(
    stream: &mut BufReader<impl Wire>,
    peer: SocketAddr,
    connection: usize,
) -> io::Result<Option<Request>> {
    let line = read_line(stream).await?;
    let mut words = line.split(' ');
    let (Some(method), Some(target)) = (words.next().filter(|word| !word.is_empty()), words.next()) else {
        return Ok(None);
    };
    let mut headers = Vec::new();
    loop {
        let line = read_line(stream).await?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    // The absolute form of a plain proxy loses its scheme and authority.
    let relative = target.split_once("://").map_or(target, |(_, rest)| rest.find('/').map_or("/", |at| &rest[at..]));
    let (path, query) = relative.split_once('?').unwrap_or((relative, ""));
    let mut request = Request {
        method: method.to_owned(),
        target: target.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers,
        body: Bytes::new(),
        peer,
        connection,
        nth: 0,
        concurrent: 0,
        at: Duration::ZERO,
    };
    request.body = read_body(stream, &request).await?;
    Ok(Some(request))
}

async fn read_line(stream: &mut BufReader<impl Wire>) -> io::Result<String> {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line).await?;
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

async fn read_body(stream: &mut BufReader<impl Wire>, request: &Request) -> io::Result<Bytes> {
    let mut body = Vec::new();
    if let Some(length) = request.header("content-length").and_then(|text| text.parse().ok()) {
        body.resize(length, 0);
        stream.read_exact(&mut body).await?;
    } else if request.header("transfer-encoding").is_some() {
        loop {
            let size = usize::from_str_radix(&read_line(stream).await?, 16).unwrap_or(0);
            let from = body.len();
            body.resize(from + size, 0);
            stream.read_exact(&mut body[from..]).await?;
            read_line(stream).await?;
            if size == 0 {
                break;
            }
        }
    }
    Ok(body.into())
}
