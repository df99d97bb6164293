//! Input files of aria2 (`aria2c --input-file`): the URLs of a file on one line with TABs between them, and options on the
//! indented lines after it.

use crate::model::import::{Entry, File, Item, LINE_BYTES_MAX, SLOT_BYTES, URLS_MAX, Wrong, checksum};
use crate::model::spec::OnConflict;
use crate::model::text::shown;

/// Options that say how aria2 itself works. They ask for nothing that haul could do or leave undone.
const OF_ARIA2: [&str; 9] = [
    "gid",
    "continue",
    "always-resume",
    "conditional-get",
    "file-allocation",
    "min-split-size",
    "piece-length",
    "remote-time",
    "check-integrity",
];

/// The most attempts that a task may have; aria2 calls any number 0.
const ATTEMPTS_MAX: u32 = 1_000;

/// Returns the name and the value of an option.
pub(crate) fn option(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once('=')?;
    let is_name =
        !name.is_empty() && name.bytes().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-');
    is_name.then(|| (name, value.trim()))
}

/// The entry that is being read.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    open: Option<Open>,
}

#[derive(Debug, Default)]
struct Open {
    line: u64,
    file: File,
    directory: String,
    user: String,
    password: String,
    /// Whether a file that is there is replaced, and whether another name is taken beside it, where that is said.
    overwrites: Option<bool>,
    renames: Option<bool>,
    proxies: Proxies,
    /// The memory that all of it takes, about.
    bytes: usize,
}

/// The proxies that are said: for each scheme, and for both.
#[derive(Debug, Default)]
struct Proxies {
    all: Option<String>,
    http: Option<String>,
    https: Option<String>,
}

impl Entries {
    /// Reads a line. Returns the entry before it, where this one begins another.
    pub(crate) fn next(&mut self, line: u64, text: &str) -> Result<Option<Entry>, Wrong> {
        if text.trim().is_empty() || text.starts_with('#') {
            return Ok(None);
        }
        if !text.starts_with([' ', '\t']) {
            let mut urls = text.split('\t').map(str::trim).filter(|url| !url.is_empty());
            let url = urls.next().unwrap_or_default().to_owned();
            let mirrors: Vec<String> = urls.by_ref().take(URLS_MAX - 1).map(str::to_owned).collect();
            if urls.next().is_some() {
                let why = format!("there are more than {URLS_MAX} URLs of one file here; leave some out");
                return Err(Wrong { line, why });
            }
            let bytes = size_of::<File>() + text.len() + mirrors.len() * SLOT_BYTES;
            let file = File { url, mirrors, ..File::default() };
            let before = self.open.replace(Open { line, file, bytes, ..Open::default() });
            return Ok(before.map(Open::whole));
        }
        let wrong = |why: String| Wrong { line, why };
        let Some(open) = &mut self.open else {
            return Err(wrong("an option comes before the first URL; write the URL first, without a space".to_owned()));
        };
        let Some((name, value)) = option(text.trim()) else {
            // What stands here may be a password, so it is not repeated.
            return Err(wrong("this is not an option; write NAME=VALUE, or remove the leading space".to_owned()));
        };
        open.bytes += text.len() + SLOT_BYTES;
        if open.bytes > LINE_BYTES_MAX {
            return Err(wrong("the options of one file are longer than 4 MiB".to_owned()));
        }
        open.set(name, value).map_err(wrong)?;
        Ok(None)
    }

    /// Returns the memory of the entry that is not whole, about.
    pub(crate) fn open_bytes(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.bytes)
    }

    /// Returns the last entry.
    pub(crate) fn end(&mut self) -> Option<Entry> {
        self.open.take().map(Open::whole)
    }
}

