//! Lists of tasks as other programs write them: URLs, task specs line by line, input files of aria2, Metalink. Pure.
//!
//! A parser takes text and says what each entry asks for, or which line cannot be read and why. Nothing of an entry is
//! dropped in silence: what haul has no equivalent of is named.

pub mod aria2;
pub mod metalink;

use crate::model::spec::OnConflict;

/// The longest line, in bytes.
pub const LINE_BYTES_MAX: usize = 4 << 20;

/// The most URLs of a file: one, and as many mirrors as a download may have.
pub const URLS_MAX: usize = 17;

/// The memory of an entry of a list beside its text, about: the largest of them, and its block.
const SLOT_BYTES: usize = 64;

/// How a list is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A URL a line; `#` begins a comment.
    Urls,
    /// A `TaskSpec` as JSON a line.
    Json,
    /// An input file of aria2: the URLs of a file on one line, options on indented lines after it.
    Aria2,
    /// A Metalink document, of version 4 (RFC 5854) or 3.
    Metalink,
}

impl Format {
    /// Returns the format that a media type names, without its parameters and in lower case.
    pub fn of_type(essence: &str) -> Option<Format> {
        match essence {
            "text/uri-list" => Some(Format::Urls),
            "application/x-ndjson" | "application/jsonl" => Some(Format::Json),
            "text/x-aria2-input" => Some(Format::Aria2),
            "application/metalink4+xml" | "application/metalink+xml" => Some(Format::Metalink),
            _ => None,
        }
    }

    /// Guesses the format of a text by its beginning.
    pub fn guess(head: &str) -> Format {
        let head = head.trim_start_matches('\u{feff}');
        let is_said = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
        let Some(first) = head.lines().find(is_said) else { return Format::Urls };
        if first.trim_start().starts_with('<') {
            return Format::Metalink;
        }
        if first.trim_start().starts_with('{') {
            return Format::Json;
        }
        let is_option = |line: &str| line.starts_with([' ', '\t']) && aria2::option(line.trim()).is_some();
        let has_mirrors = |line: &str| line.trim().contains('\t');
        let is_aria2 = head.lines().filter(is_said).any(|line| is_option(line) || has_mirrors(line));
        if is_aria2 { Format::Aria2 } else { Format::Urls }
    }
}

/// What an entry asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A URL.
    Url(String),
    /// A `TaskSpec` as JSON.
    Json(String),
    /// A file, with what is said about it.
    File(Box<File>),
}

/// A file to download.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    /// Its first URL.
    pub url: String,
    /// Its other URLs, in their order.
    pub mirrors: Vec<String>,
    /// Where it goes, relative to the directory of its job; empty: as the origin calls it.
    pub path: String,
    /// `sha256:…` and the like.
    pub checksums: Vec<String>,
    /// Its size.
    pub bytes: Option<u64>,
    /// Ranges at once; 0: as usual.
    pub max_connections: u32,
    /// Headers to send.
    pub headers: Vec<(String, String)>,
    /// What the client calls itself.
    pub user_agent: String,
    /// A user and a password.
    pub login: Option<(String, String)>,
    /// The proxy to go through.
    pub proxy_url: String,
    /// What is done where its file is there; `None`: as usual.
    pub on_conflict: Option<OnConflict>,
    /// The most attempts; `None`: as usual.
    pub max_attempts: Option<u32>,
    /// The seconds before the second attempt; 0: as usual.
    pub retry_wait: u32,
}

impl File {
    /// Returns the bytes of all its text.
    fn text_bytes(&self) -> usize {
        let lists = self.mirrors.iter().chain(&self.checksums).map(String::len).sum::<usize>();
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        let login = self.login.as_ref().map_or(0, |(user, password)| user.len() + password.len());
        let own = self.url.len() + self.path.len() + self.user_agent.len() + self.proxy_url.len();
        own + lists + headers + login
    }
}

impl Item {
    /// Returns the bytes of its text.
    pub fn text_bytes(&self) -> usize {
        match self {
            Item::Url(text) | Item::Json(text) => text.len(),
            Item::File(file) => file.text_bytes(),
        }
    }

    /// Returns the memory that it takes, about, and at least that of the task that is made of it beside the task's own fields.
    pub fn memory(&self) -> usize {
        let slots = match self {
            Item::Url(_) => 0,
            // Each entry of a list or an object but its first follows a comma.
            Item::Json(text) => memchr::memchr_iter(b',', text.as_bytes()).count(),
            Item::File(file) => {
                file.mirrors.len() + file.checksums.len() + file.headers.len() + size_of::<File>() / SLOT_BYTES
            }
        };
        size_of::<Entry>() + self.text_bytes() + slots * SLOT_BYTES
    }
}

