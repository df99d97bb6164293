//! Rows whose secrets are sealed: the JSON of a row has marks in their places, and its column `sealed` has the bag.
//!
//! A row without secrets has no bag and costs nothing. A row of an older version has its secrets in its JSON and no bag; it
//! reads as it always did until [`crate::store::sqlite::upkeep`] comes to it.

use serde::{Deserialize, Deserializer, Serialize};

use crate::model::bag::{self, BadBag, Bagged};
use crate::model::ids::{JobId, TaskIndex};
use crate::model::secret::holds_secret;
use crate::model::spec::{DownloadSpec, FetchSpec, TaskSpec, Work};
use crate::store::StoreError;
use crate::store::sqlite::errors::Fault;
use crate::vault::{Vault, VaultError};

/// The tenant of all jobs, as long as there is one.
const TENANT: u32 = 1;

/// A row that has a bag. The bag opens there and nowhere else.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// A row of `job_specs`.
    Job(JobId),
    /// A row of `tasks`.
    Task(JobId, TaskIndex),
    /// A row of `pages`.
    Page(JobId, TaskIndex, u32),
}

impl Place {
    fn bytes(self) -> [u8; 29] {
        let (table, job, task, page) = match self {
            Place::Job(job) => (1, job, 0, 0),
            Place::Task(job, task) => (2, job, task, 0),
            Place::Page(job, task, page) => (3, job, task, page),
        };
        let mut bytes = [0; 29];
        bytes[0] = table;
        bytes[1..5].copy_from_slice(&TENANT.to_be_bytes());
        bytes[5..21].copy_from_slice(job.0.as_bytes());
        bytes[21..25].copy_from_slice(&task.to_be_bytes());
        bytes[25..].copy_from_slice(&page.to_be_bytes());
        bytes
    }
}

impl From<VaultError> for Fault {
    fn from(error: VaultError) -> Self {
        Fault::Refused(error.to_string())
    }
}

/// The JSON of a row and its bag.
pub(super) type Columns = (String, Option<Vec<u8>>);

/// Returns the JSON of a row and its bag.
pub(super) fn row<T: Bagged + Serialize>(vault: &Vault, place: Place, spec: &T) -> Result<Columns, Fault> {
    match bag::pack(spec) {
        None => Ok((serde_json::to_string(spec)?, None)),
        Some((left, bag)) => Ok((serde_json::to_string(&left)?, Some(vault.seal(&place.bytes(), &bag)?))),
    }
}

/// Returns what a row was made of. Where its bag is gone, marks would go out in the places of its secrets.
pub(super) fn whole<T: Bagged>(vault: &Vault, place: Place, mut left: T, bag: Option<&[u8]>) -> Result<T, StoreError> {
    let wrong = |why: String| StoreError::Unreadable(format!("{place:?}: {why}"));
    let Some(bag) = bag else {
        return if left.has_marks() { Err(wrong(BadBag.to_string())) } else { Ok(left) };
    };
    let bag = vault.open(&place.bytes(), bag).map_err(|error| wrong(error.to_string()))?;
    bag::unpack(&mut left, &bag).map_err(|error| wrong(error.to_string()))?;
    Ok(left)
}

/// As [`whole`], of what events tell of a task: where its bag was left out of the read, nothing of it is told but a URL.
pub(super) fn told(vault: &Vault, place: Place, left: TaskSpec, bag: Option<&[u8]>) -> Result<TaskSpec, StoreError> {
    let (Work::Fetch(FetchSpec { url, .. }) | Work::Download(DownloadSpec { url, .. })) = &left.work;
    if bag.is_some() || bag::is_mark(url.as_bytes()) { whole(vault, place, left, bag) } else { Ok(left) }
}

/// Returns the columns `next` and `sealed` of a page. Where a listing goes on may be a URL with the secrets of the first one.
pub(super) fn next(
    vault: &Vault,
    place: Place,
    next: Option<&str>,
) -> Result<(Option<String>, Option<Vec<u8>>), Fault> {
    match next {
        Some(next) if holds_secret(next) => Ok((None, Some(vault.seal(&place.bytes(), next.as_bytes())?))),
        next => Ok((next.map(str::to_owned), None)),
    }
}

/// Returns what a page's `next` was.
pub(super) fn whole_next(
    vault: &Vault,
    place: Place,
    next: Option<String>,
    bag: Option<&[u8]>,
) -> Result<Option<String>, StoreError> {
    let Some(bag) = bag else { return Ok(next) };
    let wrong = |why: String| StoreError::Unreadable(format!("{place:?}: {why}"));
    let plain = vault.open(&place.bytes(), bag).map_err(|error| wrong(error.to_string()))?;
    std::str::from_utf8(&plain).map(|next| Some(next.to_owned())).map_err(|error| wrong(error.to_string()))
}

/// What each byte is worth as a hexadecimal digit; 255: it is none.
const DIGITS: [u8; 256] = {
    let mut digits = [255; 256];
    let mut value = 0;
    while value < 16 {
        digits[b"0123456789ABCDEF"[value] as usize] = value as u8;
        digits[b"0123456789abcdef"[value] as usize] = value as u8;
        value += 1;
    }
    digits
};

/// A bag as it travels within JSON: in hexadecimal digits, as `SQLite` writes them.
#[derive(Debug)]
pub(super) struct Bag(pub(super) Vec<u8>);

impl<'de> Deserialize<'de> for Bag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        // Whether any was none shows at the end: bags are long, as bodies are.
        let (mut bytes, mut all) = (Vec::with_capacity(pairs.len()), 0);
        for [high, low] in pairs {
            let (high, low) = (DIGITS[*high as usize], DIGITS[*low as usize]);
            all |= high | low;
            bytes.push(high << 4 | low & 0xf);
        }
        let is_good = rest.is_empty() && all < 16;
        is_good.then_some(Bag(bytes)).ok_or_else(|| serde::de::Error::custom("a bag is not in hexadecimal digits"))
    }
}

impl Bag {
    /// The bytes, where there is a bag.
    pub(super) fn bytes(bag: Option<&Bag>) -> Option<&[u8]> {
        bag.map(|bag| bag.0.as_slice())
    }
}
