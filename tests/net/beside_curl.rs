//! Answers put together at random, taken by curl and by haul: haul never takes for a success what curl fails, nor other bytes
//! than curl saves, but for what follows. Each time it must have the very content that was meant.
//!
//! | answer | curl | haul | because |
//! |---|---|---|---|
//! | a line without a colon | fails | passes over it | one odd line does not cost an answer, and this one frames nothing |
//! | a NUL in a line that frames nothing | fails | makes it a space | RFC 9110, section 5.5 |
//! | a value behind a fold, of a line that frames the body | reads none | reads it | [`FOLDED`] |
//! | lines of chunks that end with a bare LF, or have blanks | some fail | takes them | RFC 9112, section 2.2 |
//! | `Transfer-Encoding : chunked` | passes over it | reads it | [`BLANK_BEFORE_COLON`] |
//!
//! Each run plays fresh seeds; `HAUL_SEED=N` plays one again.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use futures_util::future::join_all;
use haul::net::HttpClient;

use crate::common::{client, fetch, profile};
use crate::support::faults::{Dice, seeds};

/// At once: most of what they do is to wait for connections that end late.
const PLAYS: u64 = 8;
/// Answers of one play, one after the other over connections that are kept.
const ANSWERS: u64 = 40;
/// How long the origin waits for the next request of a connection. Where the two ends do not agree that an answer is over, it
/// ends by this.
const IDLE: Duration = Duration::from_secs(1);

/// Lines about the framing of which at most some clients make sense, `#` for the length.
const ODD_FRAMINGS: [&str; 24] = [
    "Content-Length: #\r\nContent-Length: 3\r\n",
    "Content-Length: #, #\r\n",
    "Content-Length: #\r\n 1\r\n",
    "Content-Length:\r\n #\r\n",
    "Content-Length: -#\r\n",
    "Content-Length: +#\r\n",
    "Content-Length: #x\r\n",
    "Content-Length: 99999999999999999999999\r\n",
    "Content-Length: 0x#\r\n",
    "Content Length: #\r\n",
    "Content-Length #\r\n",
    "Content_Length: #\r\n",
    "Content-Length\0: #\r\n",
    "Transfer-Encoding: chunked, identity\r\n",
    "Transfer-Encoding: identity, chunked\r\n",
    "Transfer-Encoding: chunked,\r\n",
    "Transfer-Encoding: , chunked ,\t,\r\nContent-Length: #\r\n",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: ,\r\n",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    "Transfer-Encoding: xchunked\r\n",
    "Transfer-Encoding:\r\n chunked\r\n",
    "Transfer-Encoding: \"chunked\"\r\n",
    "Transfer-Encoding\t: chunked\r\n",
    "Transfer-Encoding: identity\r\nContent-Length: #\r\n",
];

/// RFC 9112, section 5.1: who hands a response on takes such a blank out and does not drop the line. Whoever reads it behind such
/// a proxy sees `Transfer-Encoding`, which overrides `Content-Length` (section 6.3). To pass over it, as curl does, would store
/// the chunks with their sizes, or a part of them, as if that were the file.
const BLANK_BEFORE_COLON: &str =
    "curl passes over `Transfer-Encoding : chunked` and `Content-Length : 5`, which haul reads without the blank";

/// RFC 9112, section 5.2: who reads a fold makes it a space before all else.
const FOLDED: &str = "curl reads nothing behind a fold in the value of a line that frames the body";

/// No size of a chunk begins with this.
const NO_CHUNK: &[u8] = b"x";

/// What curl says of a head with a line that is no header.
const ODD_LINE: &str = "Header without colon";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_curl_would_not_take_is_no_success() {
    if !Command::new("curl").arg("--version").output().is_ok_and(|output| output.status.success()) {
        skipped("there is no curl");
        return;
    }
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = origin.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in origin.incoming() {
            let stream = stream.unwrap();
            std::thread::spawn(move || serve(stream));
        }
    });
    let plays = join_all(seeds(PLAYS).into_iter().map(|seed| play(&address, seed))).await;
    let (successes, all) = plays.into_iter().fold((0, 0), |sum, play| (sum.0 + play, sum.1 + ANSWERS));
    assert!(successes * 3 > all, "only {successes} of {all} answers are taken, which tells little of the others");
}

