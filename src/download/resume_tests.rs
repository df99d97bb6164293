//! The resume decision table.

use super::*;
use crate::files::part::Binding;
use crate::files::ranges::RangeSet;

const OLD: &str = "Tue, 01 Sep 2026 10:00:00 GMT";
const OTHER: &str = "Tue, 01 Sep 2026 11:00:00 GMT";
const SECONDS_LATER: &str = "Tue, 01 Sep 2026 10:00:05 GMT";
const LATER: &str = "Wed, 02 Sep 2026 10:00:00 GMT";

fn version(etag: &str, last_modified: &str, date: &str, total: Option<u64>) -> Version {
    Version { etag: etag.into(), last_modified: last_modified.into(), date: date.into(), total }
}

fn stored(version: Version) -> Stored {
    let mut ranges = RangeSet::default();
    ranges.add(0..40);
    Stored { binding: Binding { version, content_type: "application/zip".into(), ..Binding::default() }, ranges }
}

fn whole_of(version: Version) -> Answer {
    Answer { status: 200, version, ..Answer::default() }
}

fn part_of(version: Version, first: u64, last: u64) -> Answer {
    let content_range = Some(ContentRange::Bytes { first, last, total: version.total });
    Answer { status: 206, content_range, version, ..Answer::default() }
}

/// The exchanges until there is a verdict that is not to ask again; `answers` are given in order, the last for ever.
fn play(stored: &Stored, answers: &[Answer], trust: Trust) -> String {
    let mut ask = first_ask(Some(stored), trust);
    let mut lines = Vec::new();
    for nth in 0.. {
        assert!(nth < 4, "asks for ever");
        let answer = &answers[nth.min(answers.len() - 1)];
        let verdict = decide(Some(stored), &ask, answer, trust);
        let range = ask.range.as_ref().map_or("whole".to_owned(), |range| format!("{}-", range.start));
        let condition = if ask.if_range.is_empty() { String::new() } else { format!(" if {}", ask.if_range) };
        let shown = match &verdict {
            Verdict::AskAgain(_) => "ask again".to_owned(),
            Verdict::Begin(Some(why)) => format!("begin: {why}"),
            Verdict::Refuse(failure) => format!("refuse: {failure}"),
            other => format!("{other:?}"),
        };
        lines.push(format!("    {range}{condition} -> {} -> {shown}", answer.status));
        match verdict {
            Verdict::AskAgain(next) => ask = next,
            _ => break,
        }
    }
    lines.join("\n")
}

fn trust_of(row: &str) -> Trust {
    match (row.contains("digest"), row.contains("mirror")) {
        (true, true) => Trust::DigestAcross,
        (true, false) => Trust::Digest,
        _ => Trust::Validators,
    }
}

