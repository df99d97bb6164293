//! Text files as other people's editors and systems write them: lists of URLs, read line by line however long they are,
//! and job files.
//!
//! UTF-8 with or without a byte order mark, UTF-16 (what PowerShell's `>` writes), lines that end in LF, CRLF or CR. What
//! cannot be read names its line.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::Path;
use std::sync::Arc;

use prost::Message as _;
use url::Url;

use crate::cli::args::Usage;
use crate::cli::urls;
use crate::imports::Kind;
use crate::pb;

/// The longest line of a list, in bytes. A longer line is not a URL, and a file without line ends must not fill the memory.
const LINE_BYTES_MAX: usize = 64 << 10;
/// A line that goes on beyond this has no end: a device, or a file of something else.
const ENDLESS_BYTES: u64 = 64 << 20;
/// Bad lines after which a list is not read any further.
const WRONG_MAX: usize = 10_000;
/// The largest job file, in bytes. A server takes messages of 16 MiB.
const JOB_BYTES_MAX: u64 = 64 << 20;

/// Where an entry stands: in a list, at a line from 1 on, or on the command line.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Place(Option<(Arc<str>, u64)>);

impl Place {
    /// Makes that of a line of a list, which messages call so.
    pub(crate) fn line(list: &Arc<str>, line: u64) -> Place {
        Place(Some((Arc::clone(list), line)))
    }

    /// Returns whether it is on the command line.
    pub(crate) fn is_typed(&self) -> bool {
        self.0.is_none()
    }

    /// Says what is wrong there.
    pub(crate) fn says(&self, what: &str) -> String {
        self.0.as_ref().map_or_else(|| what.to_owned(), |(list, line)| format!("{list}, line {line}: {what}"))
    }
}

/// A URL of a list.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    /// Where it stands.
    pub(crate) place: Place,
    /// The URL as it is written there.
    pub(crate) text: String,
    /// The same, parsed.
    pub(crate) url: Url,
    /// The task, where the list says more of it than its URL.
    pub(crate) task: Option<Box<pb::TaskSpec>>,
}

impl Entry {
    /// Reads a URL of the command line.
    pub(crate) fn typed(text: &str) -> Result<Entry, String> {
        Ok(Entry { place: Place::default(), url: urls::read(text)?, text: text.to_owned(), task: None })
    }

    /// What tells the entry from others.
    pub(crate) fn bytes(&self) -> Cow<'_, [u8]> {
        match &self.task {
            Some(task) => Cow::Owned(task.encode_to_vec()),
            None => Cow::Borrowed(self.text.as_bytes()),
        }
    }

    /// The task, which is of this kind unless the list says more.
    pub(crate) fn task(&self, kind: Kind) -> pb::TaskSpec {
        self.task.as_ref().map_or_else(|| kind.task(&self.text), |task| (**task).clone())
    }
}

/// Why a list cannot be read, or not all of it.
#[derive(Debug)]
pub(crate) enum ListError {
    /// A line is not a URL; the lines after it can be read.
    Line(String),
    /// Nothing more can be read.
    End(String),
}

/// Opens a file, or stdin for `-`. Returns what it is called in messages, too.
pub(crate) fn open(path: &Path) -> Result<(String, Box<dyn Read + Send>), Usage> {
    if path == Path::new("-") {
        return Ok(("stdin".to_owned(), Box::new(io::stdin())));
    }
    let name = format!("`{}`", path.display());
    // A directory opens, and only its reading would fail.
    let opened = File::open(path)
        .and_then(|file| if file.metadata()?.is_dir() { Err(ErrorKind::IsADirectory.into()) } else { Ok(file) });
    match opened {
        Ok(file) => Ok((name, Box::new(file))),
        Err(error) => Err(Usage(format!("cannot read {name}: {error}"))),
    }
}

/// Reads a job file: its text, whichever encoding it has.
pub(crate) fn read_job(path: &Path) -> Result<String, Usage> {
    let (name, reader) = open(path)?;
    let mut bytes = Vec::new();
    let read = reader.take(JOB_BYTES_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|error| Usage(format!("cannot read {name}: {error}")))?;
    if bytes.len() as u64 > JOB_BYTES_MAX {
        return Err(Usage(format!("{name} is larger than 64 MiB; submit an open job, and its tasks with `haul add`")));
    }
    let (encoding, mark) = Encoding::of(&bytes);
    let text = decoded(encoding, &bytes[mark..]).map_err(|at| {
        let line = bytes[..at + mark].split(|byte| *byte == b'\n').count();
        Usage(format!("{name}, line {line}: {}; save the file as UTF-8", encoding.complaint()))
    })?;
    if text.trim().is_empty() { Err(Usage(format!("{name} is empty; it holds no job"))) } else { Ok(text) }
}