impl Open {
    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let file = &mut self.file;
        match name {
            "out" => value.clone_into(&mut file.path),
            "dir" if value.starts_with('/') => {
                return Err(format!(
                    "`dir` is `{}`, and downloads go below the server's own directory; write it relative to that",
                    shown(value)
                ));
            }
            "dir" => value.trim_end_matches('/').clone_into(&mut self.directory),
            "checksum" => {
                let read = value.split_once('=').and_then(|(kind, hex)| checksum(kind, hex));
                let checksum = read.ok_or_else(|| {
                    format!(
                        "`checksum` is `{}`; write it like sha-256=HEX, with sha-1, sha-256, sha-512 or md5",
                        shown(value)
                    )
                })?;
                file.checksums.push(checksum);
            }
            "header" => {
                let header =
                    value.split_once(':').ok_or_else(|| "`header` has no `:`; write it like NAME: VALUE".to_owned())?;
                file.headers.push((header.0.trim().to_owned(), header.1.trim().to_owned()));
            }
            "referer" => file.headers.push(("Referer".to_owned(), value.to_owned())),
            "user-agent" => value.clone_into(&mut file.user_agent),
            "http-user" => value.clone_into(&mut self.user),
            "http-passwd" => value.clone_into(&mut self.password),
            "all-proxy" => self.proxies.all = Some(value.to_owned()),
            "http-proxy" => self.proxies.http = Some(value.to_owned()),
            "https-proxy" => self.proxies.https = Some(value.to_owned()),
            "split" | "max-connection-per-server" => {
                file.max_connections = file.max_connections.max(number(name, value)?);
            }
            "allow-overwrite" => self.overwrites = Some(switch(name, value)?),
            "auto-file-renaming" => self.renames = Some(switch(name, value)?),
            "max-tries" => {
                let most = number(name, value)?;
                file.max_attempts = Some(if most == 0 { ATTEMPTS_MAX } else { most.min(ATTEMPTS_MAX) });
            }
            "retry-wait" => file.retry_wait = number(name, value)?,
            "pause" if switch(name, value)? => {
                return Err("`pause` has no equivalent for one file; remove it, or pause the job".to_owned());
            }
            "pause" => {}
            _ if OF_ARIA2.contains(&name) => {}
            _ => return Err(format!("the option `{}` has no equivalent here; remove it", shown(name))),
        }
        Ok(())
    }

    fn whole(self) -> Entry {
        let Open { line, mut file, directory, user, password, overwrites, renames, proxies, bytes: _ } = self;
        if !directory.is_empty() && !file.path.is_empty() {
            file.path = format!("{directory}/{}", file.path);
        } else if !directory.is_empty() {
            // A directory alone: aria2 calls the file in it as the URL does, decoded. What no file may be called stays as it is.
            let url = file.url.split(['?', '#']).next().unwrap_or_default();
            let path = url.split_once("://").map_or(url, |(_, rest)| rest);
            let name = path.split_once('/').and_then(|(_, path)| path.rsplit('/').next()).unwrap_or_default();
            let decoded = percent_encoding::percent_decode_str(name).decode_utf8().unwrap_or_default();
            let is_name = !decoded.contains(['/', '\\']) && crate::model::path::objection(&decoded).is_none();
            let name = if is_name { &*decoded } else { name };
            file.path = format!("{directory}/{}", if name.is_empty() { "index.html" } else { name });
        }
        if !user.is_empty() || !password.is_empty() {
            file.login = Some((user, password));
        }
        file.on_conflict = match (overwrites, renames) {
            (Some(true), _) => Some(OnConflict::Overwrite),
            (_, Some(true)) => Some(OnConflict::Rename),
            (_, Some(false)) => Some(OnConflict::Fail),
            (_, None) => None,
        };
        let is_https = file.url.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"));
        let of_scheme = if is_https { proxies.https } else { proxies.http };
        file.proxy_url = of_scheme.or(proxies.all).unwrap_or_default();
        (line, Item::File(Box::new(file)))
    }
}

fn number(name: &str, value: &str) -> Result<u32, String> {
    value.parse().map_err(|_| format!("`{name}` is `{}`, which is not a number", shown(value)))
}

