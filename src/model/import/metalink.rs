//! Metalink documents, of version 4 (RFC 5854) and 3.
//!
//! A document has files with their URLs, sizes and hashes. No entity is read from elsewhere and no type is declared within:
//! a document that tries is refused. Hashes of pieces and signatures are passed over, since the hash of the whole says as much.

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion, escape};

use crate::model::import::{Entry, File, Item, URLS_MAX, Wrong, checksum};
use crate::model::text::shown;

/// The largest document, in bytes.
pub const DOCUMENT_BYTES_MAX: usize = 16 << 20;
/// How deep elements may stand in each other; those of a Metalink stand six deep.
const DEPTH_MAX: usize = 32;

/// A URL with its priority; the lowest is asked first.
type Ranked = (u32, String);

#[derive(Debug, Default)]
struct Open {
    line: u64,
    file: File,
    /// The best of its URLs, in their order.
    urls: Vec<Ranked>,
    /// A kind of hash that it has and that haul does not check.
    unchecked: Option<String>,
}

impl Open {
    /// Takes a URL, where it is among the best; one that came before goes before its equals.
    fn url(&mut self, rank: u32, url: &str) {
        let at = self.urls.partition_point(|(known, _)| *known <= rank);
        if at < URLS_MAX {
            self.urls.insert(at, (rank, url.to_owned()));
            self.urls.truncate(URLS_MAX);
        }
    }
}

/// What a document was read to.
#[derive(Default)]
struct State {
    /// The names of the elements that are open.
    path: Vec<String>,
    text: String,
    file: Option<Open>,
    /// The attribute of the open element that counts: a kind of hash, or a rank of a URL.
    kind: String,
    rank: u32,
    files: Vec<Entry>,
}

/// Returns the files of a document with the lines that they begin on.
pub fn files(document: &str) -> Result<Vec<Entry>, Wrong> {
    let document = document.trim_start_matches('\u{feff}');
    let mut reader = Reader::from_str(document);
    let mut state = State::default();
    let (mut counted, mut line) = (0, 1);
    loop {
        let at = usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX).min(document.len());
        // Only what is new is counted: a document has an event for every few bytes.
        line += memchr::memchr_iter(b'\n', &document.as_bytes()[counted..at]).count() as u64;
        counted = at;
        let wrong = |why: String| Wrong { line, why };
        match reader.read_event().map_err(|error| wrong(format!("this is not XML ({error})")))? {
            Event::Start(start) => {
                state.begin(&start, line).map_err(wrong)?;
            }
            Event::Empty(start) => {
                state.begin(&start, line).map_err(wrong)?;
                state.end().map_err(wrong)?;
            }
            Event::End(_) => state.end().map_err(wrong)?,
            Event::Text(text) => state.text.push_str(&text.xml10_content()),
            Event::CData(text) => state.text.push_str(&text.xml10_content()),
            Event::GeneralRef(name) => {
                let letter = name.resolve_char_ref().map_err(|error| wrong(error.to_string()))?;
                match (letter, escape::resolve_predefined_entity(&name)) {
                    (Some(letter), _) => state.text.push(letter),
                    (None, Some(text)) => state.text.push_str(text),
                    (None, None) => return Err(wrong(format!("the entity `{}` is unknown", shown(&name)))),
                }
            }
            Event::DocType(_) => return Err(wrong("a document with a DOCTYPE is not accepted; remove it".to_owned())),
            Event::Eof if state.path.is_empty() => return Ok(state.files),
            Event::Eof => return Err(wrong("the document ends before its elements do".to_owned())),
            Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
        }
    }
}

fn is_http(url: &str) -> bool {
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")
}

fn attribute(start: &BytesStart<'_>, name: &str) -> Result<Option<String>, String> {
    let found = start.try_get_attribute(name).map_err(|error| error.to_string())?;
    let value = found.map(|it| it.normalized_value(XmlVersion::Implicit1_0).map(std::borrow::Cow::into_owned));
    value.transpose().map_err(|error| error.to_string())
}

