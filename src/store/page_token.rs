//! Page tokens: where a listing goes on, as text that a client hands back.
//!
//! A token is opaque, survives a restart, and is good for the server, the method and the filter that it was made for: it is
//! signed with a key of the store. Whatever text comes in, reading it gives a place or [`BadToken`], never a panic.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;

use crate::model::host::Host;
use crate::model::ids::{JobId, TaskIndex};
use crate::model::time::Timestamp;
use crate::vault::Vault;

/// The layout: version, method, place, tag. Tokens of version 1 had no key.
const VERSION: u8 = 2;
/// Bytes of the tag. Without the key nobody makes one.
const TAG_BYTES: usize = 16;

/// A token that this server did not make for this listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a page token of this listing; take `next_page_token` of the page before, and keep the filter the same")]
pub struct BadToken;

/// Which listing a token belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Listing {
    /// `ListJobs`; its place is a job.
    Jobs = 1,
    /// `ListTasks`; its place is a task's index.
    Tasks = 2,
    /// `ListHosts`; its place is a host's name.
    Hosts = 3,
    /// `ListPrincipals`; its place is a principal's name.
    Principals = 4,
    /// `ListTenants`; its place is a tenant's name.
    Tenants = 8,
    /// `ListTokens`; its place is a token's id.
    Tokens = 5,
    /// `ListAuditEvents`; its place is an event's number.
    Audit = 6,
    /// `ListJobEvents`; its place is an event's number.
    Events = 7,
    /// `ListCredentials`; its place is a credential's name.
    Credentials = 9,
}

/// Makes and reads the tokens of one server.
#[derive(Clone)]
pub struct PageTokens {
    vault: Arc<Vault>,
}

impl PageTokens {
    /// For the server that has these keys.
    pub fn new(vault: Arc<Vault>) -> Self {
        PageTokens { vault }
    }

    /// A token for the jobs older than `last`. `filter`: whatever else must stay the same, in one fixed form.
    pub fn after_job(&self, filter: &[u8], last: JobId) -> String {
        self.write(Listing::Jobs, filter, last.0.as_bytes())
    }

    /// Reads a token of [`PageTokens::after_job`].
    pub fn read_job(&self, filter: &[u8], token: &str) -> Result<JobId, BadToken> {
        self.read(Listing::Jobs, filter, token).map(|place| JobId(Uuid::from_bytes(place)))
    }

    /// A token for the jobs that ended before `end`, or then and are older than `last`.
    pub fn after_end(&self, filter: &[u8], end: Timestamp, last: JobId) -> String {
        let place = [end.0.to_be_bytes().as_slice(), last.0.as_bytes()].concat();
        self.write(Listing::Jobs, filter, &place)
    }

    /// Reads a token of [`PageTokens::after_end`].
    pub fn read_end(&self, filter: &[u8], token: &str) -> Result<(Timestamp, JobId), BadToken> {
        let place: [u8; 24] = self.read(Listing::Jobs, filter, token)?;
        let (end, id) = place.split_first_chunk::<8>().ok_or(BadToken)?;
        let id = Uuid::from_slice(id).map_err(|_| BadToken)?;
        Ok((Timestamp(i64::from_be_bytes(*end)), JobId(id)))
    }

    /// A token for the events with numbers below `last`.
    pub fn before_event(&self, filter: &[u8], last: u64) -> String {
        self.write(Listing::Events, filter, &last.to_be_bytes())
    }

    /// Reads a token of [`PageTokens::before_event`].
    pub fn read_event(&self, filter: &[u8], token: &str) -> Result<u64, BadToken> {
        self.read(Listing::Events, filter, token).map(u64::from_be_bytes)
    }

    /// A token for the tasks from `next` on.
    pub fn from_task(&self, filter: &[u8], next: TaskIndex) -> String {
        self.write(Listing::Tasks, filter, &next.to_be_bytes())
    }

    /// Reads a token of [`PageTokens::from_task`].
    pub fn read_task(&self, filter: &[u8], token: &str) -> Result<TaskIndex, BadToken> {
        self.read(Listing::Tasks, filter, token).map(TaskIndex::from_be_bytes)
    }

    /// A token for the hosts whose names come after `last`.
    pub fn after_host(&self, filter: &[u8], last: &Host) -> String {
        self.write(Listing::Hosts, filter, last.as_str().as_bytes())
    }

    /// Reads a token of [`PageTokens::after_host`].
    pub fn read_host(&self, filter: &[u8], token: &str) -> Result<Host, BadToken> {
        let place = self.place(Listing::Hosts, filter, token)?;
        std::str::from_utf8(&place).map(Host::new).map_err(|_| BadToken)
    }

    /// A token for the events of the audit that come after the number `last`, or before it where the newest come first.
    pub fn after_number(&self, filter: &[u8], last: u64) -> String {
        self.write(Listing::Audit, filter, &last.to_be_bytes())
    }