/// The entries of a list, or all that is wrong with it.
pub(crate) fn collected(list: impl Iterator<Item = Result<Entry, ListError>>) -> Result<Vec<Entry>, Usage> {
    /// Bad lines that are named.
    const NAMED_MAX: usize = 20;
    let (mut entries, mut wrong) = (Vec::new(), Vec::new());
    for entry in list {
        match entry {
            Ok(entry) => entries.push(entry),
            Err(ListError::Line(message) | ListError::End(message)) => wrong.push(message),
        }
        if wrong.len() >= WRONG_MAX {
            break;
        }
    }
    if wrong.is_empty() {
        return Ok(entries);
    }
    let more = wrong.len().saturating_sub(NAMED_MAX);
    let least = if wrong.len() >= WRONG_MAX { "at least " } else { "" };
    wrong.truncate(NAMED_MAX);
    if more > 0 {
        wrong.push(format!("and {least}{more} more"));
    }
    Err(Usage(wrong.join("\n")))
}

/// How the characters of a file are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Utf8,
    Utf16Le,
    Utf16Be,
    /// Known by its mark, and read by nobody.
    Utf32,
}

impl Encoding {
    /// The encoding of a text that begins with these bytes, and the length of its mark. Without a mark, a text whose first
    /// character is an ASCII one beside a zero is UTF-16.
    fn of(head: &[u8]) -> (Encoding, usize) {
        match head {
            [0xef, 0xbb, 0xbf, ..] => (Encoding::Utf8, 3),
            [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => (Encoding::Utf32, 4),
            [0xff, 0xfe, ..] => (Encoding::Utf16Le, 2),
            [0xfe, 0xff, ..] => (Encoding::Utf16Be, 2),
            [first, 0, ..] if *first != 0 => (Encoding::Utf16Le, 0),
            [0, second, ..] if *second != 0 => (Encoding::Utf16Be, 0),
            _ => (Encoding::Utf8, 0),
        }
    }

    fn unit_bytes(self) -> usize {
        if matches!(self, Encoding::Utf8) { 1 } else { 2 }
    }

    fn unit(self, bytes: &[u8]) -> u16 {
        match (self, bytes) {
            (Encoding::Utf16Be, [high, low]) => u16::from_be_bytes([*high, *low]),
            (_, [low, high]) => u16::from_le_bytes([*low, *high]),
            (_, bytes) => bytes.first().map_or(0, |byte| u16::from(*byte)),
        }
    }

    fn complaint(self) -> &'static str {
        match self {
            Encoding::Utf8 => "this is not UTF-8",
            Encoding::Utf16Le | Encoding::Utf16Be => "this is not UTF-16, though the file begins as such",
            Encoding::Utf32 => "the file is UTF-32, which is not read",
        }
    }
}

/// The text of bytes, or where they stop being text.
fn decoded(encoding: Encoding, bytes: &[u8]) -> Result<String, usize> {
    match encoding {
        Encoding::Utf8 => std::str::from_utf8(bytes).map(str::to_owned).map_err(|error| error.valid_up_to()),
        Encoding::Utf32 => Err(0),
        Encoding::Utf16Le | Encoding::Utf16Be => {
            let units = bytes.chunks(2).map(|pair| if pair.len() == 2 { encoding.unit(pair) } else { 0xd800 });
            let mut text = String::with_capacity(bytes.len() / 2);
            let mut at = 0;
            for letter in char::decode_utf16(units) {
                let letter = letter.map_err(|_| at)?;
                at += letter.len_utf16() * 2;
                text.push(letter);
            }
            Ok(text)
        }
    }
}

/// The URLs of a list, one a line; `#` at the beginning of a line, or after a space, begins a comment.
pub(crate) struct List {
    name: Arc<str>,
    reader: BufReader<Box<dyn Read + Send>>,
    encoding: Encoding,
    /// Bytes that were read to find the encoding out.
    head: Vec<u8>,
    line: u64,
    /// The last line ended in CR: an LF behind it is of the same end.
    after_cr: bool,
    is_over: bool,
}

/// A line as it was read.
enum Raw {
    Bytes(Vec<u8>),
    TooLong { is_comment: bool },
    Endless,
}

impl List {
    pub(crate) fn open(path: &Path) -> Result<List, Usage> {
        let (name, reader) = open(path)?;
        List::new(name.clone(), reader).map_err(|error| Usage(format!("cannot read {name}: {error}")))
    }

    pub(crate) fn new(name: String, reader: Box<dyn Read + Send>) -> io::Result<List> {
        let mut reader = BufReader::new(reader);
        let mut head = Vec::new();
        reader.by_ref().take(4).read_to_end(&mut head)?;
        let (encoding, mark) = Encoding::of(&head);
        // Read from its end.
        head.drain(..mark);
        head.reverse();
        Ok(List { name: name.into(), reader, encoding, head, line: 0, after_cr: false, is_over: false })
    }