/// Returns how many answers haul took.
async fn play(address: &str, seed: u64) -> u64 {
    let (client, mut successes) = (client(), 0);
    let paths: Vec<String> = (0..ANSWERS).map(|nth| format!("{seed}/{nth}")).collect();
    let urls: Vec<String> = paths.iter().map(|path| format!("http://{address}/{path}")).collect();
    let theirs = {
        let (address, paths) = (address.to_owned(), paths.clone());
        tokio::task::spawn_blocking(move || taken_by_curl(&address, &paths))
    };
    let ours = taken_by_haul(&client, &urls).await;
    for (nth, (ours, theirs)) in ours.into_iter().zip(theirs.await.unwrap()).enumerate() {
        let answer = Answer::of(seed, nth as u64);
        let is_argued =
            |why: &str| why.contains(ODD_LINE) || answer.more_than_curl.is_some() || answer.otherwise.is_some();
        let is_right = match (&ours, &theirs) {
            (Ok(ours), Ok(theirs)) => ours == theirs || (answer.otherwise.is_some() && *ours == answer.content),
            (Ok(ours), Err(why)) => is_argued(why) && *ours == answer.content,
            (Err(_), _) => true,
        };
        assert!(
            is_right,
            "HAUL_SEED={seed}, answer {nth}\nhaul: {}\ncurl: {}\n{answer:?}",
            shown(&ours),
            shown(&theirs)
        );
        successes += u64::from(ours.is_ok());
    }
    successes
}

/// Said past what keeps the output of tests that pass, so that nobody takes this one for passed.
fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: answers beside curl: {why}");
}

fn shown(end: &Result<Vec<u8>, String>) -> String {
    match end {
        Ok(bytes) => format!("{} bytes: {:?}", bytes.len(), String::from_utf8_lossy(&bytes[..bytes.len().min(300)])),
        Err(why) => why.clone(),
    }
}

async fn taken_by_haul(client: &HttpClient, urls: &[String]) -> Vec<Result<Vec<u8>, String>> {
    let profile = profile(|_| {});
    let mut taken = Vec::new();
    for url in urls {
        let end = tokio::time::timeout(IDLE * 10, fetch(client, url, &profile)).await.unwrap();
        taken.push(end.map(|(_, body)| body).map_err(|failure| failure.to_string()));
    }
    taken
}

/// Each answer over a connection of its own: curl takes what comes unasked behind one answer for the next.
fn taken_by_curl(address: &str, paths: &[String]) -> Vec<Result<Vec<u8>, String>> {
    let place = tempfile::tempdir().unwrap();
    let file = |nth: usize| place.path().join(nth.to_string());
    let mut curl = Command::new("curl");
    curl.args(["--disable", "--silent", "--noproxy", "*", "--http1.1", "--max-time", "30"]);
    curl.args(["--write-out", "%{exitcode} %{errormsg}\n"]);
    // Whatever the host is called, it is there. It keeps no connection for another name.
    curl.arg("--connect-to").arg(format!("::{address}"));
    for (nth, path) in paths.iter().enumerate() {
        curl.arg("--output").arg(file(nth)).arg(format!("http://host-{nth}.test/{path}"));
    }
    let said = String::from_utf8_lossy(&curl.output().unwrap().stdout).into_owned();
    let codes: Vec<&str> = said.lines().collect();
    assert_eq!(codes.len(), paths.len(), "{said}");
    let end = |(nth, code): (usize, &&str)| match code.split(' ').next() {
        // It makes no file where there is nothing to put into it.
        Some("0") => Ok(std::fs::read(file(nth)).unwrap_or_default()),
        _ => Err((*code).to_owned()),
    };
    codes.iter().enumerate().map(end).collect()
}

