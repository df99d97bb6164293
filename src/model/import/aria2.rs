//! Input files of aria2 (`aria2c --input-file`): the URLs of a file on one line with TABs between them, and options on the
//! indented lines after it.

use crate::model::import::{Entry, File, Item, Wrong, checksum};
use crate::model::text::shown;

/// Options that say how aria2 itself works. They ask for nothing that haul could do or leave undone.
const OF_ARIA2: [&str; 14] = [
    "gid",
    "continue",
    "auto-file-renaming",
    "allow-overwrite",
    "always-resume",
    "conditional-get",
    "file-allocation",
    "max-tries",
    "retry-wait",
    "min-split-size",
    "piece-length",
    "remote-time",
    "check-integrity",
    "pause",
];

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
}

impl Entries {
    /// Reads a line. Returns the entry before it, where this one begins another.
    pub(crate) fn next(&mut self, line: u64, text: &str) -> Result<Option<Entry>, Wrong> {
        if text.trim().is_empty() || text.starts_with('#') {
            return Ok(None);
        }
        if !text.starts_with([' ', '\t']) {
            let mut urls = text.split('\t').map(str::trim).filter(|url| !url.is_empty()).map(str::to_owned);
            let file = File { url: urls.next().unwrap_or_default(), mirrors: urls.collect(), ..File::default() };
            let before = self.open.replace(Open { line, file, ..Open::default() });
            return Ok(before.map(Open::whole));
        }
        let wrong = |why: String| Wrong { line, why };
        let Some(open) = &mut self.open else {
            return Err(wrong(
                "an option stands before the first URL; write the URL first, without a space".to_owned(),
            ));
        };
        let Some((name, value)) = option(text.trim()) else {
            return Err(wrong(format!(
                "`{}` is not an option; write NAME=VALUE, or take the space away",
                shown(text.trim())
            )));
        };
        open.set(name, value).map_err(wrong)?;
        Ok(None)
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
            "all-proxy" | "http-proxy" | "https-proxy" => value.clone_into(&mut file.proxy_url),
            "split" | "max-connection-per-server" => {
                let count = value
                    .parse::<u32>()
                    .map_err(|_| format!("`{name}` is `{}`, which is not a number", shown(value)))?;
                file.max_connections = file.max_connections.max(count);
            }
            _ if OF_ARIA2.contains(&name) => {}
            _ => return Err(format!("the option `{}` has no equivalent here; take it out", shown(name))),
        }
        Ok(())
    }

    fn whole(self) -> Entry {
        let Open { line, mut file, directory, user, password } = self;
        if !directory.is_empty() && !file.path.is_empty() {
            file.path = format!("{directory}/{}", file.path);
        } else if !directory.is_empty() {
            // A directory alone: aria2 calls the file in it as the URL does.
            let path = file.url.split(['?', '#']).next().unwrap_or_default();
            file.path = format!("{directory}/{}", path.rsplit('/').next().unwrap_or_default());
        }
        if !user.is_empty() || !password.is_empty() {
            file.login = Some((user, password));
        }
        (line, Item::File(Box::new(file)))
    }
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
    fn what_cannot_be_done_is_named() {
        let wrong = |option: &str| {
            let mut lines = Lines::new(Format::Aria2);
            lines.next("http://a/").unwrap();
            lines.next(option).unwrap_err()
        };
        for option in ["  dir=/etc", "  bt-seed=1", "  checksum=crc=1", "  header=x", "  split=x", "  http://b/"] {
            assert_eq!(wrong(option).line, 2, "{option}");
        }
        assert_eq!(Lines::new(Format::Aria2).next("  out=x").unwrap_err().line, 1);
    }
}
