//! Lists of tasks in the formats of other programs, for `haul add` and `haul submit`.

use std::io::{BufRead as _, BufReader, Cursor, Read};
use std::path::Path;
use std::sync::Arc;

use clap::ValueEnum;

use crate::cli::args::Usage;
use crate::cli::json;
use crate::cli::lists::{self, Entry, List, ListError, Place};
use crate::cli::urls;
use crate::imports::download;
use crate::model::import::{self, Item, LINE_BYTES_MAX, Lines, metalink};
use crate::pb;
use crate::pb::task_spec::Work;

/// How much of a list is looked at to find out how it is written.
const HEAD_BYTES: u64 = 64 << 10;

/// How a list is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// The beginning of the list decides
    #[default]
    Auto,
    /// A URL a line
    Urls,
    /// A haul.v1.TaskSpec as JSON a line
    Json,
    /// An input file of aria2
    Aria2,
    /// A Metalink document, version 4 or 3
    Metalink,
}

/// The entries of a list, in their order.
pub(crate) type Entries = Box<dyn Iterator<Item = Result<Entry, ListError>> + Send>;

/// Opens a list of tasks.
pub(crate) fn open(path: &Path, format: Format) -> Result<Entries, Usage> {
    let (name, mut reader) = lists::open(path)?;
    let mut head = Vec::new();
    let unread = |error: std::io::Error| Usage(format!("cannot read {name}: {error}"));
    reader.by_ref().take(HEAD_BYTES).read_to_end(&mut head).map_err(unread)?;
    // What is not UTF-8 is read as a list of URLs, which may have other encodings.
    let text = String::from_utf8_lossy(&head);
    let is_text = !head.contains(&0);
    let format = match format {
        Format::Auto if !is_text => import::Format::Urls,
        Format::Auto => import::Format::guess(&text),
        Format::Urls => import::Format::Urls,
        Format::Json => import::Format::Json,
        Format::Aria2 => import::Format::Aria2,
        Format::Metalink => import::Format::Metalink,
    };
    let mut whole: Box<dyn Read + Send> = Box::new(Cursor::new(head).chain(reader));
    match format {
        import::Format::Urls => {
            let list = List::new(name.clone(), whole).map_err(|error| Usage(format!("cannot read {name}: {error}")))?;
            Ok(Box::new(list))
        }
        import::Format::Metalink => {
            let mut document = String::new();
            let read = whole.by_ref().take(metalink::DOCUMENT_BYTES_MAX as u64 + 1).read_to_string(&mut document);
            read.map_err(|error| Usage(format!("cannot read {name}: {error}")))?;
            if document.len() > metalink::DOCUMENT_BYTES_MAX {
                return Err(Usage(format!(
                    "{name} is larger than 16 MiB, the most that is read of a Metalink document"
                )));
            }
            let files = metalink::files(&document).map_err(|wrong| Usage(format!("{name}, {wrong}")))?;
            let name = name.into();
            Ok(Box::new(files.into_iter().map(move |(line, item)| entry(Place::line(&name, line), item))))
        }
        format => {
            let (reader, lines) = (BufReader::new(whole), Lines::new(format));
            Ok(Box::new(ByLine { name: name.into(), reader, lines, is_over: false }))
        }
    }
}

/// A list that is read line by line.
struct ByLine {
    name: Arc<str>,
    reader: BufReader<Box<dyn Read + Send>>,
    lines: Lines,
    is_over: bool,
}

impl ByLine {
    /// Reads the next line; `None` behind the last.
    fn line(&mut self) -> Result<Option<String>, String> {
        let mut bytes = Vec::new();
        let read = self.reader.by_ref().take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut bytes);
        read.map_err(|error| format!("cannot read {}: {error}", self.name))?;
        let place = Place::line(&self.name, self.lines.line() + 1);
        if bytes.len() > LINE_BYTES_MAX {
            return Err(place.says("the line is longer than 4 MiB"));
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        String::from_utf8(bytes).map(Some).map_err(|_| place.says("this is not UTF-8; save the list as UTF-8"))
    }
}

impl Iterator for ByLine {
    type Item = Result<Entry, ListError>;

    fn next(&mut self) -> Option<Result<Entry, ListError>> {
        while !self.is_over {
            let read = match self.line() {
                Ok(Some(line)) => self.lines.next(&line),
                Ok(None) => {
                    self.is_over = true;
                    Ok(self.lines.end())
                }
                Err(message) => {
                    self.is_over = true;
                    return Some(Err(ListError::End(message)));
                }
            };
            match read {
                Ok(None) => {}
                Ok(Some((line, item))) => {
                    return Some(entry(Place::line(&self.name, line), item));
                }
                Err(wrong) => return Some(Err(ListError::Line(format!("{}, {wrong}", self.name)))),
            }
        }
        None
    }
}

fn entry(place: Place, item: Item) -> Result<Entry, ListError> {
    let read = |text: &str| urls::read(text).map_err(|why| ListError::Line(place.says(&why)));
    let (task, text) = match item {
        Item::Url(text) => return Ok(Entry { url: read(&text)?, place, text, task: None }),
        Item::File(file) => {
            let task = download(*file);
            let text = url_of(&task);
            (task, text)
        }
        Item::Json(text) => {
            let task = json::read_line("haul.v1.TaskSpec", &text);
            let task: pb::TaskSpec = task.map_err(|why| ListError::Line(place.says(&why.to_string())))?;
            let text = url_of(&task);
            (task, text)
        }
    };
    if text.is_empty() {
        let what = match &task.work {
            None => "the task must say what to do: set `fetch` or `download`",
            Some(_) => "the task has no URL; set its `url`",
        };
        return Err(ListError::Line(place.says(what)));
    }
    // The server judges what a task is; what names no URL is wrong whatever it is.
    Ok(Entry { url: read(&text)?, place, text, task: Some(Box::new(task)) })
}

fn url_of(task: &pb::TaskSpec) -> String {
    match &task.work {
        Some(Work::Fetch(fetch)) => fetch.url.clone(),
        Some(Work::Download(download)) => download.url.clone(),
        None => String::new(),
    }
}
