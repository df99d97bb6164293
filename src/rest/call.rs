//! Calls the services within the process, as a client over the network does, so that each check, limit and right is
//! passed here too.

use std::convert::Infallible;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use http_body_util::{BodyExt as _, Full};
use prost_reflect::MethodDescriptor;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::ServiceExt as _;
use tower::util::BoxCloneSyncService;

use crate::api::status::internal;

/// The services, with what each call passes before them.
pub type Services = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// The bytes before a message: whether it is compressed, and its length.
const HEAD_BYTES: usize = 5;
/// Headers that are about the request as HTTP, and not about the call.
const OF_HTTP: [http::HeaderName; 11] = [
    ACCEPT,
    ACCEPT_ENCODING,
    CONNECTION,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    EXPECT,
    HOST,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// The one who calls: the headers of the request, and what the layers below know of its connection.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    headers: HeaderMap,
    extensions: http::Extensions,
}

impl Caller {
    /// Takes who calls from a request.
    pub(crate) fn new(head: &http::request::Parts) -> Caller {
        let mut headers = HeaderMap::with_capacity(head.headers.len() + 2);
        // Encodings are a matter between the two ends of a connection; of the rest a deadline means here what it means there.
        let is_of_call = |name: &http::HeaderName| {
            !OF_HTTP.contains(name) && (!name.as_str().starts_with("grpc-") || *name == "grpc-timeout")
        };
        for (name, value) in head.headers.iter().filter(|(name, _)| is_of_call(name)) {
            headers.append(name, value.clone());
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        Caller { headers, extensions: head.extensions.clone() }
    }

    /// Makes a call with a body of framed messages. Fails where it ends without a message.
    pub(crate) async fn call(
        &self,
        services: &Services,
        rpc: &MethodDescriptor,
        message: Body,
    ) -> Result<Messages, Status> {
        self.clone().last_call(services, rpc, message).await
    }

    /// As [`Caller::call`], where the request has no other call.
    pub(crate) async fn last_call(
        self,
        services: &Services,
        rpc: &MethodDescriptor,
        message: Body,
    ) -> Result<Messages, Status> {
        let mut request = Request::new(message);
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = self.headers;
        *request.extensions_mut() = self.extensions;
        let path = format!("/{}/{}", rpc.parent_service().full_name(), rpc.name());
        *request.uri_mut() = path.parse().map_err(|_| internal("a method has no path"))?;
        let response = match services.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let (head, body) = response.into_parts();
        match Status::from_header_map(&head.headers) {
            Some(status) if status.code() != Code::Ok => Err(status),
            status => Ok(Messages { body, buffer: BytesMut::new(), is_ended: status.is_some(), explain: None }),
        }
    }
}

/// Returns the body of a call with one message.
pub(crate) fn one(message: &[u8]) -> Body {
    Body::new(Full::new(framed(message)))
}

/// Writes a message as gRPC sends it.
pub(crate) fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(HEAD_BYTES + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    framed.freeze()
}

/// The messages of an answer.
pub(crate) struct Messages {
    body: Body,
    buffer: BytesMut,
    /// Whether a status has said that they end as they should.
    is_ended: bool,
    /// What is made of the error that ends them.
    explain: Option<Explain>,
}

type Explain = Box<dyn Fn(Status) -> Status + Send>;

impl Messages {
    /// Makes something else of the error that may end these messages.
    pub(crate) fn explained(self, explain: impl Fn(Status) -> Status + Send + 'static) -> Messages {
        Messages { explain: Some(Box::new(explain)), ..self }
    }

    /// Returns the next message; `None` after the last. Nothing is lost where the future is dropped.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        let next = self.read().await;
        next.map_err(|status| match &self.explain {
            Some(explain) => explain(status),
            None => status,
        })
    }

    /// Returns the next message if it has arrived already.
    pub(crate) fn at_hand(&mut self) -> Option<Result<Bytes, Status>> {
        take(&mut self.buffer).transpose()
    }

    async fn read(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = take(&mut self.buffer)? {
                return Ok(Some(message));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.buffer.put(data),
                    Err(frame) => {
                        let status = frame.trailers_ref().and_then(Status::from_header_map);
                        return match status {
                            Some(status) if status.code() != Code::Ok => Err(status),
                            Some(_) => {
                                self.is_ended = true;
                                Ok(None)
                            }
                            None => Err(cut()),
                        };
                    }
                },
                Some(Err(status)) => return Err(status),
                None => return if self.is_ended && self.buffer.is_empty() { Ok(None) } else { Err(cut()) },
            }
        }
    }

    /// Returns the only message.
    pub(crate) async fn only(mut self) -> Result<Bytes, Status> {
        let message = self.next().await?;
        // What follows is the status, which may be an error all the same.
        while self.next().await?.is_some() {}
        message.ok_or_else(|| internal("a call has ended without a message"))
    }
}

fn cut() -> Status {
    internal("the messages have ended without a status")
}

fn take(buffer: &mut BytesMut) -> Result<Option<Bytes>, Status> {
    if buffer.len() < HEAD_BYTES {
        return Ok(None);
    }
    if buffer[0] != 0 {
        return Err(internal("a message is compressed that nobody asked to compress"));
    }
    let length = u32::from_be_bytes([buffer[1], buffer[2], buffer[3], buffer[4]]) as usize;
    if buffer.len() < HEAD_BYTES + length {
        return Ok(None);
    }
    buffer.advance(HEAD_BYTES);
    Ok(Some(buffer.split_to(length).freeze()))
}

#[cfg(test)]
mod tests {
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;

    #[tokio::test]
    async fn messages_that_end_without_a_status_are_no_whole_answer() {
        let of = |frames: Vec<Frame<Bytes>>| {
            let frames = futures_util::stream::iter(frames.into_iter().map(Ok::<_, Status>));
            let body = Body::new(StreamBody::new(frames));
            Messages { body, buffer: BytesMut::new(), is_ended: false, explain: None }
        };
        let mut trailers = HeaderMap::new();
        Status::ok("").add_header(&mut trailers).unwrap();
        let message = || Frame::data(framed(b"a"));
        let mut whole = of(vec![message(), Frame::trailers(trailers)]);
        assert_eq!(whole.next().await.unwrap().unwrap(), "a");
        assert_eq!((whole.next().await.unwrap(), whole.next().await.unwrap()), (None, None));
        let mut silent = of(vec![message()]);
        assert_eq!(silent.next().await.unwrap().unwrap(), "a");
        assert_eq!(silent.next().await.unwrap_err().code(), Code::Internal);
        assert!(of(vec![Frame::data(Bytes::from_static(&[0, 0, 0, 0, 9]))]).next().await.is_err());
    }

    #[test]
    fn messages_are_cut_by_their_lengths() {
        let mut buffer = BytesMut::from(&[0, 0, 0, 0, 2, 7][..]);
        assert_eq!(take(&mut buffer).unwrap(), None);
        buffer.put_slice(&[8, 0, 0, 0, 0, 0, 0]);
        assert_eq!(take(&mut buffer).unwrap().unwrap(), &[7, 8][..]);
        assert_eq!(take(&mut buffer).unwrap().unwrap(), &[][..]);
        assert_eq!((take(&mut buffer).unwrap(), buffer.len()), (None, 1));
        assert!(take(&mut BytesMut::from(&[1, 0, 0, 0, 0][..])).is_err());
    }
}
