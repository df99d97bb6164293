//! May the bytes of this answer go into that file, and where? The one place that decides it.
//!
//! Pure: [`first_ask`] says what to ask for with what is held, [`judge`] what the answer is good for. Whether the versions
//! go together is for [`crate::files::binding`], whose proof the verdict carries to the part. Every row of the table in
//! the tests is a way in which downloaders were seen to end with a wrong file and to call it a success.

use std::ops::Range;

use crate::files::binding::{Admitted, Binding, Stored, Why};
use crate::model::failure::{Failure, FailureReason};
use crate::net::classify::RETRYABLE_STATUSES;
use crate::net::range::ContentRange;

/// So many attempts in a row have to be refused a range with an error of the server before the whole is asked for: mostly the
/// server is in trouble, and ranges are no matter.
const REFUSALS_MIN: u32 = 2;

/// What to ask an origin for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ask {
    /// The bytes; `None`: the whole. An end of `u64::MAX` is left open.
    pub range: Option<Range<u64>>,
    /// The validator under which a range is wanted, and else the whole; empty: none.
    pub if_range: String,
    /// The size that a 416 told, which is to be confirmed: the last byte of that many is asked for.
    pub confirms: Option<u64>,
    /// What an answer before this one did wrong, after which nothing of the held bytes is trusted to this origin.
    pub distrust: Option<Why>,
}

/// What the head of an answer says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    pub status: u16,
    /// What its bytes belong to, with the total size as far as it is known from whichever header.
    pub seen: Binding,
    pub content_range: Option<ContentRange>,
    /// Bytes of the body, as far as the head says.
    pub length: Option<u64>,
    /// Its body is decoded: its bytes are not those of the resource, or are made anew each time.
    pub is_encoded: bool,
    /// It says how long to wait before the origin is asked again.
    pub has_retry_after: bool,
}

impl Answer {
    /// Which bytes of the whole the body holds: all from 0 on, unless it says otherwise. The end of one that does not say
    /// how long it is is `u64::MAX`.
    ///
    /// A range that is sent as 200 is a range all the same: some origins have the wrong status and nothing else.
    pub(super) fn bytes(&self) -> Range<u64> {
        match self.content_range {
            Some(ContentRange::Bytes { first, last, .. }) if self.status == 206 || self.is_range_as_200() => {
                first..last + 1
            }
            _ => 0..self.length.unwrap_or(u64::MAX),
        }
    }

    /// Whether it is a 200 whose `Content-Range` names exactly as many bytes as the body has, and not all of them.
    pub(super) fn is_range_as_200(&self) -> bool {
        match self.content_range {
            Some(ContentRange::Bytes { first, last, total }) => {
                let is_partial = first > 0 || total.is_some_and(|total| total > last + 1);
                self.status == 200 && self.length == Some(last + 1 - first) && is_partial
            }
            _ => false,
        }
    }

    /// Whether its `Content-Range` does not fit its length, or its status. Nobody can tell then which bytes it holds.
    fn contradicts_itself(&self) -> bool {
        let Some(ContentRange::Bytes { first, last, total }) = self.content_range else { return false };
        if self.status == 206 || self.is_range_as_200() {
            return self.length.is_some_and(|length| length != last - first + 1);
        }
        let is_size = |size: u64| size == last + 1;
        first > 0 || !total.is_none_or(is_size) || !self.length.is_none_or(is_size)
    }

    /// Whether it is a 206 that holds all there is.
    fn is_whole_as_206(&self) -> bool {
        matches!(self.content_range, Some(ContentRange::Bytes { first: 0, last, total: Some(total) }) if last + 1 == total)
    }
}

/// What an answer is good for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// Its body is the whole, and what is held is of no use: `None` when nothing was held.
    Begin(Option<Why>),
    /// Its body is of the held version, and its bytes may join.
    Join(Admitted),
    /// Nothing is missing.
    Complete(Admitted),
    /// Its body is of no use; ask this instead.
    AskAgain(Ask),
    /// Its body is of no use, and asking again is not either.
    Refuse(Failure),
    /// It is an error; judging its status is for [`crate::net::classify`].
    Status,
}

/// What to ask the source of this id for first: from the first missing byte on.
pub(super) fn first_ask(held: Option<&Stored>, source: &str, has_digest: bool) -> Ask {
    let Some(held) = held else { return Ask::default() };
    let total = held.binding.version.total;
    match held.ranges.gaps(total.unwrap_or(u64::MAX)).next() {
        Some(gap) => ask_for(held, source, gap, has_digest).unwrap_or_default(),
        None => Ask::default(),
    }
}

/// Whether what is held could ever become the file: nothing is missing, or the rest can be asked for.
pub(super) fn can_go_on(held: &Stored, has_digest: bool) -> bool {
    held.whole(has_digest).is_some() || first_ask(Some(held), &held.binding.source, has_digest).range.is_some()
}