/// A line that cannot be read, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct Wrong {
    /// The line, from 1.
    pub line: u64,
    /// What is wrong with it, and what to do.
    pub why: String,
}

/// An entry with the line that it begins on.
pub type Entry = (u64, Item);

/// Reads a list line by line. A Metalink document is read whole, by [`metalink::files`].
#[derive(Debug)]
pub struct Lines {
    format: Format,
    line: u64,
    aria2: aria2::Entries,
}

impl Lines {
    /// Begins a list of this format.
    pub fn new(format: Format) -> Lines {
        Lines { format, line: 0, aria2: aria2::Entries::default() }
    }

    /// Reads the next line, without its end. Returns the entry that is whole by now, if there is one.
    pub fn next(&mut self, text: &str) -> Result<Option<Entry>, Wrong> {
        self.line += 1;
        let line = self.line;
        // Some editors begin a file with a mark, and one within is left of files that were put together.
        let text = text.trim_start_matches('\u{feff}').trim_end_matches(['\r', '\n']);
        match self.format {
            Format::Aria2 => self.aria2.next(line, text),
            Format::Json => {
                let text = text.trim();
                Ok((!text.is_empty()).then(|| (line, Item::Json(text.to_owned()))))
            }
            Format::Urls | Format::Metalink => {
                let text = before_comment(text).trim();
                if text.split_whitespace().nth(1).is_some_and(|next| next.contains("://")) {
                    // What stands here may hold a password, so it is not repeated.
                    let why = "there is more than one URL here; write each on a line of its own".to_owned();
                    return Err(Wrong { line, why });
                }
                Ok((!text.is_empty()).then(|| (line, Item::Url(text.to_owned()))))
            }
        }
    }

    /// Returns how many lines were read.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// Returns the memory of the entry that is not whole, about.
    pub fn open_bytes(&self) -> usize {
        self.aria2.open_bytes()
    }

    /// Returns the entry that the end of the list ends.
    pub fn end(&mut self) -> Option<Entry> {
        self.aria2.end()
    }
}

/// Returns what stands before a comment: `#` begins one, unless it is of a word, as the fragment of a URL is.
fn before_comment(line: &str) -> &str {
    let begins = |(at, _): &(usize, &str)| *at == 0 || line.as_bytes()[*at - 1].is_ascii_whitespace();
    line.match_indices('#').find(begins).map_or(line, |(at, _)| &line[..at])
}

/// Returns a checksum as haul writes it; `None`: its kind is not one that haul checks.
fn checksum(kind: &str, hex: &str) -> Option<String> {
    let kind: String = kind.trim().to_ascii_lowercase().chars().filter(|letter| *letter != '-').collect();
    let is_known = matches!(kind.as_str(), "sha256" | "sha512" | "sha1" | "md5");
    is_known.then(|| format!("{kind}:{}", hex.trim().to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_known_by_how_they_begin() {
        for (head, format) in [
            ("", Format::Urls),
            ("# a comment\n\nhttp://a/1\nhttp://a/2#x\n", Format::Urls),
            ("\u{feff}http://a/1", Format::Urls),
            ("{\"fetch\": {}}\n", Format::Json),
            ("http://a/1\n  out=x\n", Format::Aria2),
            ("http://a/1\thttp://b/1\n", Format::Aria2),
            ("http://a/1\n  http://a/2\n", Format::Urls),
            ("\u{feff}<?xml version=\"1.0\"?>\n<metalink/>", Format::Metalink),
        ] {
            assert_eq!(Format::guess(head), format, "{head}");
        }
    }

    #[test]
    fn urls_and_specs_are_read_line_by_line() {
        let mut urls = Lines::new(Format::Urls);
        assert_eq!(urls.next("\u{feff}http://a/1 # one\r"), Ok(Some((1, Item::Url("http://a/1".into())))));
        assert_eq!(urls.next("# http://a/2"), Ok(None));
        assert_eq!(urls.next("http://a/x#y"), Ok(Some((3, Item::Url("http://a/x#y".into())))));
        let wrong = urls.next("http://u:open-sesame@a/ http://b/").unwrap_err();
        assert!(wrong.line == 4 && !wrong.to_string().contains("open-sesame"), "{wrong}");
        assert_eq!(urls.end(), None);
        let mut specs = Lines::new(Format::Json);
        assert_eq!(specs.next(" {\"key\": \"#\"} "), Ok(Some((1, Item::Json("{\"key\": \"#\"}".into())))));
        assert_eq!(specs.next(""), Ok(None));
    }
}
