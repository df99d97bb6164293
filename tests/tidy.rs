//! The rules of the house that no lint knows: who may import whom, how long a file may be, what is not written at all.
//!
//! It reads text and no syntax tree: every rule is a line that somebody else can read, and each finding says what to do
//! instead. What compilers and clippy can see stands in `Cargo.toml` and `clippy.toml`.

#![allow(clippy::expect_used)] // A test ends at the first surprise.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

#[path = "tidy/circles.rs"]
mod circles;

/// Who may name whom, in reading order: words, ports, work, faces. `docs/ARCHITECTURE.md` says why.
#[rustfmt::skip]
const IMPORTS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("pb", &[]),
    ("codec", &["pb"]),
    ("protojson", &["model", "pb"]),
    ("middleware", &[]),
    ("named_file", &[]),
    ("telemetry", &["model", "middleware"]),
    ("clock", &["model"]),
    ("config", &["model", "named_file"]),
    ("vault", &[]),
    ("store", &["model", "named_file", "vault"]),
    ("net", &["model", "telemetry"]),
    ("files", &["model"]),
    ("limits", &["model", "clock", "net", "telemetry"]),
    ("listen", &["model", "named_file"]),
    ("fetch", &["model", "net"]),
    ("download", &["model", "net", "files"]),
    ("engine", &["model", "clock", "telemetry", "store", "net", "files", "limits", "fetch", "download"]),
    ("imports", &["model", "pb"]),
    ("api", &["model", "pb", "codec", "middleware", "store", "listen", "engine"]),
    ("rest", &["model", "pb", "protojson", "imports", "codec", "listen", "api"]),
    ("web", &["model", "telemetry", "api", "rest"]),
    ("server", &["model", "named_file", "pb", "middleware", "telemetry", "clock", "config", "store", "net", "files", "limits", "listen", "fetch", "download", "engine", "api", "rest", "web"]),
    ("cli", &["model", "named_file", "pb", "protojson", "imports", "clock", "config", "telemetry", "engine", "server"]),
];

/// The import circles that exist, each to be deleted by whoever removes it; no new one is allowed.
#[rustfmt::skip]
const CIRCLES: &[&[&str]] = &[
];

/// A file that is longer has two ideas in it.
const FILE_LINES_MAX: usize = 700;

/// Not in any comment, either.
const BANNED_WORDS: &[(&str, &str)] = &[
    (concat!("FIX", "ME"), "mend it now, or open an issue"),
    (concat!("XX", "X"), "say what is wrong in a whole sentence, or open an issue"),
];

/// Not in any code.
const BANNED_CODE: &[(&str, &str)] = &[
    ("todo!", "write it, or leave the feature out of the contract"),
    ("unimplemented!", "write it, or leave the feature out of the contract"),
    ("#[ignore", "make the test quick and steady, or delete it"),
    ("use crate::{", "one `use crate::a::b;` names one path, so that imports can be read line by line"),
    ("super::super", "write the path from `crate::`, where the import table sees it"),
];

/// Whatever changes the disk.
#[rustfmt::skip]
const WRITES: &[&str] = &[
    "fs::write(", "fs::rename(", "fs::copy(", "fs::remove_", "fs::create_dir", "fs::hard_link(", "fs::set_permissions(",
    "fs::symlink", "File::create", "OpenOptions", "DirBuilder", ".set_len(", "tokio::fs",
];

/// Who may change the disk. Add a file of `cli` here, by its name, when a command has to write what a person named.
#[rustfmt::skip]
const WRITERS: &[&str] = &[
    "src/files/", "src/store/", "src/cli/get/scratch.rs", "src/cli/manual.rs", "src/listen/socket.rs", "src/server/audit_log.rs",
];

/// The writing half of the store, and who has business with it.
const WRITING_HALF: (&[&str], &[&str]) =
    (&["WriteStore", "store::Batch"], &["src/store/", "src/engine/", "src/server/"]);

struct Source {
    /// From the root of the repository.
    path: String,
    text: String,
    /// The text with the insides of comments and literals blanked.
    code: String,
}

impl Source {
    /// `engine` for `src/engine/hub.rs` and for `src/engine.rs`; none outside `src`, and for `lib.rs` and `main.rs`.
    fn module(&self) -> Option<&str> {
        let name = self.path.strip_prefix("src/")?.split('/').next()?.trim_end_matches(".rs");
        (name != "lib" && name != "main").then_some(name)
    }

