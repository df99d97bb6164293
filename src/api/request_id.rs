//! The server's own name of each request, by which an answer, the log and the audit are found again.

use std::sync::Arc;

use http::header::HeaderName;
use http::{HeaderValue, Request, Response};
use prost::Message as _;
use tonic::Status;
use tonic::body::Body;
use tonic_types::pb;

use crate::middleware::Middleware;

/// The header of each answer, and the key in the metadata of each `ErrorInfo`.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("haul-request-id");
/// The type of an `ErrorInfo` among the details of an error.
const ERROR_INFO: &str = "type.googleapis.com/google.rpc.ErrorInfo";

/// The name of a request. Each has one among its extensions.
#[derive(Clone, Debug)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// Returns the name of a request.
    pub(crate) fn of<T>(request: &Request<T>) -> RequestId {
        RequestId::among(request.extensions())
    }

    /// Returns the name among these extensions, or a fresh one where no layer has given one.
    pub(crate) fn among(extensions: &http::Extensions) -> RequestId {
        extensions.get::<RequestId>().cloned().unwrap_or_else(RequestId::fresh)
    }

    fn fresh() -> RequestId {
        RequestId(uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string().into())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Adds the name to the `ErrorInfo` of an error.
    pub(crate) fn on(&self, status: Status) -> Status {
        let Ok(mut details) = pb::Status::decode(status.details()) else { return status };
        for detail in details.details.iter_mut().filter(|detail| detail.type_url == ERROR_INFO) {
            if let Ok(mut info) = pb::ErrorInfo::decode(detail.value.as_slice()) {
                info.metadata.insert(REQUEST_ID.as_str().to_owned(), self.0.to_string());
                detail.value = info.encode_to_vec();
            }
        }
        let (code, message) = (status.code(), status.message().to_owned());
        let (details, metadata) = (details.encode_to_vec().into(), status.metadata().clone());
        Status::with_details_and_metadata(code, message, details, metadata)
    }

    /// Adds the name to the error in the head or the trailers of an answer, where there is one.
    pub(crate) fn on_headers(&self, headers: &mut http::HeaderMap) {
        if let Some(status) = Status::from_header_map(headers).filter(|status| status.code() != tonic::Code::Ok) {
            // Fails only for metadata that cannot be a header, and this came from headers.
            let _ = self.on(status).add_header(headers);
        }
    }
}

/// Names requests. It is the outermost, so that every answer has a name.
#[derive(Clone, Copy, Debug, Default)]
pub struct NameRequests;

impl Middleware for NameRequests {
    type Kept = RequestId;

    fn before(&self, request: &mut Request<Body>) -> Result<RequestId, Box<Response<Body>>> {
        let id = RequestId::fresh();
        request.extensions_mut().insert(id.clone());
        Ok(id)
    }

    async fn after<E: Send>(
        id: RequestId,
        answer: impl Future<Output = Result<Response<Body>, E>> + Send,
    ) -> Result<Response<Body>, E> {
        let mut response = answer.await?;
        if let Ok(id) = HeaderValue::from_str(id.as_str()) {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic_types::StatusExt as _;

    use super::*;
    use crate::api::status::exhausted;

    #[test]
    fn an_error_names_its_request_and_keeps_its_details() {
        let (id, status) = (RequestId::fresh(), exhausted("OVERLOADED", "memory", "too much"));
        let mut headers = http::HeaderMap::new();
        status.add_header(&mut headers).unwrap();
        id.on_headers(&mut headers);
        let named = Status::from_header_map(&headers).unwrap();
        assert_eq!((named.code(), named.message()), (Code::ResourceExhausted, "too much"));
        let info = named.get_details_error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.metadata["haul-request-id"].as_str()), ("OVERLOADED", id.as_str()));
        assert!(named.get_details_retry_info().is_some() && named.get_details_quota_failure().is_some());
    }
}
