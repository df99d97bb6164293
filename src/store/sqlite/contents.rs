//! Which content files belong to a database.

use std::path::{Path, PathBuf};

use sqlx::SqliteConnection;

use crate::model::ids::JobId;

/// A page whose bytes are in a content file: job, index of the task, number of the page, bytes.
pub(super) type ContentRow = (Vec<u8>, u32, u32, i64);

/// Selects [`ContentRow`]s.
pub(super) const CONTENTS: &str = "SELECT j.id, p.task & 4294967295, p.page, p.bytes FROM pages p \
     CROSS JOIN jobs j ON j.no = p.task >> 32 WHERE p.file IS NOT NULL AND j.deleted = 0 ORDER BY p.task, p.page";

/// The path of a content file within a data directory, as `files` has it.
pub(super) fn content_path(job: JobId, task: u32, page: u32) -> PathBuf {
    Path::new("content").join(job.to_string()).join(format!("{task}-{page}"))
}

/// The path of the file that says that the pages of a task are being dropped, as `files` has it: their files go before their
/// rows.
pub(super) fn dropping_path(job: JobId, task: u32) -> PathBuf {
    Path::new("content").join(job.to_string()).join(format!("{task}-dropped"))
}

/// Whether the row of a page is there still. A running server may have dropped the pages of its task since it was read.
pub(super) async fn is_named(
    conn: &mut SqliteConnection,
    (id, task, page, _): &ContentRow,
) -> Result<bool, sqlx::Error> {
    let sql = "SELECT 1 FROM jobs j CROSS JOIN pages p ON p.task = ((j.no << 32) | ?2) AND p.page = ?3 \
               WHERE j.id = ?1 AND j.deleted = 0";
    let named: Option<i64> =
        sqlx::query_scalar(sql).bind(id.as_slice()).bind(task).bind(page).fetch_optional(conn).await?;
    Ok(named.is_some())
}

/// Whether a job is there and not deleted, so that its files must be there. A running server may have deleted it since
/// it was read.
pub(super) async fn is_kept(conn: &mut SqliteConnection, id: &[u8]) -> Result<bool, sqlx::Error> {
    let kept: Option<i64> =
        sqlx::query_scalar("SELECT 1 FROM jobs WHERE id = ?1 AND deleted = 0").bind(id).fetch_optional(conn).await?;
    Ok(kept.is_some())
}