    fn place(&self) -> Place {
        Place::line(&self.name, self.line)
    }

    fn wrong(&self, what: &str) -> String {
        self.place().says(what)
    }

    /// The next line without its end; `None` behind the last.
    fn next_line(&mut self) -> io::Result<Option<Raw>> {
        let (mut line, mut bytes, mut is_comment) = (Vec::new(), 0_u64, false);
        loop {
            let mut unit = [0; 2];
            let size = self.encoding.unit_bytes();
            let read = self.fill(&mut unit[..size])?;
            if read == 0 {
                self.is_over = true;
                break;
            }
            let end = if read == size { self.encoding.unit(&unit[..size]) } else { 0 };
            let is_second_half = std::mem::take(&mut self.after_cr) && end == u16::from(b'\n');
            if is_second_half {
                continue;
            }
            if end == u16::from(b'\n') || end == u16::from(b'\r') {
                self.after_cr = end == u16::from(b'\r');
                bytes += 1;
                break;
            }
            is_comment |= bytes == 0 && end == u16::from(b'#');
            bytes += read as u64;
            if bytes <= LINE_BYTES_MAX as u64 {
                line.extend_from_slice(&unit[..read]);
            } else if bytes > ENDLESS_BYTES {
                self.line += 1;
                return Ok(Some(Raw::Endless));
            }
        }
        if bytes == 0 {
            return Ok(None);
        }
        self.line += 1;
        let is_whole = bytes <= LINE_BYTES_MAX as u64 + 1;
        Ok(Some(if is_whole { Raw::Bytes(line) } else { Raw::TooLong { is_comment } }))
    }

