//! Which job is meant: a whole id, or the beginning of one.
//!
//! Ids are `UUIDv7`: they begin with the time of their creation in milliseconds, so a prefix bounds that time, and only
//! the jobs of that time are listed.

use anyhow::anyhow;
use uuid::Uuid;

use crate::cli::client::{Client, Usage};
use crate::cli::output;
use crate::pb;

/// Ids that an ambiguous prefix is answered with.
const SHOWN_MAX: usize = 10;
/// How far the stamp of a job may be from the time in its id: the two are taken one after the other.
const SLACK_MILLIS: i64 = 5_000;
/// Hexadecimal digits of the time in an id.
const TIME_DIGITS: usize = 12;

/// The id that a unique prefix stands for.
pub(crate) async fn resolve(client: &Client, text: &str) -> anyhow::Result<String> {
    if let Ok(id) = Uuid::parse_str(text) {
        return Ok(id.to_string());
    }
    let Some(digits) = digits(text) else {
        let message = format!("`{text}` is not the id of a job, nor the beginning of one; see `haul list`");
        return Err(Usage(message).into());
    };
    let matching = matching(client, &digits).await?;
    match matching.as_slice() {
        [] => Err(anyhow!("no job's id begins with `{text}`; see `haul list`")),
        [job] => Ok(job.job_id.clone()),
        several => Err(Usage(ambiguous(text, several)).into()),
    }
}

/// The jobs whose ids begin so, newest first; a few more than are shown at most.
async fn matching(client: &Client, digits: &str) -> anyhow::Result<Vec<pb::Job>> {
    let (after, before) = created_between(digits);
    let mut request = pb::ListJobsRequest {
        page_size: 1000,
        create_time_after: Some(timestamp(after)),
        create_time_before: Some(timestamp(before)),
        ..Default::default()
    };
    let mut found = Vec::new();
    loop {
        let page =
            client.jobs().list_jobs(request.clone()).await.map_err(|status| client.explain(&status))?.into_inner();
        found.extend(page.jobs.into_iter().filter(|job| plain(&job.job_id).starts_with(digits)));
        if page.next_page_token.is_empty() || found.len() > SHOWN_MAX {
            return Ok(found);
        }
        request.page_token = page.next_page_token;
    }
}

fn plain(id: &str) -> String {
    id.chars().filter(|letter| *letter != '-').collect()
}

/// The hexadecimal digits of a prefix; `None` when it is none.
fn digits(text: &str) -> Option<String> {
    let digits = plain(text).to_ascii_lowercase();
    let is_prefix = !digits.is_empty() && digits.len() < 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_prefix.then_some(digits)
}

/// The times, in milliseconds, between which a job with such an id was created.
fn created_between(digits: &str) -> (i64, i64) {
    let time = &digits[..digits.len().min(TIME_DIGITS)];
    let filled = |fill: &str| {
        let text = format!("{time}{}", fill.repeat(TIME_DIGITS - time.len()));
        i64::from_str_radix(&text, 16).unwrap_or(0)
    };
    // The last moment that the contract's Timestamp can name, in the year 9999, is before the last that an id can.
    let last = 253_402_300_799_000;
    (filled("0").min(last).saturating_sub(SLACK_MILLIS).max(0), (filled("f").min(last - SLACK_MILLIS) + SLACK_MILLIS))
}

fn timestamp(millis: i64) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: millis / 1000, nanos: (millis % 1000 * 1_000_000) as i32 }
}

fn ambiguous(prefix: &str, jobs: &[pb::Job]) -> String {
    let mut text = format!("`{prefix}` is the beginning of several ids; write more of it:");
    for job in jobs.iter().take(SHOWN_MAX) {
        text += &format!("\n  {}  {}", job.job_id, output::plain(&job.title));
    }
    if jobs.len() > SHOWN_MAX {
        text += "\n  and more";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_bounds_the_time() {
        let id = Uuid::now_v7();
        let (seconds, nanos) = id.get_timestamp().unwrap().to_unix();
        let millis = (seconds * 1000 + u64::from(nanos) / 1_000_000) as i64;
        let text = id.to_string();
        for length in 1..36 {
            let digits = digits(&text[..length]).unwrap();
            let (after, before) = created_between(&digits);
            assert!(after < millis && millis < before, "{length}: {after} {millis} {before}");
        }
        assert_eq!(created_between("f").1, 253_402_300_799_000);
        for text in ["", "-", "xyz", "0123456789abcdef0123456789abcdef"] {
            assert_eq!(digits(text), None, "{text}");
        }
    }
}