    /// The code without its tests; lines stay where they are.
    fn shipped_code(&self) -> String {
        if self.path.ends_with("tests.rs") { String::new() } else { without_tests(&self.code) }
    }

    /// `engine::hub` for `src/engine/hub.rs`, `engine` for `src/engine/mod.rs`; none where [`Source::module`] has none.
    fn module_path(&self) -> Option<String> {
        self.module()?;
        let path = self.path.strip_prefix("src/")?.trim_end_matches(".rs");
        Some(path.strip_suffix("/mod").unwrap_or(path).replace('/', "::"))
    }

    fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| self.path.starts_with(place))
    }
}

#[test]
fn each_test_that_a_hostile_case_names_is_there() {
    for (path, head, least) in
        [("docs/SECURITY-TESTS.md", "| case | test |", 60), ("docs/SECURITY.md", "| threat | gate | test |", 90)]
    {
        let page = fs::read_to_string(path).expect("the page is there");
        let mut found = 0;
        for row in
            page.split(head).skip(1).flat_map(|table| table.split("\n\n").next().unwrap_or_default().lines().skip(2))
        {
            let quoted = row.split('`').skip(1).step_by(2);
            let (named, places): (Vec<&str>, Vec<&str>) = quoted.partition(|it| it.contains(".rs: "));
            assert!(!named.is_empty(), "`{path}`: no test stands in `{row}`; name one");
            for (file, name) in named.iter().filter_map(|it| it.split_once(".rs: ")) {
                let file = format!("{file}.rs");
                let text = fs::read_to_string(&file).unwrap_or_default();
                assert!(has_test(&text, name), "`{path}`: `{file}` has no test `{name}`; name the one that shows it");
                found += 1;
            }
            for place in places.iter().filter(|it| it.contains('/') && !it.contains(' ')) {
                assert!(
                    !head.contains("gate") || fs::exists(place).expect("it can be looked for"),
                    "`{path}`: there is no `{place}`"
                );
            }
        }
        assert!(found > least, "only {found} tests are named in `{path}`");
    }
    assert!(!has_test("/// A test]\nfn a() {}\n#[test]\nfn bb() {}", "a") && has_test("#[test]\nfn bb() {}", "bb"));
}

/// Whether a file has this test: a function under an attribute that makes it one.
fn has_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_it = |line: &&str| line.split_once("fn ").is_some_and(|(_, rest)| rest.starts_with(&format!("{name}(")));
    lines.iter().position(is_it).is_some_and(|at| {
        let attributes = lines[..at].iter().rev().take_while(|line| line.starts_with("#["));
        attributes.into_iter().any(|line| line.contains("test"))
    })
}

#[test]
fn modules_import_what_they_may() {
    let mut wrong = Vec::new();
    for file in sources(&["src"]) {
        let Some(module) = file.module() else { continue };
        let Some((_, allowed)) = IMPORTS.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!(
                "{}: `{module}` is new; give it a line in IMPORTS and in docs/ARCHITECTURE.md",
                file.path
            ));
            continue;
        };
        for (line, code) in numbered(&file.code) {
            let named =
                code.match_indices("crate::").filter(|(at, _)| !code[..*at].ends_with(is_word)).map(|(at, found)| {
                    let rest = &code[at + found.len()..];
                    rest.split(|letter| !is_word(letter)).next().unwrap_or("")
                });
            for name in named.filter(|name| *name != module && !allowed.contains(name)) {
                wrong.push(format!("{}:{line}: `{module}` must not name `{name}`; let a caller pass it in", file.path));
            }
        }
    }
    assert_none(&wrong);
}

/// A circle has to be read as one file, whatever its listing says.
#[test]
fn files_import_each_other_in_one_direction() {
    let files: Vec<_> =
        sources(&["src"]).into_iter().filter_map(|file| Some((file.module_path()?, file.shipped_code()))).collect();
    let circles = circles::find(&circles::imports(&files));
    assert_none(&circles::judge(&circles, CIRCLES));
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    let mut wrong = Vec::new();
    for Source { path, text, .. } in sources(&["src", "tests", "benches"]) {
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            wrong.push(format!("{path}: {lines} lines, and {FILE_LINES_MAX} is the ceiling; split it by idea"));
        }
        let doc = text.lines().next().unwrap_or_default();
        if !doc.starts_with("//! ") || doc == "//! stub" {
            wrong.push(format!("{path}:1: begin with `//!` and what the file is for, and what it must not know"));
        }
    }
    assert_none(&wrong);
}