    /// Reads up to as many bytes as `unit` holds.
    fn fill(&mut self, unit: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < unit.len() {
            if let Some(byte) = self.head.pop() {
                unit[filled] = byte;
                filled += 1;
                continue;
            }
            match self.reader.read(&mut unit[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// The URL of a line; `None` when it has none.
    fn entry(&self, line: &[u8]) -> Result<Option<Entry>, String> {
        // In bytes: a comment may be of any encoding.
        let line = if self.encoding == Encoding::Utf8 { before_comment(line) } else { line };
        let text = decoded(self.encoding, line)
            .map_err(|_| format!("{}; save the list as UTF-8, or percent-encode the URL", self.encoding.complaint()))?;
        let text = if self.encoding == Encoding::Utf8 {
            text.as_str()
        } else {
            std::str::from_utf8(before_comment(text.as_bytes())).unwrap_or_default()
        };
        // A mark within the text is left of files that were put together.
        let text = text.trim_matches(|letter: char| letter.is_whitespace() || letter == '\u{feff}');
        if text.is_empty() || text.starts_with('#') {
            return Ok(None);
        }
        Ok(Some(Entry { place: self.place(), text: text.to_owned(), url: urls::read(text)?, task: None }))
    }
}

/// What stands before a comment: `#` begins one, unless it is of a word, as the fragment of a URL is.
fn before_comment(line: &[u8]) -> &[u8] {
    let begins = |at: &usize| line[*at] == b'#' && (*at == 0 || line[*at - 1].is_ascii_whitespace());
    (0..line.len()).find(begins).map_or(line, |at| &line[..at])
}

impl Iterator for List {
    type Item = Result<Entry, ListError>;

    fn next(&mut self) -> Option<Result<Entry, ListError>> {
        while !self.is_over {
            if self.encoding == Encoding::Utf32 {
                self.is_over = true;
                let message = format!("{}: {}; save it as UTF-8", self.name, self.encoding.complaint());
                return Some(Err(ListError::End(message)));
            }
            let line = match self.next_line() {
                Ok(None) => return None,
                Ok(Some(Raw::Bytes(line))) => line,
                Ok(Some(Raw::TooLong { is_comment: true })) => continue,
                Ok(Some(Raw::TooLong { is_comment: false })) => {
                    let message = self.wrong("the line is longer than 64 KiB, so it is not a URL");
                    return Some(Err(ListError::Line(message)));
                }
                Ok(Some(Raw::Endless)) => {
                    self.is_over = true;
                    let message = self.wrong("the line does not end within 64 MiB, so this is not a list of URLs");
                    return Some(Err(ListError::End(message)));
                }
                Err(error) => {
                    self.is_over = true;
                    return Some(Err(ListError::End(format!("cannot read {}: {error}", self.name))));
                }
            };
            match self.entry(&line) {
                Ok(None) => {}
                Ok(Some(entry)) => return Some(Ok(entry)),
                Err(what) => return Some(Err(ListError::Line(self.wrong(&what)))),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(bytes: &[u8]) -> Vec<Result<(u64, String), String>> {
        let list = List::new("`list`".to_owned(), Box::new(io::Cursor::new(bytes.to_vec()))).unwrap();
        let text = |error| match error {
            ListError::Line(message) | ListError::End(message) => message,
        };
        let read = |entry: Entry| (entry.place.0.unwrap().1, entry.text);
        list.map(|entry| entry.map(read).map_err(text)).collect()
    }

    fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(bytes).collect()
    }

    #[test]
    fn lists_of_all_systems_are_read() {
        let good = vec![Ok((1, "http://a/1".to_owned())), Ok((3, "http://a/ü 2".to_owned()))];
        let text = "http://a/1\n# a comment\nhttp://a/ü 2 # with spaces\n\n";
        let crlf = text.replace('\n', "\r\n");
        let marked = format!("\u{feff}{crlf}");
        for bytes in [
            text.into(),
            text.trim_end().into(),
            crlf.as_bytes().into(),
            marked.as_bytes().into(),
            text.replace('\n', "\r").into(),
            utf16(&marked, u16::to_le_bytes),
            utf16(&marked, u16::to_be_bytes),
            utf16(text, u16::to_le_bytes),
            utf16(text, u16::to_be_bytes),
            [b"\xef\xbb\xbf", text.as_bytes()].concat(),
            text.replace("a comment", "X")
                .into_bytes()
                .iter()
                .map(|byte| if *byte == b'X' { 0xfc } else { *byte })
                .collect(),
        ] {
            assert_eq!(list(&bytes), good, "{}", String::from_utf8_lossy(&bytes));
        }
        let joined = "http://a/1\n\u{feff}http://a/2\n";
        assert_eq!(list(joined.as_bytes())[1], Ok((2, "http://a/2".to_owned())));
        assert_eq!(list(b"http://a/x#part\n")[0], Ok((1, "http://a/x#part".to_owned())));
        assert!(list(b"").is_empty() && list(b"\xff\xfe").is_empty() && list(b"h").len() == 1);
    }

    #[test]
    fn what_is_no_list_ends() {
        let endless = List::new("`zero`".to_owned(), Box::new(io::repeat(b'x'))).unwrap();
        let read: Vec<_> = endless.collect();
        let [Err(ListError::End(message))] = &read[..] else { panic!("{read:?}") };
        assert!(message.starts_with("`zero`, line 1: the line does not end"), "{message}");
        let wrong = List::new("`y`".to_owned(), Box::new(Repeated(b"y\n"))).unwrap();
        let message = collected(wrong).unwrap_err().to_string();
        assert!(message.ends_with("\nand at least 9980 more"), "{message}");
        let comment = [b"# ".to_vec(), vec![b'x'; 1 << 20], b"\nhttp://a/\n".to_vec()].concat();
        assert_eq!(list(&comment), [Ok((2, "http://a/".to_owned()))]);
    }

    /// A text again and again, without end.
    struct Repeated(&'static [u8]);

    impl Read for Repeated {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let size = self.0.len().min(into.len());
            into[..size].copy_from_slice(&self.0[..size]);
            Ok(size)
        }
    }

    #[test]
    fn a_bad_line_is_named_and_costs_no_other() {
        let long = [b"http://a/1\nhttp://b/".to_vec(), vec![b'x'; LINE_BYTES_MAX], b"\nhttp://a/3".to_vec()].concat();
        for (bytes, part) in [
            (b"http://a/1\nhttp://a/\xfc\nhttp://a/3".to_vec(), "`list`, line 2: this is not UTF-8"),
            (b"http://a/1\nexample.com/x\nhttp://a/3".to_vec(), "line 2: `example.com/x` is not a URL"),
            (b"http://a/1\nhttp://a/\0\nhttp://a/3".to_vec(), "line 2: "),
            (b"http://a/1\nhttp://a/2\thttp://b/2\nhttp://a/3".to_vec(), "line 2: "),
            (long, "line 2: the line is longer"),
        ] {
            let read = list(&bytes);
            assert!(read[0].is_ok() && read[2].is_ok() && read.len() == 3, "{read:?}");
            assert!(read[1].as_ref().unwrap_err().contains(part), "{read:?}");
        }
        let half = [utf16("\u{feff}http://a/1\nhttp://a/2", u16::to_le_bytes), vec![b'x']].concat();
        assert!(list(&half)[1].as_ref().unwrap_err().contains("line 2: this is not UTF-16"));
        let wide: Vec<u8> = "\u{feff}http://a/".chars().flat_map(|letter| u32::from(letter).to_le_bytes()).collect();
        assert!(list(&wide)[0].as_ref().unwrap_err().contains("UTF-32"));
    }
}