/// Asks the source of this id for a range of what is held, under the strongest condition that it allows: another source does not
/// know its validators. `None`: what came could not join the rest.
pub(super) fn ask_for(held: &Stored, source: &str, range: Range<u64>, has_digest: bool) -> Option<Ask> {
    let binding = &held.binding;
    if binding.is_decoded {
        return None;
    }
    let is_own = binding.source == source;
    let if_range = if is_own { binding.version.strong_validator().to_owned() } else { String::new() };
    let will_be_proved = !if_range.is_empty() && !binding.is_pieced;
    let will_be_checked = has_digest || !binding.announced.is_empty();
    let may_tell_size = binding.version.total.is_some() || is_own;
    let may_be_checked = will_be_checked && may_tell_size && held.may_share_with(source);
    let may_join = will_be_proved || may_be_checked;
    // A range up to the end is asked for without an end, so that the answer also tells when there is more than expected.
    let end = if Some(range.end) == binding.version.total { u64::MAX } else { range.end };
    may_join.then_some(Ask { range: Some(range.start..end), if_range, ..Ask::default() })
}

/// Judges what `answer` to `ask` is good for, with `held` from before. `has_digest`: the client named a digest of the
/// whole.
pub(super) fn judge(held: Option<&Stored>, ask: &Ask, answer: &Answer, has_digest: bool) -> Verdict {
    match answer.status {
        200 if answer.is_range_as_200() => range(held, ask, answer, has_digest),
        200 | 201 | 203 => whole(held, ask, answer, has_digest),
        206 if ask.range.is_none() && answer.is_whole_as_206() => whole(held, ask, answer, has_digest),
        206 => range(held, ask, answer, has_digest),
        416 if ask.range.is_some() => unsatisfied(held, ask, answer, has_digest),
        // Some say so that a quota is used up.
        403 if answer.has_retry_after => Verdict::Status,
        // What some origins, and what guards them, answer to a range, or to its condition, where they would send the whole. None
        // of it is tried again, so that a part would keep its file from ever coming.
        204 | 304 | 400 | 403 | 405 | 406 | 412 | 501 if ask.range.is_some() => ask_whole(Some(Why::Unsatisfiable)),
        // One that has trouble with ranges alone would keep the file from coming for ever. The whole is asked for at once: what
        // it answers moments later to that is not due to trouble that has passed.
        500..=599 if is_refused_again(held, ask, answer) => ask_whole(None),
        _ => Verdict::Status,
    }
}

/// How many attempts in a row were refused a range of what is held, after this answer. One that names a wait says that it is not
/// about the range, one that refuses the whole as well starts the count anew, and what another source answers says nothing.
pub(super) fn refusals_after(held: Option<&Stored>, ask: &Ask, answer: &Answer) -> u32 {
    let Some(held) = held else { return 0 };
    let before = held.refusals;
    match answer.status {
        _ if held.binding.source != answer.seen.source => before,
        500..=599 if ask.range.is_none() => 0,
        500..=599 if !answer.has_retry_after => before.saturating_add(1),
        _ => before,
    }
}

/// Whether this answer makes the refusals of a range enough. One that is not tried again is enough by itself.
fn is_refused_again(held: Option<&Stored>, ask: &Ask, answer: &Answer) -> bool {
    if ask.range.is_some() && !answer.has_retry_after && !RETRYABLE_STATUSES.contains(&answer.status) {
        return true;
    }
    let after = refusals_after(held, ask, answer);
    let is_of_range = ask.range.is_some() && held.is_some_and(|held| held.binding.source == answer.seen.source);
    is_of_range && !answer.has_retry_after && after >= REFUSALS_MIN
}

fn whole(held: Option<&Stored>, ask: &Ask, answer: &Answer, has_digest: bool) -> Verdict {
    if answer.contradicts_itself() {
        return if ask.range.is_some() { ask_whole(Some(Why::WrongRange)) } else { contradictory() };
    }
    let Some(held) = held else { return Verdict::Begin(ask.distrust) };
    if let Some(why) = ask.distrust {
        return Verdict::Begin(Some(why));
    }
    if is_page_instead(held, answer) {
        return page_instead(held);
    }
    // Only who did not ask for a range is sent the whole for certain: some origins send the range with the status of the whole,
    // and nothing tells it from another version, or from the same one where a file begins with a run of equal bytes.
    let total = held.binding.version.total;
    let may_be_range = ask.range.is_some() && (total.is_none() || answer.length != total);
    let begin = |why| if may_be_range { ask_whole(Some(why)) } else { Verdict::Begin(Some(why)) };
    if answer.is_encoded {
        return begin(Why::Encoded);
    }
    if ask.range.as_ref().is_some_and(|range| is_range_in_disguise(held, range, answer)) {
        return ask_whole(Some(Why::WrongRange));
    }
    match held.admit(&answer.seen, has_digest) {
        Err(why) => begin(why),
        // Only its size speaks for it, and that was not known: to begin with it costs no more than to compare it.
        Ok(admitted) if total.is_none() && admitted.binding().is_pieced => begin(Why::Unproven),
        // The same version, and yet not the range: an origin that does not understand `If-Range`, perhaps.
        Ok(_) if ask.range.is_some() && !ask.if_range.is_empty() => {
            Verdict::AskAgain(Ask { if_range: String::new(), ..ask.clone() })
        }
        Ok(_) if may_be_range => ask_whole(None),
        Ok(admitted) => Verdict::Join(admitted),
    }
}

