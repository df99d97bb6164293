//! Follows the chain of the audit, beside a running server or without one, and changes nothing.

use std::path::Path;

use futures_util::TryStreamExt as _;
use sqlx::{Connection as _, SqliteConnection};

use crate::store::sqlite::keys::{Keyring, RootKeys};
use crate::store::sqlite::open_error::OpenError;
use crate::store::sqlite::schema;
use crate::store::sqlite::trail::{self, Columns, Earlier, columns, hex, unhex};
use crate::vault::Vault;

/// Findings that are told.
const TOLD_MAX: usize = 20;
/// What a digest takes.
const DIGEST_BYTES: usize = 32;

/// What came of following the chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// How many rows there are.
    pub rows: u64,
    /// How many more stand before these, whose key was given up: none between them is missing, and nobody can say whether one was
    /// changed.
    pub unknown: u64,
    /// The number and the digest of the last row, as `SEQUENCE:DIGEST`; empty: there is none.
    pub head: String,
    /// What is wrong, in sentences.
    pub wrong: Vec<String>,
}

/// The number and the digest of a row that was the last one when they were told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    sequence: i64,
    digest: Vec<u8>,
}

impl Head {
    /// Reads a head as it is told: the number, a colon and 64 hexadecimal digits. `None`: it is none, not even a part of one.
    pub fn parse(text: &str) -> Option<Head> {
        let (number, digest) = text.split_once(':')?;
        let is_number = number.bytes().all(|digit| digit.is_ascii_digit());
        let sequence = number.parse().ok().filter(|_| is_number)?;
        let digest = unhex(digest).filter(|digest| digest.len() == DIGEST_BYTES)?;
        Some(Head { sequence, digest })
    }
}

/// Verifies the audit of the data directory `dir`. `head` is one that was told earlier.
pub async fn verify_audit(dir: &Path, roots: &RootKeys, head: Option<&Head>) -> Result<Verified, OpenError> {
    let path = dir.join("haul.db");
    let failed = |error| OpenError::Sqlite { path: path.clone(), error };
    if !path.exists() {
        return Err(OpenError::Missing { path });
    }
    let mut conn = schema::reading(&path).await?;
    sqlx::query("BEGIN").execute(&mut conn).await.map_err(failed)?;
    let vault = Keyring::look(&mut conn, dir, roots).await?;
    let verified = follow(&mut conn, &vault, head).await.map_err(failed)?;
    // It read only; there is nothing to lose.
    let _ = conn.close().await;
    Ok(verified)
}

async fn follow(conn: &mut SqliteConnection, vault: &Vault, wanted: Option<&Head>) -> Result<Verified, sqlx::Error> {
    let mut verified = Verified::default();
    let (mut sequence, mut before) = (0, vec![0; DIGEST_BYTES]);
    let mut earlier = Earlier::Removed;
    if let Some(start) = trail::start(conn).await? {
        if !start.is_own(vault) {
            verified.wrong.push("the record of removed rows was not written by this server".to_owned());
        }
        (sequence, before, earlier) = (start.sequence, start.before, start.earlier);
    }
    let first = sequence;
    // The last of the rows that were given up.
    let mut given_up = None;
    // Of the last row that was removed the digest is still known.
    let mut is_wanted_there =
        wanted.is_none_or(|head| head.sequence == first && earlier == Earlier::Removed && head.digest == before);
    let mut rows =
        sqlx::query_as::<_, Columns>(concat!("SELECT ", columns!(), " FROM audit ORDER BY seq")).fetch(&mut *conn);
    while let Some((at, time, row, chain)) = rows.try_next().await? {
        let mut tell = |what: String| {
            if verified.wrong.len() < TOLD_MAX {
                verified.wrong.push(what);
            }
        };
        if let Some(head) = wanted
            && head.sequence == at
        {
            is_wanted_there = true;
            if head.digest != chain {
                tell(format!("row {at} is not the one that the given head names"));
            }
        }
        if at <= first {
            if let Some(what) = wrong_before(at, earlier, given_up) {
                tell(what);
            }
            given_up = Some(at);
            verified.unknown += 1;
            continue;
        }
        if let (Earlier::GivenUp(_), Some(last)) = (earlier, given_up.take())
            && last != first
        {
            tell(missing(last + 1, first));
        }
        if at != sequence + 1 {
            tell(missing(sequence + 1, at - 1));
        } else if time.is_none_or(|time| chain != trail::link(vault, &before, at, time, &row)) {
            tell(format!("row {at} was changed, or was not written by this server"));
        }
        (sequence, before) = (at, chain);
        verified.rows += 1;
        verified.head = format!("{at}:{}", hex(&before));
    }
    drop(rows);
    if let (Earlier::GivenUp(_), Some(last)) = (earlier, given_up)
        && last != first
    {
        verified.wrong.push(missing(last + 1, first));
    }
    if let Some(head) = wanted.filter(|_| !is_wanted_there) {
        verified.wrong.push(not_there(head.sequence, first, sequence));
    }
    Ok(verified)
}

/// Returns what is wrong with a row that stands before the first one that counts, behind `last`.
fn wrong_before(at: i64, earlier: Earlier, last: Option<i64>) -> Option<String> {
    match (earlier, last) {
        (Earlier::Removed, _) => Some(format!("row {at} is where none is left; this server has not written it")),
        (Earlier::GivenUp(from), _) if at < from => {
            Some(format!("row {at} was not there when the key was given up; this server has not written it"))
        }
        // The oldest go from the front.
        (Earlier::GivenUp(_), Some(last)) if at != last + 1 => Some(missing(last + 1, at - 1)),
        _ => None,
    }
}

/// Returns what is wrong where the row of a head is not there: `first` is the last row that was removed, `last` the last of all.
fn not_there(at: i64, first: i64, last: i64) -> String {
    if at > last {
        format!("rows after {last} are missing: the given head names a later one")
    } else if at == first {
        format!("row {at} was removed, and was not the one that the given head names")
    } else {
        format!("row {at}, which the given head names, is not there any more, so nothing was compared with it")
    }
}

fn missing(first: i64, last: i64) -> String {
    format!("rows {first} to {last} are missing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_head_is_one() {
        let digest = "5c1774a9".repeat(8);
        let head = Head::parse(&format!("4711:{digest}")).unwrap();
        assert_eq!((head.sequence, hex(&head.digest)), (4711, digest.clone()));
        assert_eq!(Head::parse(&format!("4711:{}", digest.to_uppercase())), Some(head));
        for other in [
            String::new(),
            digest.clone(),
            "4711".to_owned(),
            "4711:".to_owned(),
            format!(":{digest}"),
            format!("+1:{digest}"),
            format!("-1:{digest}"),
            format!("1x:{digest}"),
            format!("99999999999999999999:{digest}"),
            format!("1:{}", &digest[1..]),
            format!("1:{}", &digest[2..]),
            format!("1:{digest}0"),
            format!("1:{digest}00"),
            format!("1:{digest} "),
            format!(" 1:{digest}"),
            format!("1:x{}", &digest[1..]),
            format!("1:+{}", &digest[1..]),
            "1:5c1774a9…".to_owned(),
        ] {
            assert_eq!(Head::parse(&other), None, "{other}");
        }
    }
}