#[test]
#[allow(clippy::too_many_lines)] // A table: one row after the other.
fn the_table() {
    let strong = || version("\"a\"", OLD, LATER, Some(100));
    let weak = |date| version("W/\"a\"", OLD, date, Some(100));
    let html = |answer: Answer| Answer { content_type: "text/html; charset=utf-8".into(), ..answer };
    let unsatisfied = |total| Answer {
        status: 416,
        content_range: Some(ContentRange::Unsatisfied { total }),
        version: version("", "", LATER, Some(total)),
        ..Answer::default()
    };
    let status = |status| Answer { status, ..Answer::default() };
    let drifted = || version("\"node-2\"", OLD, LATER, Some(100));
    let elsewhere = |total| version("\"m\"", OTHER, LATER, Some(total));
    let none = || version("", "", LATER, Some(100));
    let gzip = |answer| Answer { is_encoded: true, ..answer };
    let rows: Vec<(&str, Version, Vec<Answer>)> = vec![
        ("strong tag, the range", strong(), vec![part_of(strong(), 40, 99)]),
        ("strong tag, fewer bytes than asked for", strong(), vec![part_of(strong(), 40, 59)]),
        ("strong tag, 200 with a new tag", strong(), vec![whole_of(version("\"b\"", OTHER, LATER, Some(100)))]),
        ("strong tag, 200 with a new length", strong(), vec![whole_of(version("\"a\"", OLD, LATER, Some(101)))]),
        ("200 with the same tag, then the range", strong(), vec![whole_of(strong()), part_of(strong(), 40, 99)]),
        ("ranges ignored", strong(), vec![whole_of(strong())]),
        ("ranges ignored, no validator in the answer", strong(), vec![whole_of(none())]),
        ("weak tag, settled date", weak(LATER), vec![part_of(weak(LATER), 40, 99)]),
        ("weak tag, fresh date", weak(SECONDS_LATER), vec![part_of(weak(LATER), 40, 99)]),
        (
            "weak tag, another one",
            weak(SECONDS_LATER),
            vec![
                part_of(version("W/\"b\"", OLD, LATER, Some(100)), 40, 99),
                whole_of(version("W/\"b\"", OLD, LATER, Some(100))),
            ],
        ),
        (
            "weak tag, another date",
            weak(SECONDS_LATER),
            vec![
                part_of(version("W/\"a\"", OTHER, LATER, Some(100)), 40, 99),
                whole_of(version("W/\"a\"", OTHER, LATER, Some(100))),
            ],
        ),
        (
            "date only, settled",
            version("", OLD, LATER, Some(100)),
            vec![part_of(version("", OLD, LATER, Some(100)), 40, 99)],
        ),
        (
            "date only, seconds old",
            version("", OLD, SECONDS_LATER, Some(100)),
            vec![part_of(version("", OLD, LATER, Some(100)), 40, 99)],
        ),
        (
            "date only, of the same second",
            version("", OLD, OLD, Some(100)),
            vec![whole_of(version("", OLD, LATER, Some(100)))],
        ),
        ("no validator", none(), vec![whole_of(none())]),
        ("no validator, but a digest", none(), vec![part_of(none(), 40, 99)]),
        ("tags of nodes", strong(), vec![whole_of(drifted())]),
        ("tags of nodes, but a digest", strong(), vec![whole_of(drifted()), part_of(drifted(), 40, 99)]),
        ("tags of nodes on a range", strong(), vec![part_of(drifted(), 40, 99), whole_of(drifted())]),
        ("a mirror's own tag and date", strong(), vec![part_of(elsewhere(100), 40, 99), whole_of(elsewhere(100))]),
        ("a mirror's own tag and date, but a digest", strong(), vec![part_of(elsewhere(100), 40, 99)]),
        (
            "a mirror's other size, for all the digest",
            strong(),
            vec![part_of(elsewhere(101), 40, 99), whole_of(elsewhere(101))],
        ),
        ("a mirror without ranges, but a digest", strong(), vec![whole_of(elsewhere(100))]),
        ("range from elsewhere", strong(), vec![part_of(strong(), 0, 99), whole_of(strong())]),
        (
            "range of another total",
            strong(),
            vec![
                part_of(version("\"a\"", OLD, LATER, Some(120)), 40, 99),
                whole_of(version("\"a\"", OLD, LATER, Some(120))),
            ],
        ),
        (
            "206 without Content-Range",
            strong(),
            vec![Answer { content_range: None, ..part_of(strong(), 40, 99) }, whole_of(strong())],
        ),
        ("206 for ever", strong(), vec![Answer { content_range: None, ..part_of(strong(), 40, 99) }]),
        ("range of no validator", strong(), vec![part_of(none(), 40, 99), whole_of(strong())]),
        ("encoded range", strong(), vec![gzip(part_of(strong(), 40, 99)), gzip(whole_of(strong()))]),
        ("416, all is held, size was unknown", version("\"a\"", OLD, LATER, None), vec![unsatisfied(40)]),
        (
            "416, all is held of another version",
            version("\"a\"", OLD, LATER, None),
            vec![
                Answer { version: version("\"b\"", OTHER, LATER, Some(40)), ..unsatisfied(40) },
                whole_of(version("\"b\"", OTHER, LATER, Some(40))),
            ],
        ),
        (
            "416 beyond the end",
            version("\"a\"", OLD, LATER, None),
            vec![unsatisfied(30), whole_of(version("\"a\"", OLD, LATER, Some(30)))],
        ),
        ("416 without a size", strong(), vec![status(416), whole_of(strong())]),
        ("size unknown, the range tells it", version("\"a\"", OLD, LATER, None), vec![part_of(strong(), 40, 99)]),
        ("HTML instead of the range", strong(), vec![html(part_of(strong(), 40, 99))]),
        ("HTML instead of the whole", strong(), vec![html(whole_of(version("", "", LATER, Some(9))))]),
        ("an error", strong(), vec![status(503)]),
        ("a redirect target that has expired", strong(), vec![status(403)]),
    ];
    let mut table = String::new();
    for (name, held, answers) in rows {
        table += &format!("{name}\n{}\n", play(&stored(held), &answers, trust_of(name)));
    }
    insta::assert_snapshot!(table);
}

#[test]
fn with_nothing_held() {
    let ask = first_ask(None, Trust::Digest);
    assert_eq!(ask, Ask::default());
    let whole = whole_of(version("\"a\"", OLD, LATER, Some(100)));
    assert_eq!(decide(None, &ask, &whole, Trust::Validators), Verdict::Begin(None));
    let part = part_of(version("\"a\"", OLD, LATER, Some(100)), 0, 99);
    assert!(matches!(decide(None, &ask, &part, Trust::Validators), Verdict::Refuse(_)));
    assert_eq!(decide(None, &ask, &Answer { status: 404, ..Answer::default() }, Trust::Validators), Verdict::Status);
}

#[test]
fn what_only_a_digest_vouched_for_is_not_continued_without_one() {
    let held = version("\"a\"", OLD, LATER, Some(100));
    let mut stored = stored(held.clone());
    assert!(stored.admits(&held, Trust::Validators));
    stored.binding.is_pieced = true;
    assert!(!stored.admits(&held, Trust::Validators));
    assert!(stored.admits(&held, Trust::Digest));
}