#[test]
fn nothing_is_written_that_is_banned() {
    let mut wrong = Vec::new();
    for file in sources(&["src", "tests", "benches"]) {
        let words = BANNED_WORDS.iter().map(|ban| (&file.text, ban));
        let code = BANNED_CODE.iter().map(|ban| (&file.code, ban));
        for (text, (banned, instead)) in words.chain(code) {
            for (line, _) in numbered(text).filter(|(_, content)| content.contains(banned)) {
                wrong.push(format!("{}:{line}: `{banned}`: {instead}", file.path));
            }
        }
    }
    assert_none(&wrong);
}

#[test]
fn the_disk_and_the_store_have_few_writers() {
    let mut wrong = Vec::new();
    for file in sources(&["src"]) {
        for (line, code) in numbered(&file.shipped_code()) {
            for call in WRITES.iter().filter(|call| !file.is_in(WRITERS) && code.contains(**call)) {
                wrong.push(format!("{}:{line}: `{call}`: writing to disk is the work of `files` alone", file.path));
            }
            let (names, places) = WRITING_HALF;
            for name in names.iter().filter(|name| !file.is_in(places) && code.contains(**name)) {
                wrong.push(format!("{}:{line}: `{name}`: every change goes through the engine", file.path));
            }
        }
    }
    assert_none(&wrong);
}

/// `SQLite` plans by the value of a bare `LIMIT ?1` and compiles the statement again each time another one is bound, which
/// costs more than most of these statements do.
#[test]
fn no_statement_is_compiled_for_each_limit() {
    let mut wrong = Vec::new();
    for file in sources(&["src/store"]) {
        for (line, content) in numbered(&file.text) {
            for (_, rest) in content.match_indices("LIMIT ?").map(|(at, found)| content.split_at(at + found.len())) {
                if !rest.trim_start_matches(|letter: char| letter.is_ascii_digit()).starts_with(" + 0") {
                    wrong.push(format!("{}:{line}: write `LIMIT ?1 + 0`", file.path));
                }
            }
        }
    }
    assert_none(&wrong);
}

/// Each reason a client can meet has a heading in `docs/ERRORS.md`, and there is no other heading of that kind.
#[test]
fn every_reason_is_explained() {
    let failures = read("src/model/failure.rs");
    let variants =
        failures.split("pub enum FailureReason {").nth(1).and_then(|rest| rest.split('}').next()).unwrap_or("");
    let mut reasons: BTreeSet<String> = variants
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(|name| upper_snake("FAILURE_REASON", name))
        .collect();
    let waits = read("proto/haul/v1/task.proto");
    let waits = waits.lines().filter_map(|line| line.split(" = ").next()).map(str::trim);
    reasons
        .extend(waits.filter(|it| it.starts_with("WAIT_REASON_") && !it.ends_with("UNSPECIFIED")).map(str::to_owned));
    for file in sources(&["src/api", "src/rest"]) {
        let literals = file.text.split('"').skip(1).step_by(2);
        // `env!("CARGO_…")` is cargo's word; the others are a method of HTTP and codes of gRPC.
        let is_foreign = |it: &str| {
            it.starts_with("CARGO_")
                || matches!(it, "POST" | "PERMISSION_DENIED" | "RESOURCE_EXHAUSTED" | "UNAUTHENTICATED")
        };
        reasons.extend(literals.filter(|it| is_reason(it) && !is_foreign(it)).map(str::to_owned));
        let things = file.text.split("not_found(\"").skip(1).filter_map(|rest| rest.split('"').next());
        reasons.extend(things.map(|thing| format!("{}_NOT_FOUND", thing.to_uppercase())));
    }
    let page = read("docs/ERRORS.md");
    let headings = page.lines().filter_map(|line| line.strip_prefix("### "));
    let explained: BTreeSet<String> = headings.map(|name| name.trim_matches('`').to_owned()).collect();
    let missing = reasons.difference(&explained).map(|name| format!("docs/ERRORS.md: write `### {name}`"));
    let stale = explained.difference(&reasons).map(|name| format!("docs/ERRORS.md: `{name}` does not exist any more"));
    assert_none(&missing.chain(stale).collect::<Vec<_>>());
}

