//! Durable events.
//!
//! The end of a task is in its state row, so its event is a few bytes. When a retry changes the row, the old one is kept
//! for the events that came before.

use std::cell::Cell;
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Deserializer};
use sqlx::AssertSqlSafe;

use crate::model::event::{EventHead, EventKind};
use crate::model::ids::{JobId, TaskIndex};
use crate::model::job::Job;
use crate::model::spec::{JobSpec, TaskOptions, TaskSpec};
use crate::model::time::Timestamp;
use crate::store::sqlite::columns::blob;
use crate::store::sqlite::errors::{Fault, guard};
use crate::store::sqlite::insert::{Insert, Values};
use crate::store::sqlite::lines::{self, Readable};
use crate::store::sqlite::numbers::{Numbers, key};
use crate::store::sqlite::reader::{Ask, Reader};
use crate::store::sqlite::rows::{StateLine, job_no, state_or_null, state_text};
use crate::store::sqlite::script::Script;
use crate::store::sqlite::sealed::{self, Bag, Place};
use crate::store::{EventPage, LOOK_MAX, LaneNumber, Listed, NewEvent, StoreError, StoredEvent, StoredTask};
use crate::vault::Vault;

static EVENTS: Insert = Insert::new("events (id, kind, time, task, snapshot)", 5, "");

pub(super) async fn insert(script: &mut Script<'_>, numbers: &Numbers, events: &[NewEvent]) -> Result<(), Fault> {
    let bind = |row: &mut Values, event: &NewEvent| {
        let head = event.head;
        row.add(key(numbers.job(event.job)?, place(head.sequence)?))?.add(head.kind as i64)?;
        row.add(head.time.0)?.add(head.task.map(i64::from))?;
        row.add(event.snapshot.as_deref().map(snapshot).transpose()?).map(drop)
    };
    script.insert(&EVENTS, events, bind, None).await
}

/// The job as its event shows it, so without the options of its tasks: these may hold secrets, and no event shows them.
fn snapshot(job: &Job) -> Result<String, Fault> {
    if *job.spec.defaults == TaskOptions::default() {
        return Ok(serde_json::to_string(job)?);
    }
    let spec = JobSpec { defaults: TaskOptions::default().into(), ..JobSpec::clone(&job.spec) };
    Ok(serde_json::to_string(&Job { spec: Arc::new(spec), ..job.clone() })?)
}

/// The place of an event in its key: sequence numbers share it with the job's number, 32 bits each.
pub(super) fn place(sequence: u64) -> Result<u32, Fault> {
    let place = u32::try_from(sequence).unwrap_or(u32::MAX);
    guard(place < u32::MAX, || "the job has as many events as a job can have; submit a new one".to_owned())?;
    Ok(place)
}

/// Sequence, kind, time, task, snapshot, lane, spec and bag of the task, row of the task.
#[derive(Deserialize)]
struct EventLine<S>(
    u64,
    i64,
    Timestamp,
    Option<TaskIndex>,
    Option<Arc<Job>>,
    Option<LaneNumber>,
    Option<S>,
    Option<Bag>,
    Option<StateLine>,
);

/// A spec, if it is one.
struct Spared(Option<TaskSpec>);

impl<'de> Deserialize<'de> for Spared {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Spared(serde_json::from_value(serde_json::Value::deserialize(deserializer)?).ok()))
    }
}

impl From<Spared> for Option<TaskSpec> {
    fn from(Spared(spec): Spared) -> Self {
        spec
    }
}