/// One connection: each path has its answer, whoever asks, and how often.
fn serve(mut stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(IDLE)).unwrap();
    let mut request = Vec::new();
    loop {
        let mut piece = [0; 4096];
        match stream.read(&mut piece) {
            Ok(count) if count > 0 => request.extend_from_slice(&piece[..count]),
            _ => return,
        }
        if !request.ends_with(b"\r\n\r\n") {
            continue;
        }
        let text = String::from_utf8_lossy(&request).into_owned();
        let mut path = text.split(' ').nth(1).unwrap().split('/').skip(1).map(|number| number.parse().unwrap());
        let answer = Answer::of(path.next().unwrap(), path.next().unwrap());
        request.clear();
        if answer.send(&mut stream).is_err() || answer.end != End::Kept {
            return;
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Kept,
    Fin,
    Reset,
}

struct Answer {
    bytes: Vec<u8>,
    /// What is behind this goes out at once: the end of the answer, and what nobody has asked for.
    last: usize,
    /// Where else it is cut on its way.
    cuts: Vec<usize>,
    end: End,
    content: Vec<u8>,
    /// Why haul may take it where curl does not.
    more_than_curl: Option<&'static str>,
    /// Why haul may read another body than curl does.
    otherwise: Option<&'static str>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Answer { bytes, last, cuts, end, content, more_than_curl, otherwise } = self;
        writeln!(f, "{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(8_000)]))?;
        let lengths = (bytes.len(), content.len());
        write!(
            f,
            "{lengths:?} bytes, last piece from {last}, cut at {cuts:?}, {end:?}, {more_than_curl:?}, {otherwise:?}"
        )
    }
}

impl Answer {
    fn send(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        let mut from = 0;
        for cut in self.cuts.iter().chain([&self.last, &self.bytes.len()]) {
            stream.write_all(&self.bytes[from..*cut])?;
            if from % 3 == 0 && *cut < self.bytes.len() {
                // Long enough for most of what was written to be read before the next.
                std::thread::sleep(Duration::from_micros(300));
            }
            from = *cut;
        }
        match self.end {
            End::Kept => {}
            End::Fin => stream.shutdown(Shutdown::Write)?,
            End::Reset => socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO))?,
        }
        Ok(())
    }

    fn of(seed: u64, nth: u64) -> Answer {
        let dice = Dice::new(seed ^ nth.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Draft { dice, is_open: false, is_marked: false, more_than_curl: None, otherwise: None }.answer()
    }
}

struct Draft {
    dice: Dice,
    /// The body ends with its connection.
    is_open: bool,
    /// The content begins with [`NO_CHUNK`].
    is_marked: bool,
    more_than_curl: Option<&'static str>,
    otherwise: Option<&'static str>,
}