/// Whether a 200 is the range that was asked for without saying so: as long as the range would be, or, under the same
/// strong validator, of another length than the whole has or of fewer bytes than are held. It must not be taken for the
/// whole before that was asked for.
fn is_range_in_disguise(held: &Stored, range: &Range<u64>, answer: &Answer) -> bool {
    let Some(length) = answer.length else { return false };
    let is_same_version = held.binding.version.is_proved_by(&answer.seen.version);
    let Some(held_total) = held.binding.version.total else { return is_same_version && length < held.ranges.bytes() };
    let range_length = range.end.min(held_total).saturating_sub(range.start);
    length != held_total && (is_same_version || length == range_length)
}

fn range(held: Option<&Stored>, ask: &Ask, answer: &Answer, has_digest: bool) -> Verdict {
    let (Some(held), Some(range)) = (held, &ask.range) else { return unusable_range() };
    if is_page_instead(held, answer) {
        return page_instead(held);
    }
    if answer.is_encoded {
        return ask_whole(Some(Why::Encoded));
    }
    if !matches!(answer.content_range, Some(ContentRange::Bytes { .. })) {
        return ask_whole(Some(Why::NoContentRange));
    }
    if let Some(total) = ask.confirms {
        return confirmed(held, ask, answer, total, has_digest);
    }
    let bytes = answer.bytes();
    let is_beyond = held.binding.version.total.is_some_and(|total| bytes.end > total);
    if bytes.start != range.start || bytes.end > range.end || is_beyond || answer.contradicts_itself() {
        return ask_whole(Some(Why::WrongRange));
    }
    match held.admit(&answer.seen, has_digest) {
        Ok(admitted) => Verdict::Join(admitted),
        Err(_) => ask_whole(None),
    }
}

/// A 416 may say that nothing is missing. Where nothing else has told the size, it could be that of the range and not of the
/// file, as some origins write it: the last byte is asked for, which there is or is not.
fn unsatisfied(held: Option<&Stored>, ask: &Ask, answer: &Answer, has_digest: bool) -> Verdict {
    if let (Some(held), Some(ContentRange::Unsatisfied { total })) = (held, answer.content_range)
        && let Ok(admitted) = held.admit_as_whole(total, &answer.seen, !ask.if_range.is_empty(), has_digest)
    {
        let is_told_twice = ask.confirms == Some(total) || held.binding.version.total.is_some() || has_digest;
        return if is_told_twice {
            Verdict::Complete(admitted)
        } else {
            let range = Some(total.saturating_sub(1)..u64::MAX);
            Verdict::AskAgain(Ask { range, confirms: Some(total), ..ask.clone() })
        };
    }
    ask_whole(Some(Why::Unsatisfiable))
}

/// The answer that holds the last byte of so many, and no more, says that nothing is missing.
fn confirmed(held: &Stored, ask: &Ask, answer: &Answer, total: u64, has_digest: bool) -> Verdict {
    let is_last =
        answer.content_range == Some(ContentRange::Bytes { first: total - 1, last: total - 1, total: Some(total) });
    if is_last
        && !answer.contradicts_itself()
        && let Ok(admitted) = held.admit_as_whole(total, &answer.seen, !ask.if_range.is_empty(), has_digest)
    {
        return Verdict::Complete(admitted);
    }
    ask_whole(Some(Why::Unsatisfiable))
}

fn ask_whole(distrust: Option<Why>) -> Verdict {
    Verdict::AskAgain(Ask { distrust, ..Ask::default() })
}

fn unusable_range() -> Verdict {
    let message = "the origin answered a request for the whole with a part of it";
    Verdict::Refuse(Failure::retryable(FailureReason::Protocol, message))
}

fn contradictory() -> Verdict {
    let message = "the `Content-Range` of the answer contradicts its `Content-Length` or its status";
    Verdict::Refuse(Failure::retryable(FailureReason::Protocol, message))
}

/// A page where a file was: a login, a notice, a captive portal. It must not replace what is held.
fn is_page_instead(held: &Stored, answer: &Answer) -> bool {
    let before = &held.binding.content_type;
    is_html(&answer.seen.content_type) && !before.is_empty() && !is_html(before)
}

fn page_instead(held: &Stored) -> Verdict {
    Verdict::Refuse(Failure::retryable(
        FailureReason::BadContent,
        format!(
            "the origin answers with an HTML page where it had `{}` before; what is held is kept",
            held.binding.content_type
        ),
    ))
}

fn is_html(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("text/html") || essence.eq_ignore_ascii_case("application/xhtml+xml")
}

#[cfg(test)]
#[path = "resume_tests.rs"]
mod tests;