impl<S: Into<Option<TaskSpec>>> EventLine<S> {
    fn into_event(self, vault: &Vault, job: JobId) -> Result<StoredEvent, StoreError> {
        let EventLine(sequence, kind, time, task, snapshot, lane, spec, bag, row) = self;
        let wrong = |what: String| StoreError::Unreadable(format!("job `{job}`: event {sequence} {what}"));
        let kind = EventKind::from_number(kind).ok_or_else(|| wrong(format!("has the unknown kind {kind}")))?;
        let ended = match (kind, task, row) {
            (EventKind::TaskEnded, Some(index), Some(row)) => {
                let told = |spec| sealed::told(vault, Place::Task(job, index), spec, Bag::bytes(bag.as_ref()));
                let spec = spec
                    .and_then(Into::into)
                    .and_then(|spec| told(spec).inspect_err(|error| tracing::error!("{error}")).ok());
                let (spec, lane) = (spec.unwrap_or_else(TaskSpec::lost), lane.unwrap_or_default());
                Some(Arc::new(StoredTask { index, lane, spec: Arc::new(spec), row: row.into_row() }))
            }
            (EventKind::TaskEnded, ..) => return Err(wrong("shows a task that does not exist".to_owned())),
            _ => None,
        };
        Ok(StoredEvent { head: EventHead { sequence, time, kind, task }, snapshot, task: ended })
    }
}

/// Whether what is told of the task `t` is in its bag: its URL, where that holds a secret. Bodies and headers are not told, so
/// that a long bag need not be read, sent here and opened for each event. Quotes within a text are escaped, so that nothing
/// else in the row looks like this.
macro_rules! told_from_bag {
    () => {
        "instr(t.spec, '\"url\":\"$s') > 0"
    };
}

/// Two statements for the events of the job `?1` as [`EventLine`]s, those for which `$which` holds, in its order. By the second one
/// a task is read of which the spec is damaged, too, and told without it: how it ended is in another row, and whoever follows the job
/// counts its events. It looks through each spec, which takes longer.
macro_rules! events_pages {
    ($which:expr) => {
        [events_page!($which, "t.spec"), events_page!($which, "CASE WHEN json_valid(t.spec) THEN t.spec END")]
    };
}

macro_rules! events_page {
    ($which:expr, $spec:literal) => {{
        let places = format!(
            concat!(
                "SELECT e.id AS id, coalesce(octet_length(e.snapshot), 0) + coalesce(octet_length(t.spec), 0) \
                 + CASE WHEN ",
                told_from_bag!(),
                " THEN coalesce(2 * octet_length(t.sealed), 0) ELSE 0 END \
                 + coalesce(octet_length(s.error), 0) + coalesce(octet_length(s.outcome), 0) AS bytes FROM events e \
                 LEFT JOIN tasks t ON t.id = (e.id >> 32 << 32) + e.task \
                 LEFT JOIN task_states s ON s.id = (e.id >> 32 << 32) + e.task WHERE {}",
            ),
            $which
        );
        let line = concat!(
            "'[' || (e.id & 4294967295) || ',' || e.kind || ',' || e.time || ',' || coalesce(e.task, 'null') || ',' || \
             coalesce(e.snapshot, 'null') || ',' || coalesce(t.lane & 4294967295, 'null') || ',' || \
             coalesce(",
            $spec,
            ", 'null') || ',' || \
             coalesce(CASE WHEN ",
            told_from_bag!(),
            " THEN '\"' || nullif(hex(t.sealed), '') || '\"' END, 'null') || ',' || \
             CASE WHEN e.kind <> 1 THEN 'null' WHEN o.id IS NOT NULL THEN ",
            state_text!("o", "NULL"),
            " ELSE ",
            state_or_null!("NULL"),
            " END || ']'"
        );
        let rest = "CROSS JOIN events e ON e.id = w.id LEFT JOIN tasks t ON t.id = (e.id >> 32 << 32) + e.task \
             LEFT JOIN task_states s ON s.id = (e.id >> 32 << 32) + e.task \
             LEFT JOIN old_states o ON o.id = s.id AND o.upto = (SELECT min(q.upto) FROM old_states q \
             WHERE q.id = s.id AND q.upto >= (e.id & 4294967295))";
        lines::page_of(&places, line, rest, "")
    }};
}