impl Draft {
    fn pick<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.dice.below(all.len() as u64) as usize]
    }

    fn answer(mut self) -> Answer {
        let mut content = self.content();
        let status = if self.dice.one_in(6) { self.pick(&["204", "304", "206", "299", "404", "500"]) } else { "200" };
        let has_body = !matches!(status, "204" | "304");
        let version = if self.dice.one_in(5) { "HTTP/1.0" } else { "HTTP/1.1" };
        let mut head = Vec::new();
        while self.dice.one_in(6) {
            let interim = self.pick(&["100 Continue", "102 Processing", "103 Early Hints", "199 Odd"]);
            head.extend(format!("HTTP/1.1 {interim}\r\n").bytes());
            let lines = self.lines();
            head.extend(lines.concat());
            head.extend(b"\r\n");
        }
        let (space, reason) = (self.pick(&[" ", " ", " ", "  "]), self.pick(&[" OK", "", " ", " Fine  "]));
        head.extend(format!("{version}{space}{status}{reason}").bytes());
        head.extend(self.line_end());
        let mut lines = self.lines();
        let (framing, body, mut end) = self.body(&content);
        if self.is_marked {
            content.splice(0..0, NO_CHUNK.iter().copied());
        }
        if version == "HTTP/1.0" && self.dice.one_in(2) {
            lines.push(b"Connection: keep-alive\r\n".to_vec());
        }
        for line in framing {
            let at = self.dice.below(lines.len() as u64 + 1) as usize;
            lines.insert(at, line);
        }
        head.extend(lines.concat());
        head.extend(self.pick(&["\r\n", "\r\n", "\r\n", "\n"]).bytes());
        let mut bytes = [&head[..], &body].concat();
        // Of an answer without a body, all that would be one is what nobody has asked for.
        let mut last = if has_body { bytes.len().saturating_sub(1) } else { head.len() - 1 };
        if self.dice.one_in(8) && bytes.len() > 1 {
            let shorter = 1 + self.dice.below(bytes.len() as u64 - 1) as usize;
            bytes.truncate(shorter);
            if self.is_open {
                // Nothing tells that there was to be more.
                content = bytes.get(head.len()..).unwrap_or_default().to_vec();
            }
            last = last.min(shorter - 1);
            // A reset may overtake an answer that is whole.
            end = if has_body && self.dice.one_in(3) { End::Reset } else { End::Fin };
        } else if end == End::Kept && self.dice.one_in(10) {
            bytes.extend(self.pick(&["x", "\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong"]).bytes());
        }
        let mut cuts: Vec<usize> = (0..self.dice.below(5)).map(|_| self.dice.below(last as u64 + 1) as usize).collect();
        cuts.sort_unstable();
        let content = if has_body { content } else { Vec::new() };
        Answer { bytes, last, cuts, end, content, more_than_curl: self.more_than_curl, otherwise: self.otherwise }
    }

    /// Bytes that could be taken for something else.
    fn content(&mut self) -> Vec<u8> {
        let length = match self.dice.below(8) {
            0 => 0,
            1..=3 => self.dice.below(20),
            4..=6 => self.dice.below(3_000),
            _ => self.dice.below(60_000),
        };
        let mut content = Vec::new();
        while (content.len() as u64) < length {
            let word = self.pick(&[
                "0\r\n\r\n",
                "a",
                "5\r\n",
                "HTTP/1.1 200 OK\r\n\r\n",
                "\n",
                "\r",
                "Content-Length: 1\r\n",
                "\0",
            ]);
            content.extend(word.bytes());
        }
        content.truncate(length as usize);
        content
    }

    fn line_end(&mut self) -> &'static [u8] {
        match self.dice.below(10) {
            0 => b"\n",
            1 => b"\r\r\n",
            _ => b"\r\n",
        }
    }

    /// Header lines that frame nothing.
    fn lines(&mut self) -> Vec<Vec<u8>> {
        let count = match self.dice.below(8) {
            0 => self.dice.below(200),
            1 => 60 + self.dice.below(10),
            _ => self.dice.below(8),
        };
        let odd = if self.dice.one_in(3) { 2 } else { 40 };
        (0..count).map(|_| self.line(odd)).collect()
    }

    fn line(&mut self, odd: u64) -> Vec<u8> {
        let name = self.pick(&["X-A", "X-A", "Server", "ETag", "Set-Cookie", "Content-Type", "Link", "Connection"]);
        let value = if name == "Connection" {
            self.pick(&["keep-alive", "Keep-Alive, x"])
        } else {
            self.pick(&["a", "\"b\"", "", "c: d"])
        };
        let mut line = format!("{name}: {value}").into_bytes();
        if self.dice.one_in(odd) {
            match self.dice.below(11) {
                0 => line = b"a line of text".to_vec(),
                1 => line = format!("{name} : {value}").into_bytes(),
                2 => line = format!("{name}:: {value}").into_bytes(),
                3 => line = format!(": {value}").into_bytes(),
                4 => line.extend("v".repeat(self.dice.below(3_000) as usize).bytes()),
                5 => line.extend(b"\r\n folded\r\n\tagain: twice"),
                6 => line.extend(b"\xe4\xff"),
                7 => line.extend(b" a\rb\x07"),
                8 => line = format!("{}: {value}", "n".repeat(self.dice.below(400) as usize)).into_bytes(),
                9 => line = b"X Y: z".to_vec(),
                _ => {
                    line.extend(b"\0");
                    self.more_than_curl = Some("curl refuses a NUL in a line");
                }
            }
        }
        line.extend(self.line_end());
        line
    }

    /// The lines that frame the body, the body, and how its connection ends.
    fn body(&mut self, content: &[u8]) -> (Vec<Vec<u8>>, Vec<u8>, End) {
        let length = content.len();
        let kept = if self.dice.one_in(6) { End::Fin } else { End::Kept };
        let chunked = |name: &str| format!("{name}: chunked\r\n").into_bytes();
        match self.dice.below(12) {
            0..=3 => {
                let spelling = self.pick(&[
                    "Content-Length: #",
                    "content-length:#",
                    "Content-Length : #",
                    "CONTENT-LENGTH:   #  ",
                    "Content-Length: 00#",
                ]);
                if spelling.contains(" :") {
                    self.otherwise = Some(BLANK_BEFORE_COLON);
                }
                let line = format!("{}\r\n", spelling.replace('#', &length.to_string())).into_bytes();
                let count = if self.dice.one_in(6) { 1 + self.dice.below(60) as usize } else { 1 };
                (vec![line; count], content.to_vec(), kept)
            }
            4..=7 => {
                let name = self.pick(&["Transfer-Encoding", "transfer-encoding", "Transfer-Encoding "]);
                if name.ends_with(' ') {
                    self.otherwise = Some(BLANK_BEFORE_COLON);
                }
                let mut lines = vec![chunked(name)];
                if self.dice.one_in(6) {
                    lines.push(format!("Content-Length: {}\r\n", self.dice.below(20)).into_bytes());
                }
                (lines, self.chunks(content), kept)
            }
            8 | 9 => {
                let mut lines = Vec::new();
                if self.dice.one_in(2) {
                    lines.push(b"Connection: close\r\n".to_vec());
                }
                if self.dice.one_in(4) {
                    lines.push(b"Transfer-Encoding: identity\r\n".to_vec());
                }
                self.is_open = true;
                (lines, content.to_vec(), if self.dice.one_in(5) { End::Reset } else { End::Fin })
            }
            _ => {
                let odd = self.pick(&ODD_FRAMINGS);
                if odd.contains("Encoding\t:") {
                    self.otherwise = Some(BLANK_BEFORE_COLON);
                }
                if odd.contains(":\r\n ") {
                    (self.more_than_curl, self.otherwise) = (Some(FOLDED), Some(FOLDED));
                }
                let body = if !odd.contains("chunked") {
                    content.to_vec()
                } else if self.otherwise.is_some() || self.dice.one_in(2) {
                    self.chunks(content)
                } else {
                    // Else it might look like chunks, which who reads the line would be right to read.
                    self.is_marked = true;
                    [NO_CHUNK, content].concat()
                };
                (vec![odd.replace('#', &length.to_string()).into_bytes()], body, End::Fin)
            }
        }
    }

    fn chunks(&mut self, content: &[u8]) -> Vec<u8> {
        const LENIENT: &str =
            "chunks whose lines end with a bare LF, or have blanks, as haul reads them and not every curl";
        let (is_odd, mut body, mut rest) = (self.dice.one_in(4), Vec::new(), content);
        let least = content.len() as u64 / 50 + 1;
        if is_odd {
            self.more_than_curl = Some(LENIENT);
        }
        while !rest.is_empty() {
            let (chunk, more) = rest.split_at(((least + self.dice.below(least * 4)) as usize).min(rest.len()));
            rest = more;
            let size = match self.dice.below(4) {
                0 => format!("{:X}", chunk.len()),
                1 => format!("00{:x}", chunk.len()),
                _ => format!("{:x}", chunk.len()),
            };
            let extension = if self.dice.one_in(5) { self.pick(&[";a=b", ";a=\"b;c\"", ";"]) } else { "" };
            let (blank, end) =
                if is_odd { (self.pick(&["", " ", "\t"]), self.pick(&["\n", "\r\n"])) } else { ("", "\r\n") };
            body.extend(format!("{size}{blank}{extension}{end}").bytes());
            body.extend(chunk);
            body.extend(end.bytes());
        }
        let trailers = if self.dice.one_in(4) { self.pick(&["A: b\r\n", "Content-Length: 5\r\nX: y\r\n"]) } else { "" };
        let folded = if is_odd && self.dice.one_in(4) { "A: b\r\n folded\r\n" } else { "" };
        body.extend(format!("0\r\n{trailers}{folded}\r\n").bytes());
        body
    }
}
