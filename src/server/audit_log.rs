//! The audit as lines of JSON beside the database, for what collects logs: each event as `haul audit -o json` prints it.
//!
//! Best effort: the lines follow the rows, and a line that cannot be written is logged and left out. The record that counts is
//! in the database. The file is opened anew for each write, so that it may be moved away at any time.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use tokio_util::sync::CancellationToken;

use crate::api::access::audit_event;
use crate::model::audit::AuditFilter;
use crate::rest::json;
use crate::store::{AuditPlace, Store, StoreError};

/// How often rows are looked for.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Rows that are written at once.
const ROWS_MAX: u32 = 500;
/// How long the end of the server waits for lines that nobody takes: a pipe that nobody reads, or a disk that hangs.
const CLOSE_TIME: Duration = Duration::from_secs(2);

/// Where the lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditSink {
    /// To stderr.
    Stderr,
    /// To the end of this file.
    File(PathBuf),
}

/// Returns the number of the last row, which the process before has written. What is asked for only once calls are taken
/// would leave out the first of them.
pub(super) async fn last_row(store: &dyn Store) -> Result<u64, StoreError> {
    let head = store.audit_head().await?;
    Ok(head.and_then(|head| head.split(':').next()?.parse().ok()).unwrap_or(0))
}

/// Writes the rows behind `last`, until `closing`; those that are there then are written too.
pub(super) async fn follow(store: Arc<dyn Store>, sink: AuditSink, mut last: u64, closing: CancellationToken) {
    loop {
        let is_last = closing.is_cancelled();
        match lines(store.as_ref(), last).await {
            Ok((end, lines)) if end > last => {
                let (sink, count) = (sink.clone(), end - last);
                last = end;
                let written = tokio::task::spawn_blocking(move || write(&sink, &lines));
                let why = tokio::select! {
                    written = written => written.unwrap_or_else(|error| Err(error.to_string())).err(),
                    () = too_late(&closing) => Some("nobody takes them".to_owned()),
                };
                if let Some(why) = why {
                    tracing::warn!(count, "events of the audit are not in its log: {why}");
                    if closing.is_cancelled() {
                        return;
                    }
                }
                // There may be more.
                continue;
            }
            Ok(_) => {}
            Err(error) => tracing::warn!("the audit cannot be read for its log: {error}"),
        }
        if is_last {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
            () = closing.cancelled() => {}
        }
    }
}

/// Waits until the server has been on its way to its end for long enough.
async fn too_late(closing: &CancellationToken) {
    closing.cancelled().await;
    tokio::time::sleep(CLOSE_TIME).await;
}

/// The lines of the rows behind `last`, and the number of the last of them.
async fn lines(store: &dyn Store, last: u64) -> Result<(u64, Vec<u8>), StoreError> {
    let page = store.audit(&AuditFilter::default(), AuditPlace::After(last), ROWS_MAX).await?;
    let (mut end, mut lines) = (last, Vec::new());
    for record in page.records {
        end = record.sequence;
        let Some(descriptor) = json::pool().get_message_by_name("haul.v1.AuditEvent") else { continue };
        let line = json::write(&descriptor, &audit_event(record).encode_to_vec());
        if let Ok(line) = line {
            lines.extend(line);
            lines.push(b'\n');
        }
    }
    Ok((end, lines))
}

/// Makes the file, so that a start says at once where all lines would be lost. It stops nothing, as no log does.
pub(super) fn check(sink: &AuditSink) {
    // To open a pipe may wait for who reads it.
    if matches!(sink, AuditSink::File(path) if path.metadata().is_ok_and(|it| !it.is_file())) {
        return;
    }
    if let Err(why) = write(sink, &[]) {
        tracing::warn!("events of the audit will not be in its log: {why}");
    }
}

fn write(sink: &AuditSink, lines: &[u8]) -> Result<(), String> {
    match sink {
        AuditSink::Stderr => io::stderr().lock().write_all(lines).map_err(|error| error.to_string()),
        AuditSink::File(path) => append(path, lines)
            .map_err(|error| format!("`{}` cannot be written ({error}); correct `--audit-log`", path.display())),
    }
}

/// Readable by the server's user alone, when it is made here.
fn append(path: &Path, lines: &[u8]) -> io::Result<()> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)?.write_all(lines)
}
