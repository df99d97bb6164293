//! A connection to a server, and what its errors say.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::pb;
use crate::pb::admin_service_client::AdminServiceClient;
use crate::pb::content_service_client::ContentServiceClient;
use crate::pb::job_service_client::JobServiceClient;

/// Windows wide enough that a burst of small messages does not end the connection while we print.
const WINDOW_BYTES: u32 = 8 << 20;
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Jobs that are looked through for a prefix.
const PREFIX_JOBS_MAX: usize = 10_000;

/// A server.
#[derive(Clone)]
pub(crate) struct Client {
    channel: Channel,
    server: String,
}

/// What was asked for cannot be; the exit code is 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

impl Client {
    /// For the server at `host:port`, or at a URL. It connects with the first call.
    pub(crate) fn new(server: &str) -> anyhow::Result<Client> {
        let url = if server.contains("://") { server.to_owned() } else { format!("http://{server}") };
        let endpoint = Endpoint::from_shared(url)
            .map_err(|error| Usage(format!("`{server}` is no server: {error}; write it like `127.0.0.1:4285`")))?
            .connect_timeout(Duration::from_secs(10))
            .tcp_nodelay(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES);
        Ok(Client { channel: endpoint.connect_lazy(), server: server.to_owned() })
    }

    pub(crate) fn jobs(&self) -> JobServiceClient<Channel> {
        JobServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn contents(&self) -> ContentServiceClient<Channel> {
        ContentServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel.clone())
    }

    /// The id that a unique prefix stands for.
    pub(crate) async fn job_id(&self, prefix: &str) -> anyhow::Result<String> {
        if uuid::Uuid::parse_str(prefix).is_ok() {
            return Ok(prefix.to_owned());
        }
        let mut found: Vec<String> = Vec::new();
        let mut page_token = String::new();
        let mut seen = 0;
        loop {
            let request = pb::ListJobsRequest { page_size: 1000, page_token, ..Default::default() };
            let page = self.jobs().list_jobs(request).await.map_err(|status| self.explain(&status))?.into_inner();
            seen += page.jobs.len();
            found.extend(page.jobs.into_iter().map(|job| job.job_id).filter(|id| id.starts_with(prefix)));
            page_token = page.next_page_token;
            if page_token.is_empty() || seen >= PREFIX_JOBS_MAX {
                break;
            }
        }
        match found.as_slice() {
            [id] => Ok(id.clone()),
            [] => Err(Usage(format!("no job's id begins with `{prefix}`")).into()),
            many => {
                let some = many.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
                Err(Usage(format!("`{prefix}` stands for {} jobs ({some}, …); write more of the id", many.len()))
                    .into())
            }
        }
    }

    /// What a call's error says to a person.
    pub(crate) fn explain(&self, status: &Status) -> anyhow::Error {
        let mut text = status.message().to_owned();
        if status.code() == Code::Unavailable && status.details().is_empty() {
            text = format!(
                "no server answers at `{}`; start one with `haul serve`, or name another with --server",
                self.server
            );
        }
        let violations = status.get_details_bad_request().map(|request| request.field_violations).unwrap_or_default();
        if violations.len() > 1 {
            "the request is refused:".clone_into(&mut text);
            for violation in &violations {
                text += &format!("\n  `{}` {}", violation.field, violation.description);
            }
        }
        if status.code() == Code::InvalidArgument { Usage(text).into() } else { anyhow::Error::msg(text) }
    }
}