pub(super) async fn after(
    reader: &Reader,
    job: JobId,
    after: u64,
    limit: u32,
) -> Result<Listed<StoredEvent>, StoreError> {
    static PAGES: LazyLock<[Arc<str>; 2]> = LazyLock::new(|| {
        events_pages!(concat!(
            "e.id > ((",
            job_no!(),
            " << 32) | ?2) AND e.id <= ((",
            job_no!(),
            " << 32) | 4294967295) ORDER BY e.id LIMIT ?3 + 0"
        ))
    });
    let mut after = i64::try_from(after).unwrap_or(i64::MAX).min(i64::from(u32::MAX));
    loop {
        let ask = |sql| Ask::new(AssertSqlSafe(sql)).bind(blob(job)).bind(after).bind(lines::one_more(limit));
        match page(reader, job, &PAGES, ask, limit).await? {
            Readable::Page(page) => return Ok(page),
            Readable::GoOn(last) => after = last.into(),
        }
    }
}

/// Numbers follow each other without gaps, so a bound on them is one on the rows that are looked at.
pub(super) async fn before(
    reader: &Reader,
    job: JobId,
    before: u64,
    kinds: &[EventKind],
    limit: u32,
) -> Result<EventPage, StoreError> {
    static PAGES: LazyLock<[Arc<str>; 2]> = LazyLock::new(|| {
        events_pages!(concat!(
            "e.id < ((",
            job_no!(),
            " << 32) | ?2) AND e.id >= ((",
            job_no!(),
            " << 32) | ?4) AND e.kind IN (SELECT value FROM json_each(?5)) ORDER BY e.id DESC LIMIT ?3 + 0"
        ))
    });
    let last = "SELECT coalesce(max(id) & 4294967295, 0) + 1 FROM events WHERE id >= (NO << 32) AND id <= ((NO << 32) | 4294967295)";
    let last = Ask::new(AssertSqlSafe(last.replace("NO", job_no!()))).bind(blob(job));
    let end = reader.first::<(i64,)>(last).await?.map_or(0, |(end,)| end);
    let mut before = i64::try_from(before).unwrap_or(i64::MAX).min(end);
    let from = (before - i64::from(LOOK_MAX)).max(0);
    let kinds: Vec<i64> = if kinds.is_empty() {
        EventKind::ALL.iter().map(|kind| *kind as i64).collect()
    } else {
        kinds.iter().map(|kind| *kind as i64).collect()
    };
    let kinds = serde_json::to_string(&kinds).map_err(|error| StoreError::Unreadable(error.to_string()))?;
    let Listed { items, has_more } = loop {
        let ask = |sql| {
            let ask = Ask::new(AssertSqlSafe(sql)).bind(blob(job)).bind(before).bind(lines::one_more(limit));
            ask.bind(from).bind(kinds.as_str())
        };
        match page(reader, job, &PAGES, ask, limit).await? {
            Readable::Page(page) => break page,
            Readable::GoOn(last) => before = last.into(),
        }
    };
    let next = match items.last() {
        Some(last) if has_more => Some(last.head.sequence),
        _ => u64::try_from(from).ok().filter(|from| *from > 1),
    };
    Ok(EventPage { items, next })
}

/// A page by one of two statements, as [`events_pages`] makes them: by the first if all that it has can be read.
async fn page(
    reader: &Reader,
    job: JobId,
    [quick, careful]: &[Arc<str>; 2],
    ask: impl Fn(Arc<str>) -> Ask,
    limit: u32,
) -> Result<Readable<StoredEvent>, StoreError> {
    let what = format!("event of job `{job}`:");
    {
        let page = reader.page(ask(quick.clone())).await?;
        let (lines, read) = (lines::count_and_last_head::<1>(page.text.as_ref()).0, Cell::new(0));
        let open =
            |line: EventLine<TaskSpec>| line.into_event(&reader.vault, job).inspect(|_| read.set(read.get() + 1));
        let readable = lines::readable(&page, &what, limit, open);
        if read.get() == lines {
            return Ok(readable);
        }
    }
    let open = |line: EventLine<Spared>| line.into_event(&reader.vault, job);
    Ok(lines::readable(&reader.page(ask(careful.clone())).await?, &what, limit, open))
}
