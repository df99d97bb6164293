//! Calls as bytes on the wire: a client that knows no limits, no deadlines and no retries of its own, so that what the
//! server sends is what is looked at. Over HTTP/2, and as gRPC-Web over HTTP/1.1.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tonic::Status;

use crate::support::server::{PATIENCE, Server};

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: HeaderMap,
    /// Each message with its compression flag.
    pub(crate) messages: Vec<(u8, Bytes)>,
    /// What ended the call: of an answer without messages, its head.
    pub(crate) trailers: HeaderMap,
}

impl Answer {
    pub(crate) fn status(&self) -> Status {
        Status::from_header_map(&self.trailers).unwrap_or_else(|| panic!("there is no status: {self:?}"))
    }

    /// Bytes of the headers that hold the status, as RFC 9113, 6.5.2 counts them.
    pub(crate) fn status_bytes(&self) -> usize {
        self.trailers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
    }

    pub(crate) fn message<M: prost::Message + Default>(&self, at: usize) -> M {
        M::decode(self.messages[at].1.clone()).unwrap()
    }
}

fn framed(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(message.len() as u32);
    bytes.put_slice(message);
    bytes.freeze()
}

fn request(server: &Server, method: &str, kind: &str, headers: &[(&str, &str)], body: Bytes) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = format!("http://{}/{method}", server.address).parse().unwrap();
    let fixed = [("content-type", kind), ("te", "trailers"), ("host", server.address.as_str())];
    for (name, value) in fixed.iter().chain(headers) {
        request.headers_mut().append(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
    }
    request
}

fn unframed(mut data: Bytes) -> Vec<(u8, Bytes)> {
    let mut messages = Vec::new();
    while !data.is_empty() {
        let head = data.split_to(5);
        let length = u32::from_be_bytes(head[1..5].try_into().unwrap());
        messages.push((head[0], data.split_to(length as usize)));
    }
    messages
}

/// Calls `haul.v1.Service/Method` over HTTP/2 and reads the answer to its end.
pub(crate) async fn call(server: &Server, method: &str, message: &[u8], headers: &[(&str, &str)]) -> Answer {
    let stream = TcpStream::connect(&server.address).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let mut sent = request(server, method, "application/grpc", headers, framed(message));
    sent.headers_mut().remove("host");
    let answered = async {
        let response = sender.send_request(sent).await.unwrap();
        let head = response.headers().clone();
        let body = response.into_body().collect().await.unwrap();
        let trailers = body.trailers().cloned().unwrap_or_else(|| head.clone());
        Answer { head, messages: unframed(body.to_bytes()), trailers }
    };
    let within = tokio::time::timeout(PATIENCE, answered);
    tokio::select! {
        answer = within => answer.expect("an answer comes to its end"),
        ended = connection => panic!("the connection ended first: {ended:?}"),
    }
}

/// Calls as a browser does: gRPC-Web over HTTP/1.1, with the trailers in the body.
pub(crate) async fn call_web(server: &Server, method: &str, message: &[u8], headers: &[(&str, &str)]) -> Answer {
    let stream = TcpStream::connect(&server.address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    let mut sent = request(server, method, "application/grpc-web+proto", headers, framed(message));
    sent.headers_mut().insert("x-grpc-web", "1".parse().unwrap());
    // It takes the sender, without which the connection ends.
    let answered = async move {
        let response = sender.send_request(sent).await.unwrap();
        let head = response.headers().clone();
        let mut messages = unframed(response.into_body().collect().await.unwrap().to_bytes());
        let last = messages.pop_if(|(flags, _)| *flags & 0x80 != 0);
        let trailers = last.map_or_else(|| head.clone(), |(_, text)| read_trailers(&text));
        Answer { head, messages, trailers }
    };
    // The connection may end before its answer was looked at.
    let both = async { tokio::join!(answered, connection).0 };
    tokio::time::timeout(PATIENCE, both).await.expect("an answer comes to its end")
}

fn read_trailers(text: &[u8]) -> HeaderMap {
    let text = std::str::from_utf8(text).unwrap();
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.trim().parse().unwrap())).collect()
}
