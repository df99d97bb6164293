//! Which job is meant: a whole id, its beginning, its end, or `@last`.
//!
//! Ids are `UUIDv7`: they begin with the time of their creation in milliseconds, so a beginning bounds that time, and only
//! the jobs of that time are listed. Their ends are random, so a few digits of the end tell jobs apart; tables show them.

use anyhow::anyhow;
use uuid::Uuid;

use crate::cli::args::Usage;
use crate::cli::client::Client;
use crate::model::text::{plain, shown};
use crate::pb;

/// The newest job.
const LAST: &str = "@last";
/// Ids that an ambiguous reference is answered with.
const SHOWN_MAX: usize = 10;
/// How far the stamp of a job may be from the time in its id: the two are taken one after the other.
const SLACK_MILLIS: i64 = 5_000;
/// Hexadecimal digits of the time in an id.
const TIME_DIGITS: usize = 12;

/// Returns the id that a reference stands for. What is the beginning of an id is not looked for at the ends of others.
pub(crate) async fn resolve(client: &Client, text: &str) -> anyhow::Result<String> {
    if let Ok(id) = Uuid::parse_str(text) {
        return Ok(id.to_string());
    }
    if text == LAST {
        let request = pb::ListJobsRequest { page_size: 1, ..Default::default() };
        let newest = matching(client, request, 1, |_| true).await?.into_iter().next();
        return newest.map(|job| job.job_id).ok_or_else(|| anyhow!("the server has no jobs, so there is no `{LAST}`"));
    }
    let Some(digits) = digits(text) else {
        let text = shown(text);
        let message =
            format!("`{text}` is not the id of a job, nor its beginning or end, nor `{LAST}`; see `haul list`");
        return Err(Usage(message).into());
    };
    let (after, before) = created_between(&digits);
    let of_that_time = pb::ListJobsRequest {
        page_size: 1000,
        create_time_after: Some(timestamp(after)),
        create_time_before: Some(timestamp(before)),
        ..Default::default()
    };
    let mut found = matching(client, of_that_time, SHOWN_MAX + 1, |id| id.starts_with(&digits)).await?;
    if found.is_empty() {
        let all = pb::ListJobsRequest { page_size: 1000, ..Default::default() };
        found = matching(client, all, SHOWN_MAX + 1, |id| id.ends_with(&digits)).await?;
    }
    match found.as_slice() {
        [] => Err(anyhow!("no job's id begins or ends with `{text}`; see `haul list`")),
        [job] => Ok(job.job_id.clone()),
        several => Err(Usage(ambiguous(text, several)).into()),
    }
}

/// The newest jobs of a listing whose digits fit, at most `most` of them.
async fn matching(
    client: &Client,
    mut request: pb::ListJobsRequest,
    most: usize,
    fits: impl Fn(&str) -> bool,
) -> anyhow::Result<Vec<pb::Job>> {
    let mut found = Vec::new();
    loop {
        let page =
            client.jobs().list_jobs(request.clone()).await.map_err(|status| client.explain(&status))?.into_inner();
        found.extend(page.jobs.into_iter().filter(|job| fits(&without_dashes(&job.job_id))));
        found.truncate(most);
        if page.next_page_token.is_empty() || found.len() == most {
            return Ok(found);
        }
        request.page_token = page.next_page_token;
    }
}

fn without_dashes(id: &str) -> String {
    id.chars().filter(|letter| *letter != '-').collect()
}

/// Returns the hexadecimal digits of a part of an id; `None` if the text is not such a part.
fn digits(text: &str) -> Option<String> {
    let digits = without_dashes(text).to_ascii_lowercase();
    let is_part = !digits.is_empty() && digits.len() < 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_part.then_some(digits)
}

/// The times, in milliseconds, between which a job whose id begins so was created.
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

fn ambiguous(text: &str, jobs: &[pb::Job]) -> String {
    let mut message = format!("`{text}` fits the ids of several jobs; write more of it:");
    for job in jobs.iter().take(SHOWN_MAX) {
        message += &format!("\n  {}  {}", plain(&job.job_id), plain(&job.title));
    }
    if jobs.len() > SHOWN_MAX {
        message += "\n  and more";
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_bounds_the_time() {
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
