//! The resume table. Its right column is written from RFC 9110 and the contract; a row that the code does not agree with
//! is a fault of one of the two.

use super::*;
use crate::files::ranges::RangeSet;
use crate::files::version::Version;

const OLD: &str = "Tue, 01 Sep 2026 10:00:00 GMT";
const OTHER: &str = "Tue, 01 Sep 2026 11:00:00 GMT";
const SECONDS_LATER: &str = "Tue, 01 Sep 2026 10:00:05 GMT";
const LATER: &str = "Wed, 02 Sep 2026 10:00:00 GMT";
const HERE: &str = "http://here/f";
const MIRROR: &str = "http://mirror/f";

fn version(etag: &str, last_modified: &str, date: &str, total: Option<u64>) -> Version {
    Version { etag: etag.into(), last_modified: last_modified.into(), date: date.into(), total }
}

fn binding(version: Version) -> Binding {
    let content_type = "application/zip".into();
    Binding { version, source: HERE.into(), final_url: HERE.into(), content_type, ..Binding::default() }
}

/// The first 40 bytes are held.
fn held(version: Version) -> Stored {
    Stored { binding: binding(version), ranges: RangeSet::from_start(40), ..Stored::default() }
}

fn whole_of(version: Version) -> Answer {
    Answer { status: 200, length: version.total, seen: binding(version), ..Answer::default() }
}

fn part_of(version: Version, first: u64, last: u64) -> Answer {
    let content_range = Some(ContentRange::Bytes { first, last, total: version.total });
    let length = Some(last + 1 - first);
    Answer { status: 206, content_range, length, seen: binding(version), ..Answer::default() }
}

fn unsatisfied(total: Option<u64>, version: Version) -> Answer {
    let content_range = total.map(|total| ContentRange::Unsatisfied { total });
    Answer { status: 416, content_range, seen: binding(Version { total, ..version }), ..Answer::default() }
}

fn from(url: &str, answer: Answer) -> Answer {
    Answer { seen: Binding { source: url.into(), final_url: url.into(), ..answer.seen }, ..answer }
}

fn served_by(host: &str, answer: Answer) -> Answer {
    Answer { seen: Binding { final_url: format!("http://{host}/f"), ..answer.seen }, ..answer }
}

/// What is asked and answered until there is a verdict that is not to ask again; the last answer is given for ever.
fn play(held: &Stored, answers: &[Answer], has_digest: bool) -> String {
    let mut ask = first_ask(Some(held), &answers[0].seen.source, has_digest);
    let mut steps = Vec::new();
    for nth in 0..5 {
        assert!(nth < 4, "asks for ever");
        let answer = &answers[nth.min(answers.len() - 1)];
        let range = ask.range.as_ref().map_or("whole".to_owned(), |range| format!("{}-", range.start));
        let condition = if ask.if_range.is_empty() { "" } else { "?" };
        steps.push(format!("{range}{condition}"));
        let verdict = match judge(Some(held), &ask, answer, has_digest) {
            Verdict::AskAgain(next) => {
                ask = next;
                continue;
            }
            Verdict::Begin(why) => format!("begin: {}", why.map(|why| why.to_string()).unwrap_or_default()),
            Verdict::Join(admitted) if admitted.binding().is_pieced => "join by digest".to_owned(),
            Verdict::Join(_) => "join".to_owned(),
            Verdict::Complete(admitted) => format!("complete of {:?}", admitted.binding().version.total.unwrap()),
            Verdict::Refuse(failure) => format!("refuse as {:?}", failure.reason),
            Verdict::Status => "judge the status".to_owned(),
        };
        return format!("{} = {verdict}", steps.join(" "));
    }
    String::new()
}

struct Row {
    name: &'static str,
    held: Version,
    has_digest: bool,
    answers: Vec<Answer>,
    expected: &'static str,
}

fn row(name: &'static str, held: Version, answers: Vec<Answer>, expected: &'static str) -> Row {
    Row { name, held, has_digest: false, answers, expected }
}

fn with_digest(name: &'static str, held: Version, answers: Vec<Answer>, expected: &'static str) -> Row {
    Row { has_digest: true, ..row(name, held, answers, expected) }
}

