//! A proxy that counts: HTTP, passed on or through a tunnel, and SOCKS5, with credentials or without, on one port; over TLS
//! too.

use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// What a client asked the proxy for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The HTTP method, `CONNECT` for a tunnel; `SOCKS5 address` or `SOCKS5 name`.
    pub how: String,
    /// `host:port`, or the URL of a request that is passed on.
    pub target: String,
    /// The `Proxy-Authorization` value, or `name:password` of SOCKS5.
    pub credentials: Option<String>,
}

struct State {
    asked: Mutex<Vec<Asked>>,
    /// `name:password` that it insists on.
    required: Option<String>,
}

/// A running proxy, on a thread of its own.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    pub fn start() -> Proxy {
        Proxy::run(None, None)
    }

    /// Refuses whoever does not bring these (as `name:password`). For SOCKS5 only.
    pub fn start_with_credentials(required: &str) -> Proxy {
        Proxy::run(Some(required.into()), None)
    }

    /// Speaks TLS.
    pub fn start_tls(config: Arc<rustls::ServerConfig>) -> Proxy {
        Proxy::run(None, Some(TlsAcceptor::from(config)))
    }

    fn run(required: Option<String>, tls: Option<TlsAcceptor>) -> Proxy {
        let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State { asked: Mutex::default(), required });
        let stop = CancellationToken::new();
        let (inner, ended) = (Arc::clone(&state), stop.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                tokio::select! {
                    () = accept(listener, inner, tls) => {}
                    () = ended.cancelled() => {}
                }
            });
        });
        Proxy { address, state, stop, thread: Some(thread) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().unwrap().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

trait Client: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Client for T {}

async fn accept(listener: StdListener, state: Arc<State>, tls: Option<TlsAcceptor>) {
    let listener = TcpListener::from_std(listener).unwrap();
    let mut tunnels = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (state, tls) = (Arc::clone(&state), tls.clone());
        tunnels.spawn(async move {
            let _ = match tls {
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => tunnel(stream, &state).await,
                    Err(error) => Err(error),
                },
                None => tunnel(stream, &state).await,
            };
        });
    }
}

async fn tunnel(mut client: impl Client, state: &State) -> std::io::Result<()> {
    let first = client.read_u8().await?;
    if first == 5 { socks(client, state).await } else { http(client, first, state).await }
}

async fn http(mut client: impl Client, first: u8, state: &State) -> std::io::Result<()> {
    let mut head = vec![first];
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let header = |line: &str| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("proxy-authorization").then(|| value.to_owned())
    };
    let credentials = head.lines().find_map(header);
    let how = head.split(' ').next().unwrap_or_default().to_owned();
    let is_tunnel = how == "CONNECT";
    state.asked.lock().unwrap().push(Asked { how, target: target.clone(), credentials });
    let authority = target.split_once("://").map_or(target.as_str(), |(_, rest)| rest.split('/').next().unwrap());
    match TcpStream::connect(authority).await {
        Ok(mut origin) => {
            if is_tunnel {
                client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await?;
            } else {
                origin.write_all(head.as_bytes()).await?;
            }
            copy_bidirectional(&mut client, &mut origin).await?;
            Ok(())
        }
        Err(_) => client.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n").await,
    }
}

async fn socks(mut client: impl Client, state: &State) -> std::io::Result<()> {
    let methods = read_counted(&mut client).await?;
    let mut credentials = None;
    if state.required.is_some() && !methods.contains(&2) {
        return client.write_all(&[5, 0xff]).await;
    }
    if state.required.is_some() {
        client.write_all(&[5, 2]).await?;
        client.read_u8().await?;
        let name = read_counted(&mut client).await?;
        let password = read_counted(&mut client).await?;
        let given = format!("{}:{}", String::from_utf8_lossy(&name), String::from_utf8_lossy(&password));
        let is_right = state.required.as_ref() == Some(&given);
        client.write_all(&[1, u8::from(!is_right)]).await?;
        if !is_right {
            return Ok(());
        }
        credentials = Some(given);
    } else {
        client.write_all(&[5, 0]).await?;
    }
    let mut head = [0; 4];
    client.read_exact(&mut head).await?;
    let (how, host) = match head[3] {
        1 => ("SOCKS5 address", Ipv4Addr::from(client.read_u32().await?).to_string()),
        _ => ("SOCKS5 name", String::from_utf8_lossy(&read_counted(&mut client).await?).into_owned()),
    };
    let target = format!("{host}:{}", client.read_u16().await?);
    state.asked.lock().unwrap().push(Asked { how: how.into(), target: target.clone(), credentials });
    match TcpStream::connect(&target).await {
        Ok(mut origin) => {
            client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
            copy_bidirectional(&mut client, &mut origin).await?;
            Ok(())
        }
        Err(_) => client.write_all(&[5, 5, 0, 1, 0, 0, 0, 0, 0, 0]).await,
    }
}

async fn read_counted(client: &mut impl Client) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::from(client.read_u8().await?)];
    client.read_exact(&mut bytes).await?;
    Ok(bytes)
}