#[test]
fn comments_and_literals_are_no_code() {
    let text = "a(\"crate::x\"); // crate::y\nb('\"', 'c', r#\"\"d\"#); /* e\n */ f::<'g>(\"\\\"h\");";
    let code = blank(text);
    assert_eq!(code.len(), text.len());
    assert_eq!(code.split_whitespace().collect::<String>(), "a(\"\");b('','',r#\"\"#);f::<'g>(\"\");");
}

#[test]
fn tests_are_no_shipped_code() {
    let text = "use a;\n#[cfg(test)]\nuse b;\n#[cfg(test)]\npub(crate) mod tests {\n { c }\n}\nfn d() {}\n#[cfg(test)]\nmod e;";
    let shipped = without_tests(text);
    assert_eq!(shipped.matches('\n').count(), text.matches('\n').count());
    assert_eq!(shipped.split_whitespace().collect::<Vec<_>>(), ["use", "a;", "fn", "d()", "{}"]);
}

fn assert_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} against the rules of the house:\n{}\n", wrong.len(), wrong.join("\n"));
}

fn is_word(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

/// Whether a literal of `api` looks like the reason of an `ErrorInfo`.
fn is_reason(literal: &str) -> bool {
    literal.len() > 3 && literal.chars().all(|letter| letter.is_ascii_uppercase() || letter == '_')
}

fn upper_snake(prefix: &str, name: &str) -> String {
    name.chars().fold(prefix.to_owned(), |mut done, letter| {
        if letter.is_uppercase() {
            done.push('_');
        }
        done.push(letter.to_ascii_uppercase());
        done
    })
}

/// Blanks what stands under `#[cfg(test)]`: up to the end of the item, a `;` or the brace that closes it.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut shipped = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        shipped.push_str(&rest[..at]);
        let mut depth = 0;
        let end = rest[at + MARK.len()..].find(|letter| {
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            depth == 0 && matches!(letter, ';' | '}')
        });
        let end = end.map_or(rest.len(), |end| at + MARK.len() + end + 1);
        shipped.extend(rest[at..end].chars().filter(|letter| *letter == '\n'));
        rest = &rest[end..];
    }
    shipped + rest
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("cannot read `{path}`: {error}"))
}

fn sources(folders: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders: Vec<_> = folders.iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("cannot list `{}`: {error}", folder.display()))
        {
            let path = entry.expect("an entry that can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let path = path.strip_prefix(root()).expect("a path below the root").display().to_string();
                let text = read(&path);
                found.push(Source { code: blank(&text), path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Blanks the insides of comments, strings and characters; lines and lengths stay as they are.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let (open, close, skip) = if rest.starts_with("//") {
            (0, rest.find('\n').unwrap_or(rest.len()), 0)
        } else if rest.starts_with("/*") {
            (0, rest.find("*/").map_or(rest.len(), |end| end + 2), 0)
        } else if let Some(hashes) = raw_hashes(rest, at.checked_sub(1).map(|before| bytes[before])) {
            let open = hashes + 2;
            let end = format!("\"{}", "#".repeat(hashes));
            (open, open + rest[open..].find(&end).unwrap_or(rest.len() - open), end.len())
        } else if rest.starts_with('"') {
            (1, closing(rest, '"'), 1)
        } else if rest.starts_with("'\\") || rest.chars().nth(2) == Some('\'') && rest.starts_with('\'') {
            (1, closing(rest, '\''), 1)
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
            continue;
        };
        for byte in &mut code[at + open..at + close] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at += close + skip;
    }
    String::from_utf8(code).expect("whole characters were blanked")
}

/// How many `#` a raw string that begins here has.
fn raw_hashes(rest: &str, before: Option<u8>) -> Option<usize> {
    if before.is_some_and(|before| is_word(char::from(before)) && before != b'b') {
        return None;
    }
    let marks = rest.strip_prefix('r')?;
    let hashes = marks.bytes().take_while(|byte| *byte == b'#').count();
    marks[hashes..].starts_with('"').then_some(hashes)
}

/// Where the literal that begins here has its closing quote.
fn closing(rest: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, letter) in rest.char_indices().skip(1) {
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if letter == quote => return at,
            _ => {}
        }
    }
    rest.len()
}