impl State {
    fn begin(&mut self, start: &BytesStart<'_>, line: u64) -> Result<(), String> {
        let name = start.local_name().as_ref().to_owned();
        if self.path.is_empty() && name != "metalink" {
            return Err(format!("the document is a `{}`, and no `metalink`", shown(&name)));
        }
        if self.path.len() >= DEPTH_MAX {
            return Err("elements stand too deep in each other".to_owned());
        }
        self.text.clear();
        match name.as_str() {
            "file" if self.file.is_some() => {
                return Err("a `file` is inside another; write them one after the other".to_owned());
            }
            "file" => {
                let path = attribute(start, "name")?.unwrap_or_default();
                self.file = Some(Open { line, file: File { path, ..File::default() }, ..Open::default() });
            }
            "hash" => self.kind = attribute(start, "type")?.unwrap_or_default(),
            "url" => {
                // Version 4 counts up from the best, version 3 down from 100.
                let priority = attribute(start, "priority")?.and_then(|it| it.trim().parse::<u32>().ok());
                let preference = attribute(start, "preference")?.and_then(|it| it.trim().parse::<u32>().ok());
                self.rank = priority.or_else(|| preference.map(|it| 101_u32.saturating_sub(it))).unwrap_or(999_999);
            }
            _ => {}
        }
        self.path.push(name);
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        let Some(name) = self.path.pop() else { return Ok(()) };
        let text = std::mem::take(&mut self.text);
        let text = text.trim();
        let mut above = self.path.iter().rev().map(String::as_str);
        let (parent, second) = (above.next().unwrap_or(""), above.next().unwrap_or(""));
        let Some(open) = &mut self.file else { return Ok(()) };
        match (name.as_str(), parent, second) {
            ("size", "file", _) => {
                let size = text.parse().map_err(|_| format!("the size `{}` is not a number of bytes", shown(text)))?;
                open.file.bytes = Some(size);
            }
            // Hashes of pieces stand in `pieces`, and those of other versions of the file in `alternates`.
            ("hash", "file", _) | ("hash", "verification", "file") => match checksum(&self.kind, text) {
                Some(sum) => open.file.checksums.push(sum),
                None => open.unchecked = Some(std::mem::take(&mut self.kind)),
            },
            ("url", "file", _) | ("url", "resources", "file") if is_http(text) => open.url(self.rank, text),
            ("file", ..) => {
                let Open { line, mut file, urls, unchecked } = self.file.take().unwrap_or_default();
                if let (Some(kind), true) = (unchecked, file.checksums.is_empty()) {
                    return Err(format!(
                        "the file `{}` has only hashes of unknown kinds (`{}`); add a sha-256",
                        shown(&file.path),
                        shown(&kind)
                    ));
                }
                let mut urls = urls.into_iter().map(|(_, url)| url);
                let Some(url) = urls.next() else {
                    return Err(format!("the file `{}` has no http or https URL", shown(&file.path)));
                };
                file.url = url;
                file.mirrors = urls.collect();
                self.files.push((line, Item::File(Box::new(file))));
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_read() {
        let four = "<?xml version='1.0'?>\n<metalink xmlns='urn:ietf:params:xml:ns:metalink'>\n <file name='a/x &amp; y.iso'>\n  \
                    <size>7</size><hash type='sha-256'>AB</hash><pieces type='sha-1' length='4'><hash>cd</hash></pieces>\n  \
                    <url priority='2'>http://b/?x=1&amp;y=2</url><url priority='1'>https://a/</url><url>ftp://c/</url>\n \
                    </file>\n</metalink>";
        let file = File {
            url: "https://a/".into(),
            mirrors: vec!["http://b/?x=1&y=2".into()],
            path: "a/x & y.iso".into(),
            checksums: vec!["sha256:ab".into()],
            bytes: Some(7),
            ..File::default()
        };
        assert_eq!(files(four), Ok(vec![(3, Item::File(Box::new(file.clone())))]));
        let three = "<metalink version='3.0'><files><file name='a/x &amp; y.iso'><size>7</size>\n<verification><hash \
                     type='sha256'>ab</hash></verification><resources><url type='http' preference='10'>http://b/?x=1&#38;y=2</url>\n\
                     <url preference='100'>https://a/</url></resources></file></files></metalink>";
        assert_eq!(files(three), Ok(vec![(1, Item::File(Box::new(file)))]));
    }

    fn only(document: &str) -> Result<File, Wrong> {
        files(document).map(|mut files| match files.pop() {
            Some((_, Item::File(file))) if files.is_empty() => *file,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn of_many_mirrors_the_best_are_taken() {
        let urls: Vec<_> = (0..60).map(|at| format!("<url preference='{}'>HTTP://a/{at}</url>", 40 + at)).collect();
        let urls = urls.concat();
        let file = only(&format!("<metalink><file name='x'><resources>{urls}</resources></file></metalink>")).unwrap();
        let expected: Vec<String> = (43..59).rev().map(|at| format!("HTTP://a/{at}")).collect();
        assert_eq!((file.url.as_str(), file.mirrors), ("HTTP://a/59", expected));
    }

    #[test]
    fn hashes_are_those_of_the_file_itself() {
        let file = only(
            "<metalink xmlns:mm0='m'><files><file name='x'><mm0:alternates><mm0:alternate><size>9</size><verification>\
             <hash type='sha256'>cd</hash></verification></mm0:alternate></mm0:alternates><size>7</size><verification>\
             <hash type='sha256'>ab</hash><hash type='sha3-256'>ef</hash></verification><resources><url>http://a/</url>\
             </resources></file></files></metalink>",
        );
        let file = file.unwrap();
        assert_eq!((file.bytes, file.checksums), (Some(7), vec!["sha256:ab".to_owned()]));
        for (document, sign) in [
            ("<file name='x'><hash type='sha-384'>ab</hash><url>http://a/</url></file>", "sha-384"),
            ("<file name='x'><url>http://a/</url><file name='y'><url>http://b/</url></file></file>", "inside"),
        ] {
            let wrong = only(&format!("<metalink>{document}</metalink>")).unwrap_err();
            assert!(wrong.why.contains(sign), "{wrong}");
        }
    }

    #[test]
    fn each_file_of_a_long_document_has_its_line() {
        let document =
            format!("\u{feff}<metalink>\n{}</metalink>", "<file><url>http://a</url></file>\n".repeat(100_000));
        let lines = files(&document).unwrap().into_iter().map(|(line, _)| line);
        assert!(lines.eq(2..100_002));
    }

    #[test]
    fn what_is_no_metalink_names_its_line() {
        for (document, line) in [
            ("<html/>", 1),
            ("<!DOCTYPE x [<!ENTITY a 'b'>]>\n<metalink/>", 1),
            ("<metalink>\n<file name='x'>\n<size>x</size></file></metalink>", 3),
            ("<metalink><file name='x'><url>ftp://a/</url>\n</file></metalink>", 2),
            ("<metalink><file name='x'>&secret;</file></metalink>", 1),
            ("<metalink>", 1),
        ] {
            assert_eq!(files(document).unwrap_err().line, line, "{document}");
        }
        assert!(files(&format!("<metalink>{}", "<a>".repeat(100))).is_err());
        assert_eq!(files("<metalink/>"), Ok(Vec::new()));
    }
}
