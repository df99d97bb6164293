//! Makes tasks of the entries of lists, for every face that takes lists.

use sha2::{Digest as _, Sha256};

use crate::model::import::{File, Format};
use crate::model::spec::OnConflict;
use crate::pb;

/// The most tasks of a chunk, which the server commits at once.
pub const CHUNK_TASKS: usize = 1_000;
/// The most bytes of their text, so that a chunk of long entries stays below what a message may hold.
pub const CHUNK_BYTES: usize = 1 << 20;

/// What the tasks of a list do, where its entries do not say so themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// A response is kept.
    Fetch,
    /// A file is downloaded.
    #[default]
    Download,
}

impl Kind {
    /// Makes a task of this kind.
    pub fn task(self, url: &str) -> pb::TaskSpec {
        let url = url.to_owned();
        let work = match self {
            Kind::Fetch => pb::task_spec::Work::Fetch(pb::FetchSpec { url, ..Default::default() }),
            Kind::Download => pb::task_spec::Work::Download(pb::DownloadSpec { url, ..Default::default() }),
        };
        pb::TaskSpec { work: Some(work), ..Default::default() }
    }
}

/// Makes a task of a file of a list.
pub fn download(file: File) -> pb::TaskSpec {
    let retry = retry(&file);
    let on_conflict = file.on_conflict.map_or(pb::OnConflict::Unspecified, |wish| match wish {
        OnConflict::Fail => pb::OnConflict::Fail,
        OnConflict::Rename => pb::OnConflict::Rename,
        OnConflict::Overwrite => pb::OnConflict::Overwrite,
        OnConflict::Skip => pb::OnConflict::Skip,
    });
    let download = pb::DownloadSpec {
        url: file.url,
        mirrors: file.mirrors,
        path: file.path,
        on_conflict: on_conflict.into(),
        checksums: file.checksums,
        expected_bytes: file.bytes,
        max_connections: file.max_connections,
        ..Default::default()
    };
    let header = |(name, value)| pb::Header { name, value, ..Default::default() };
    let http = pb::HttpOptions {
        headers: file.headers.into_iter().map(header).collect(),
        basic_auth: file.login.map(|(username, password)| pb::BasicAuth { username, password }),
        user_agent: file.user_agent,
        proxy_url: file.proxy_url,
        ..Default::default()
    };
    let http = (http != pb::HttpOptions::default()).then_some(http);
    let options = (http.is_some() || retry.is_some()).then(|| pb::TaskOptions { http, retry, ..Default::default() });
    pb::TaskSpec { work: Some(pb::task_spec::Work::Download(download)), options, ..Default::default() }
}

fn retry(file: &File) -> Option<pb::RetryPolicy> {
    let seconds = i64::from(file.retry_wait);
    let initial_backoff = (seconds > 0).then_some(prost_types::Duration { seconds, nanos: 0 });
    let policy = pb::RetryPolicy { max_attempts: file.max_attempts, initial_backoff, ..Default::default() };
    (policy != pb::RetryPolicy::default()).then_some(policy)
}

/// Names the chunks of a list: by a digest of all that it has from its beginning to the end of the chunk. So the same list,
/// sent again after a cut, has the same names, and the server stores each of its chunks once. A digest of the chunk alone
/// would drop a chunk that the list really has twice.
#[derive(Clone, Debug)]
pub struct ChunkIds(Sha256);

impl ChunkIds {
    /// Begins a list. What its tasks do is part of their names.
    pub fn new(kind: Kind, format: Format) -> ChunkIds {
        let kind: &[u8] = match kind {
            Kind::Fetch => b"fetch\n",
            Kind::Download => b"download\n",
        };
        let mut digest = Sha256::new_with_prefix(kind);
        // URLs were there first, and a list that was cut before is gone on with.
        let format: &[u8] = match format {
            Format::Urls => b"",
            Format::Json => b"json\n",
            Format::Aria2 => b"aria2\n",
            Format::Metalink => b"metalink\n",
        };
        digest.update(format);
        ChunkIds(digest)
    }

    /// Takes what the list has next.
    pub fn take(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the name of the chunk that ends here.
    pub fn id(&self) -> String {
        let digest: [u8; 32] = self.0.clone().finalize().into();
        // Half of the digest is enough to tell chunks apart.
        format!("{:032x}", u128::from_be_bytes(std::array::from_fn(|at| digest[at])))
    }
}