fn check(rows: Vec<Row>) {
    let mut wrong = String::new();
    for Row { name, held: version, has_digest, answers, expected } in rows {
        let got = play(&held(version), &answers, has_digest);
        if got != expected {
            wrong += &format!("{name}\n  expected {expected}\n  got      {got}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

fn strong() -> Version {
    version("\"a\"", OLD, LATER, Some(100))
}

fn none() -> Version {
    version("", "", LATER, Some(100))
}

/// RFC 9110, 13.1.5 and 15.3.7.3: ranges are joined under one strong validator.
#[test]
#[allow(clippy::too_many_lines)] // A table: one row after the other.
fn strong_validators() {
    let new = |tag, total| version(tag, OTHER, LATER, Some(total));
    check(vec![
        row("the range", strong(), vec![part_of(strong(), 40, 99)], "40-? = join"),
        row("fewer bytes than asked for", strong(), vec![part_of(strong(), 40, 59)], "40-? = join"),
        row(
            "a range that goes on behind the end",
            strong(),
            vec![
                Answer { length: None, ..part_of(Version { total: None, ..strong() }, 40, 149) },
                whole_of(new("\"b\"", 150)),
            ],
            "40-? whole = begin: the origin sent another range than it was asked for",
        ),
        row(
            "a shorter whole of the same tag, where the size was not known",
            Version { total: None, ..strong() },
            vec![whole_of(Version { total: Some(30), ..strong() })],
            "40-? whole = begin: the origin sent another range than it was asked for",
        ),
        row(
            "the range as a whole, where the size was not known, and then the whole",
            Version { total: None, ..strong() },
            vec![whole_of(Version { total: Some(39), ..strong() }), whole_of(strong())],
            "40-? whole = begin: the origin sent another range than it was asked for",
        ),
        row(
            "a range as a whole that is longer than what is held, where the size was not known",
            Version { total: None, ..strong() },
            vec![
                whole_of(Version { total: Some(60), ..strong() }),
                whole_of(Version { total: Some(60), ..strong() }),
                whole_of(strong()),
            ],
            "40-? 40- whole = join",
        ),
        row(
            "a whole of which nobody says how long it is",
            strong(),
            vec![whole_of(Version { total: None, ..strong() })],
            "40-? 40- whole = join",
        ),
        row(
            "an empty tag is none",
            version("\"\"", "", LATER, Some(100)),
            vec![whole_of(version("\"\"", "", LATER, Some(100)))],
            "whole = begin: nothing proves that the content is the same",
        ),
        row(
            "a range that a guard forbids",
            strong(),
            vec![Answer { status: 403, seen: binding(none()), ..Answer::default() }, whole_of(strong())],
            "40-? whole = begin: the origin does not have the missing range",
        ),
        row(
            "a range that is forbidden for a while",
            strong(),
            vec![Answer { status: 403, has_retry_after: true, seen: binding(none()), ..Answer::default() }],
            "40-? = judge the status",
        ),
        row(
            "an origin that takes a range for a bad request",
            strong(),
            vec![Answer { status: 400, seen: binding(none()), ..Answer::default() }, whole_of(strong())],
            "40-? whole = begin: the origin does not have the missing range",
        ),
        row(
            "an origin that takes the condition of a range for one of the request",
            strong(),
            vec![Answer { status: 412, seen: binding(none()), ..Answer::default() }],
            "40-? whole = judge the status",
        ),
        row(
            "a range that is forbidden as all else is",
            strong(),
            vec![Answer { status: 403, seen: binding(none()), ..Answer::default() }],
            "40-? whole = judge the status",
        ),
        row(
            "the size becomes known",
            version("\"a\"", OLD, LATER, None),
            vec![part_of(strong(), 40, 99)],
            "40-? = join",
        ),
        row("another tag", strong(), vec![whole_of(new("\"b\"", 100))], "40-? = begin: content changed"),
        row(
            "another tag and size, which a range of another version has that is sent as 200",
            strong(),
            vec![whole_of(new("\"b\"", 101))],
            "40-? whole = begin: content changed",
        ),
        row(
            "a range as a whole without a length and without a tag",
            strong(),
            vec![whole_of(version("", "", LATER, None)), whole_of(strong())],
            "40-? whole = begin: nothing proves that the content is the same",
        ),
        row(
            "another size of the range",
            strong(),
            vec![
                part_of(version("\"a\"", OLD, LATER, Some(120)), 40, 99),
                whole_of(version("\"a\"", OLD, LATER, Some(120))),
            ],
            "40-? whole = begin: content changed",
        ),
        row(
            "If-Range is not understood",
            strong(),
            vec![whole_of(strong()), part_of(strong(), 40, 99)],
            "40-? 40- = join",
        ),
        row("ranges are ignored", strong(), vec![whole_of(strong())], "40-? 40- = join"),
        row(
            "a range without validators",
            strong(),
            vec![part_of(none(), 40, 99), whole_of(strong())],
            "40-? whole = join",
        ),
        row(
            "the whole without validators",
            strong(),
            vec![whole_of(none())],
            "40-? = begin: nothing proves that the content is the same",
        ),
        row(
            "a settled date",
            version("", OLD, LATER, Some(100)),
            vec![part_of(version("", OLD, LATER, Some(100)), 40, 99)],
            "40-? = join",
        ),
        row(
            "another date",
            version("", OLD, LATER, Some(100)),
            vec![whole_of(version("", OTHER, LATER, Some(100)))],
            "40-? = begin: content changed",
        ),
        row(
            "a weak tag beside a settled date",
            version("W/\"a\"", OLD, LATER, Some(100)),
            vec![part_of(version("W/\"a\"", OLD, LATER, Some(100)), 40, 99)],
            "40-? = join",
        ),
        row(
            "another weak tag beside a settled date",
            version("W/\"a\"", OLD, LATER, Some(100)),
            vec![
                part_of(version("W/\"b\"", OLD, LATER, Some(100)), 40, 99),
                whole_of(version("W/\"b\"", OLD, LATER, Some(100))),
            ],
            "40-? whole = begin: the entity tag changed",
        ),
        row(
            "tags of nodes",
            strong(),
            vec![whole_of(version("\"b\"", OLD, LATER, Some(100)))],
            "40-? = begin: the entity tag changed",
        ),
    ]);
}

/// RFC 9110, 8.8.1 and 8.8.2.2: a weak validator stays when bytes change.
#[test]
fn weak_validators_prove_nothing() {
    let unproven = "whole = begin: nothing proves that the content is the same";
    for held in [
        version("W/\"a\"", "", LATER, Some(100)),
        version("W/\"a\"", OLD, SECONDS_LATER, Some(100)),
        version("unquoted", "", LATER, Some(100)),
        version("", OLD, SECONDS_LATER, Some(100)),
        version("", OLD, OLD, Some(100)),
        version("", OLD, "", Some(100)),
        none(),
    ] {
        let answers = || vec![Answer { ..whole_of(held.clone()) }];
        check(vec![row("the whole again", held.clone(), answers(), unproven)]);
        let again = vec![part_of(held.clone(), 40, 99)];
        let unknown = Version { total: None, ..held.clone() };
        check(vec![
            with_digest("a digest vouches", held.clone(), again.clone(), "40- = join by digest"),
            with_digest(
                "it does, where only this answer tells the size",
                unknown.clone(),
                again,
                "40- = join by digest",
            ),
            with_digest(
                "the whole, where the size was not known",
                unknown,
                answers(),
                "40- whole = begin: nothing proves that the content is the same",
            ),
        ]);
    }
}

/// Validators are of one server; across servers only a digest tells.
#[test]
fn other_sources() {
    let elsewhere = |total| version("\"m\"", OTHER, LATER, Some(total));
    let unproven = "whole = begin: nothing proves that the content is the same";
    let equal = || from(MIRROR, whole_of(strong()));
    check(vec![
        row("a mirror of equal validators", strong(), vec![equal()], unproven),
        row(
            "a mirror of equal dates",
            version("", OLD, LATER, Some(100)),
            vec![from(MIRROR, whole_of(version("", OLD, LATER, Some(100))))],
            unproven,
        ),
        with_digest(
            "a mirror of equal validators",
            strong(),
            vec![from(MIRROR, part_of(strong(), 40, 99))],
            "40- = join by digest",
        ),
        with_digest(
            "a mirror of its own validators",
            strong(),
            vec![from(MIRROR, part_of(elsewhere(100), 40, 99))],
            "40- = join by digest",
        ),
        with_digest(
            "a mirror without ranges",
            strong(),
            vec![from(MIRROR, whole_of(elsewhere(100)))],
            "40- = join by digest",
        ),
        with_digest(
            "a mirror of another size",
            strong(),
            vec![from(MIRROR, part_of(elsewhere(101), 40, 99)), from(MIRROR, whole_of(elsewhere(101)))],
            "40- whole = begin: content changed",
        ),
        with_digest(
            "the size is not known",
            version("\"a\"", OLD, LATER, None),
            vec![from(MIRROR, whole_of(strong()))],
            unproven,
        ),
        row(
            "a redirect to another host",
            strong(),
            vec![served_by("cdn", part_of(strong(), 40, 99)), served_by("cdn", whole_of(strong()))],
            "40-? whole = begin: nothing proves that the content is the same",
        ),
        with_digest(
            "a redirect to another host",
            strong(),
            vec![served_by("cdn", part_of(strong(), 40, 99))],
            "40-? = join by digest",
        ),
        with_digest(
            "tags of nodes",
            strong(),
            vec![
                whole_of(version("\"b\"", OLD, LATER, Some(100))),
                part_of(version("\"b\"", OLD, LATER, Some(100)), 40, 99),
            ],
            "40-? 40- = join by digest",
        ),
        with_digest(
            "the source itself says that it changed",
            strong(),
            vec![whole_of(version("\"b\"", OTHER, LATER, Some(100)))],
            "40-? = begin: content changed",
        ),
    ]);
}

/// RFC 9110, 14.4, 15.3.7 and 15.5.17: what a range says of itself, and what origins make of it.
#[test]
#[allow(clippy::too_many_lines)] // A table: one row after the other.
fn ranges_that_are_none() {
    let slice = |tag: &str| Answer { status: 200, ..part_of(version(tag, OLD, LATER, Some(100)), 40, 99) };
    let gzip = |answer| Answer { is_encoded: true, ..answer };
    let disguised =
        |total| Answer { content_range: None, length: Some(60), ..whole_of(version("\"a\"", OLD, LATER, Some(total))) };
    check(vec![
        row(
            "another range",
            strong(),
            vec![part_of(strong(), 0, 99), whole_of(strong())],
            "40-? whole = begin: the origin sent another range than it was asked for",
        ),
        row(
            "no Content-Range",
            strong(),
            vec![Answer { content_range: None, ..part_of(strong(), 40, 99) }, whole_of(strong())],
            "40-? whole = begin: the origin sent a range without saying which",
        ),
        row(
            "no Content-Range, for ever",
            strong(),
            vec![Answer { content_range: None, ..part_of(strong(), 40, 99) }],
            "40-? whole = refuse as Protocol",
        ),
        row(
            "the whole as 206",
            strong(),
            vec![part_of(strong(), 0, 99)],
            "40-? whole = begin: the origin sent another range than it was asked for",
        ),
        row("the range as 200", strong(), vec![slice("\"a\"")], "40-? = join"),
        row(
            "the range as 200, of another tag",
            strong(),
            vec![slice("\"b\""), whole_of(version("\"b\"", OTHER, LATER, Some(100)))],
            "40-? whole = begin: content changed",
        ),
        row(
            "the range as 200 without Content-Range",
            strong(),
            vec![disguised(60), whole_of(strong())],
            "40-? whole = begin: the origin sent another range than it was asked for",
        ),
        row(
            "a Content-Range that its length contradicts",
            strong(),
            vec![Answer { length: Some(10), ..slice("\"a\"") }, whole_of(strong())],
            "40-? whole = begin: the origin sent another range than it was asked for",
        ),
        row(
            "a range whose length contradicts it",
            strong(),
            vec![Answer { length: Some(70), ..part_of(strong(), 40, 99) }, whole_of(strong())],
            "40-? whole = begin: the origin sent another range than it was asked for",
        ),
        row(
            "an encoded range",
            strong(),
            vec![gzip(part_of(strong(), 40, 99)), gzip(whole_of(strong()))],
            "40-? whole = begin: the content is encoded, so it has no ranges",
        ),
        row(
            "a page instead of the range",
            strong(),
            vec![page(part_of(strong(), 40, 99))],
            "40-? = refuse as BadContent",
        ),
        row(
            "a page instead of the whole",
            strong(),
            vec![page(whole_of(version("", "", LATER, Some(9))))],
            "40-? = refuse as BadContent",
        ),
        row("an error", strong(), vec![Answer { status: 503, ..whole_of(none()) }], "40-? = judge the status"),
        row(
            "a redirect target that has expired",
            strong(),
            vec![Answer { status: 403, ..whole_of(none()) }],
            "40-? whole = judge the status",
        ),
    ]);
}

/// A server that has trouble with ranges alone must not keep the file from coming, and one in other trouble is asked for the rest
/// once that is over.
#[test]
fn a_range_that_is_refused_again_and_again() {
    let held = |refusals| Stored { refusals, ..held(strong()) };
    let error = |status| Answer { status, ..whole_of(none()) };
    let waits = |status| Answer { has_retry_after: true, ..error(status) };
    for (refusals, answers, expected) in [
        (0, vec![error(500)], "40-? = judge the status"),
        (1, vec![error(500), whole_of(strong())], "40-? whole = join"),
        (0, vec![error(520), whole_of(strong())], "40-? whole = join"),
        (1, vec![error(503), error(503)], "40-? whole = judge the status"),
        (1, vec![error(502), page(whole_of(none()))], "40-? whole = refuse as BadContent"),
        (9, vec![waits(503)], "40-? = judge the status"),
        (9, vec![part_of(strong(), 40, 99)], "40-? = join"),
        (9, vec![error(404)], "40-? = judge the status"),
        (
            u32::MAX,
            vec![error(599), whole_of(version("\"b\"", OTHER, LATER, Some(100)))],
            "40-? whole = begin: content changed",
        ),
    ] {
        assert_eq!(play(&held(refusals), &answers, false), expected, "{refusals} before");
    }
    let range = Ask { range: Some(40..u64::MAX), ..Ask::default() };
    let after = |ask: &Ask, answer: Answer| refusals_after(Some(&held(3)), ask, &answer);
    assert_eq!([after(&range, error(500)), after(&range, waits(503)), after(&range, error(429))], [4, 3, 3]);
    let other = Answer { seen: Binding { source: "other".into(), ..error(500).seen }, ..error(500) };
    assert_eq!(
        [after(&range, other.clone()), after(&Ask::default(), other.clone())],
        [3, 3],
        "another source says nothing"
    );
    let whole = judge(Some(&held(u32::MAX)), &Ask::default(), &other, false);
    assert_eq!(whole, Verdict::Status, "the whole is not asked for once more");
    assert_eq!((after(&Ask::default(), error(500)), refusals_after(None, &Ask::default(), &error(500))), (0, 0));
}

fn page(answer: Answer) -> Answer {
    Answer { seen: Binding { content_type: "text/html; charset=utf-8".into(), ..answer.seen }, ..answer }
}

/// RFC 9110, 14.2 and 15.5.17: conditions are looked at before ranges, so a 416 under `If-Range` is of that version.
#[test]
fn nothing_is_missing() {
    let unknown = || version("\"a\"", OLD, LATER, None);
    let bare = Version::default;
    let other = || version("\"b\"", OTHER, LATER, Some(40));
    let missing = "40-? whole = begin: the origin does not have the missing range";
    check(vec![
        row(
            "all is held",
            unknown(),
            vec![unsatisfied(Some(40), unknown()), part_of(version("\"a\"", OLD, LATER, Some(40)), 39, 39)],
            "40-? 39-? = complete of 40",
        ),
        row(
            "all is held, says one that has no ranges at all",
            unknown(),
            vec![unsatisfied(Some(40), bare()), unsatisfied(Some(40), bare())],
            "40-? 39-? = complete of 40",
        ),
        row(
            "the end of the range is told for that of the file",
            unknown(),
            vec![
                unsatisfied(Some(40), bare()),
                part_of(version("\"a\"", OLD, LATER, Some(100)), 39, 99),
                whole_of(version("\"a\"", OLD, LATER, Some(100))),
            ],
            "40-? 39-? whole = begin: the origin does not have the missing range",
        ),
        row(
            "whatever is asked for ends where it begins",
            unknown(),
            vec![
                unsatisfied(Some(40), bare()),
                unsatisfied(Some(39), bare()),
                whole_of(version("\"a\"", OLD, LATER, Some(100))),
            ],
            "40-? 39-? whole = begin: the origin does not have the missing range",
        ),
        row(
            "all is held, says one without validators",
            unknown(),
            vec![unsatisfied(Some(40), bare()), part_of(version("\"a\"", OLD, LATER, Some(40)), 39, 39)],
            "40-? 39-? = complete of 40",
        ),
        row(
            "all is held of another version",
            unknown(),
            vec![unsatisfied(Some(40), other()), whole_of(other())],
            missing,
        ),
        row(
            "more than there is",
            unknown(),
            vec![unsatisfied(Some(30), bare()), whole_of(version("\"a\"", OLD, LATER, Some(30)))],
            missing,
        ),
        row("it does not say of how many", strong(), vec![unsatisfied(None, bare()), whole_of(strong())], missing),
        row(
            "as many as are held, where there were to be more",
            strong(),
            vec![unsatisfied(Some(40), bare()), whole_of(strong())],
            missing,
        ),
        with_digest(
            "a mirror has that many",
            unknown(),
            vec![from(MIRROR, whole_of(strong()))],
            "whole = begin: nothing proves that the content is the same",
        ),
    ]);
}

#[test]
fn with_nothing_held() {
    assert_eq!(first_ask(None, HERE, true), Ask::default());
    let ask = Ask::default();
    assert_eq!(judge(None, &ask, &whole_of(strong()), false), Verdict::Begin(None));
    assert_eq!(judge(None, &ask, &part_of(strong(), 0, 99), false), Verdict::Begin(None), "a 206 of all there is");
    for length in [99, 101] {
        let odd = Answer { length: Some(length), ..part_of(strong(), 0, 99) };
        assert!(matches!(judge(None, &ask, &odd, false), Verdict::Refuse(_)), "it contradicts itself");
    }
    for partial in [part_of(strong(), 0, 59), part_of(strong(), 40, 99)] {
        assert!(matches!(judge(None, &ask, &partial, false), Verdict::Refuse(_)));
        let as_200 = Answer { status: 200, ..partial };
        assert!(matches!(judge(None, &ask, &as_200, false), Verdict::Refuse(_)), "never the whole");
    }
    let not_found = Answer { status: 404, ..Answer::default() };
    assert_eq!(judge(None, &ask, &not_found, false), Verdict::Status);
}

/// What several sources brought is asked for under no condition that one of them would not know.
#[test]
fn conditions_are_for_the_source_that_knows_them() {
    let ask = |version, source| ask_for(&held(version), source, 40..100, true).unwrap().if_range;
    assert_eq!(ask(strong(), HERE), "\"a\"");
    assert_eq!(ask(strong(), MIRROR), "");
    assert_eq!(ask(version("W/\"a\"", OLD, LATER, Some(100)), HERE), OLD);
    assert_eq!(ask(version("W/\"a\"", OLD, OLD, Some(100)), HERE), "");
    assert!(ask_for(&held(strong()), MIRROR, 40..100, false).is_none(), "it could not join");
}

#[test]
fn what_was_decoded_is_not_continued_whatever_is_to_be_checked() {
    let decoded =
        Stored { binding: Binding { is_decoded: true, ..binding(Version::default()) }, ..held(Version::default()) };
    assert_eq!(ask_for(&decoded, HERE, 40..u64::MAX, true), None);
}