fn switch(name: &str, value: &str) -> Result<bool, String> {
    value.parse().map_err(|_| format!("`{name}` is `{}`; write true or false", shown(value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::import::{Format, Lines};

    #[test]
    fn entries_have_mirrors_and_options() {
        let text = "# queue\nhttp://a/1\thttp://b/1\n  out=one.iso\n\tdir=isos/\n  checksum=sha-256=ABCD\n  header=X-A: b\n  \
                    gid=1\n\nhttp://a/2\n  split=4\n  http-user=u\n  http-passwd=p\n";
        let mut lines = Lines::new(Format::Aria2);
        let mut found: Vec<Entry> = text.lines().filter_map(|line| lines.next(line).unwrap()).collect();
        found.extend(lines.end());
        let first = File {
            url: "http://a/1".into(),
            mirrors: vec!["http://b/1".into()],
            path: "isos/one.iso".into(),
            checksums: vec!["sha256:abcd".into()],
            headers: vec![("X-A".into(), "b".into())],
            ..File::default()
        };
        let login = Some(("u".into(), "p".into()));
        let second = File { url: "http://a/2".into(), max_connections: 4, login, ..File::default() };
        assert_eq!(found, [(2, Item::File(Box::new(first))), (9, Item::File(Box::new(second)))]);
    }

    #[test]
    fn options_mean_what_they_mean_to_aria2() {
        let read = |url: &str, options: &[&str]| {
            let mut lines = Lines::new(Format::Aria2);
            lines.next(url).unwrap();
            for option in options {
                assert_eq!(lines.next(&format!(" {option}")), Ok(None));
            }
            match lines.end() {
                Some((1, Item::File(file))) => *file,
                other => panic!("{other:?}"),
            }
        };
        let conflict = |options: &[&str]| read("http://a/", options).on_conflict;
        assert_eq!(conflict(&["allow-overwrite=true", "auto-file-renaming=true"]), Some(OnConflict::Overwrite));
        assert_eq!(conflict(&["allow-overwrite=false"]), None);
        assert_eq!(conflict(&["auto-file-renaming=true"]), Some(OnConflict::Rename));
        assert_eq!(conflict(&["auto-file-renaming=false"]), Some(OnConflict::Fail));
        let retried = read("http://a/", &["max-tries=1", "retry-wait=7", "pause=false"]);
        assert_eq!((retried.max_attempts, retried.retry_wait), (Some(1), 7));
        assert_eq!(read("http://a/", &["max-tries=0"]).max_attempts, Some(1_000));
        let both = ["http-proxy=", "https-proxy=http://p"];
        assert_eq!(
            (read("http://a/", &both).proxy_url.as_str(), read("HTTPS://a/", &both).proxy_url.as_str()),
            ("", "http://p")
        );
        let reversed = ["https-proxy=http://p", "http-proxy="];
        assert_eq!(read("https://a/", &reversed).proxy_url, "http://p");
        assert_eq!(read("https://a/", &["http-proxy=http://p", "all-proxy=http://q"]).proxy_url, "http://q");
        let called = |url: &str| read(url, &["dir=d"]).path;
        let whole = ["http://a/x/a%20b.iso?q", "http://a/x/", "http://a"].map(called);
        assert_eq!(whole, ["d/a b.iso", "d/index.html", "d/index.html"]);
        let kept = ["http://a/%E4", "http://a/a%2Fb", "http://a/%2e%2e", "http://a/x%0Ay"].map(called);
        assert_eq!(kept, ["d/%E4", "d/a%2Fb", "d/%2e%2e", "d/x%0Ay"]);
    }

    #[test]
    fn an_entry_has_its_bounds() {
        let mut lines = Lines::new(Format::Aria2);
        let wrong = lines.next(&"http://a/\t".repeat(URLS_MAX + 1)).unwrap_err();
        assert!(wrong.line == 1 && wrong.why.contains("more than 17 URLs"), "{wrong}");
        assert_eq!(lines.next(&"http://a/\t".repeat(URLS_MAX)), Ok(None));
        assert!(lines.open_bytes() > URLS_MAX * 60);
        let header = format!(" header=X: {}", "y".repeat(1 << 20));
        let read: Vec<_> = (0..5).map(|_| lines.next(&header)).collect();
        assert!(read[..3].iter().all(Result::is_ok) && read[4].is_err());
    }

    #[test]
    fn what_cannot_be_done_is_named() {
        let wrong = |option: &str| {
            let mut lines = Lines::new(Format::Aria2);
            lines.next("http://a/").unwrap();
            lines.next(option).unwrap_err()
        };
        for option in [
            "  dir=/etc",
            "  bt-seed=1",
            "  checksum=crc=1",
            "  header=x",
            "  split=x",
            "  http://b/",
            " pause=true",
            " max-tries=x",
        ] {
            assert_eq!(wrong(option).line, 2, "{option}");
        }
        assert!(!wrong("  http-passwd: open-sesame").to_string().contains("open-sesame"));
        assert_eq!(Lines::new(Format::Aria2).next("  out=x").unwrap_err().line, 1);
    }
}