    /// Reads a token of [`PageTokens::after_number`].
    pub fn read_number(&self, filter: &[u8], token: &str) -> Result<u64, BadToken> {
        self.read(Listing::Audit, filter, token).map(u64::from_be_bytes)
    }

    /// A token for what comes after the name `last` in a listing by name.
    pub fn after_name(&self, listing: Listing, filter: &[u8], last: &str) -> String {
        self.write(listing, filter, last.as_bytes())
    }

    /// Reads a token of [`PageTokens::after_name`].
    pub fn read_name(&self, listing: Listing, filter: &[u8], token: &str) -> Result<String, BadToken> {
        String::from_utf8(self.place(listing, filter, token)?).map_err(|_| BadToken)
    }

    fn write(&self, listing: Listing, filter: &[u8], place: &[u8]) -> String {
        let mut bytes = vec![VERSION, listing as u8];
        bytes.extend_from_slice(place);
        let tag = self.tag(filter, &bytes);
        bytes.extend_from_slice(&tag);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn read<const N: usize>(&self, listing: Listing, filter: &[u8], token: &str) -> Result<[u8; N], BadToken> {
        self.place(listing, filter, token)?.try_into().map_err(|_| BadToken)
    }

    fn place(&self, listing: Listing, filter: &[u8], token: &str) -> Result<Vec<u8>, BadToken> {
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| BadToken)?;
        let (body, tag) = bytes.split_last_chunk::<TAG_BYTES>().map(|(body, tag)| (body, *tag)).ok_or(BadToken)?;
        let [VERSION, method, place @ ..] = body else { return Err(BadToken) };
        if *method != listing as u8 || tag != self.tag(filter, body) {
            return Err(BadToken);
        }
        Ok(place.to_vec())
    }

    /// Over the filter and what the token says.
    fn tag(&self, filter: &[u8], body: &[u8]) -> [u8; TAG_BYTES] {
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(&self.vault.keyed("page token", &[filter, body])[..TAG_BYTES]);
        tag
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vault::Key;

    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

    fn tokens() -> PageTokens {
        tokens_of("1")
    }

    /// The tokens of the server whose keys have this digit.
    fn tokens_of(digit: &str) -> PageTokens {
        let key = Key::read(&digit.repeat(64)).unwrap();
        PageTokens::new(Arc::new(Vault::new(vec![(1, key.clone())], &key).unwrap()))
    }

    #[test]
    fn a_token_is_good_for_one_listing_of_one_server() {
        let token = tokens().from_task(b"job=1", 4711);
        assert_eq!(tokens().read_task(b"job=1", &token), Ok(4711));
        assert_eq!(tokens().read_task(b"job=2", &token), Err(BadToken));
        assert_eq!(tokens().read_job(b"job=1", &token), Err(BadToken));
        assert_eq!(tokens_of("2").read_task(b"job=1", &token), Err(BadToken));
    }

    #[test]
    fn the_form_is_kept_from_version_to_version() {
        // A token made before an upgrade is read after it.
        insta::assert_snapshot!(tokens().from_task(b"job=1", 4711), @"AgIAABJnAuksvHTzqM7J6FeTDEskEA");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(filter: Vec<u8>, id: u128, index: u32) {
            let id = JobId(Uuid::from_u128(id));
            prop_assert_eq!(tokens().read_job(&filter, &tokens().after_job(&filter, id)), Ok(id));
            prop_assert_eq!(tokens().read_task(&filter, &tokens().from_task(&filter, index)), Ok(index));
            let end = Timestamp(i64::from(index) - 9);
            prop_assert_eq!(tokens().read_end(&filter, &tokens().after_end(&filter, end, id)), Ok((end, id)));
            prop_assert_eq!(tokens().read_job(&filter, &tokens().after_end(&filter, end, id)), Err(BadToken));
            let host = Host::new(&format!("h{index}:80"));
            prop_assert_eq!(tokens().read_host(&filter, &tokens().after_host(&filter, &host)), Ok(host));
        }

        #[test]
        fn any_text_is_refused(text: String) {
            prop_assert_eq!(tokens().read_task(b"", &text), Err(BadToken));
            prop_assert_eq!(tokens().read_job(b"", &text), Err(BadToken));
            prop_assert_eq!(tokens().read_host(b"", &text), Err(BadToken));
        }

        #[test]
        fn a_changed_token_is_refused(index: u32, at in 0_usize..30, flip in 1_u8..64) {
            let mut token = tokens().from_task(b"", index).into_bytes();
            let at = at % token.len();
            let old = ALPHABET.iter().position(|byte| *byte == token[at]).unwrap();
            token[at] = ALPHABET[(old + usize::from(flip)) % 64];
            prop_assert_eq!(tokens().read_task(b"", std::str::from_utf8(&token).unwrap()), Err(BadToken));
        }
    }
}
