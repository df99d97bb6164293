//! How rows travel out of `SQLite`: each as a JSON array, all of them as one text.
//!
//! Reading a row through sqlx costs microseconds, and a million of them seconds; one text of many rows is read in a
//! fraction. The texts are put together by plain concatenation, since every piece is a number or JSON that we wrote. They
//! are bounded: a page ends after [`crate::store::PAGE_BYTES_MAX`].

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::access::PrincipalNo;
use crate::model::counts::Counts;
use crate::model::failure::{TaskError, is_default};
use crate::model::failures::Failures;
use crate::model::ids::{JobId, TaskIndex};
use crate::model::job::{Creator, Job, JobState, Stop};
use crate::model::outcome::{Attempt, Outcome};
use crate::model::progress::Held;
use crate::model::spec::{JobSpec, TaskSpec};
use crate::model::task::{Task, TaskState};
use crate::model::task_filter::TaskFilter;
use crate::model::tenant::{DEFAULT_NO, DEFAULT_TENANT, Owner, TenantNo};
use crate::model::time::Timestamp;
use crate::model::trace::TraceParent;
use crate::store::sqlite::sealed::{self, Bag, Place};
use crate::store::{LaneNumber, Listed, PAGE_BYTES_MAX, StoreError, StoredTask, TaskRow};
use crate::vault::Vault;

/// A job as JSON, of `jobs j JOIN job_specs p`.
macro_rules! job_text {
    () => {
        "'[\"' || hex(j.id) || '\",' || j.state || ',' || j.total || ',' || j.create_time || ',' || \
         coalesce(j.end_time, 'null') || ',' || j.moving || ',' || p.spec || ',' || \
         coalesce('\"' || nullif(hex(p.sealed), '') || '\"', 'null') || ',' || j.created_by || ',' || j.tenant || ']'"
    };
}

/// The number of the job whose id is `?1`, unless it is deleted.
macro_rules! job_no {
    () => {
        "(SELECT no FROM jobs WHERE id = ?1 AND deleted = 0)"
    };
}

/// The state row `$s` of a task as JSON, with `$log` for its log.
macro_rules! state_text {
    ($s:literal, $log:expr) => {
        concat!(
            "'[' || ",
            $s,
            ".state || ',' || ",
            $s,
            ".attempts || ',' || ",
            $s,
            ".fence || ',' || ",
            $s,
            ".crashes || ',' || coalesce(",
            $s,
            ".due, 'null') || ',' || coalesce(",
            $s,
            ".start_time, 'null') || ',' || coalesce(",
            $s,
            ".end_time, 'null') || ',' || \
             coalesce(CASE typeof(",
            $s,
            ".error) WHEN 'integer' THEN (SELECT x.error FROM shared_errors x \
             WHERE x.id = (",
            $s,
            ".id >> 32 << 32) + ",
            $s,
            ".error) ELSE ",
            $s,
            ".error END, 'null') || ',' || \
             coalesce(",
            $s,
            ".outcome, 'null') || ',' || coalesce(",
            $log,
            ", 'null') || ']'"
        )
    };
}

/// The state row `s`, or null where there is none.
macro_rules! state_or_null {
    ($log:expr) => {
        concat!("CASE WHEN s.id IS NULL THEN 'null' ELSE ", state_text!("s", $log), " END")
    };
}

/// A task as JSON, of `tasks t`, `task_states s` and `claims c`.
macro_rules! task_text {
    ($log:expr) => {
        concat!(
            "'[' || (t.id & 4294967295) || ',' || (t.lane & 4294967295) || ',' || t.spec || ',' || \
             coalesce('\"' || nullif(hex(t.sealed), '') || '\"', 'null') || ',' || \
             CASE WHEN c.id IS NULL THEN 'null' ELSE '[' || c.attempts || ',' || c.fence || ',' || c.crashes || ',' || \
             coalesce(c.start_time, 'null') || ']' END || ',' || ",
            state_or_null!($log),
            " || ']'"
        )
    };
}

/// The log of a state row `s` without a result, cut to the last attempt, which says what is held; else null.
macro_rules! last_attempt {
    () => {
        "CASE WHEN s.outcome IS NULL THEN '[' || (s.log -> '$[#-1]') || ']' END"
    };
}

/// The bytes of [`task_text`], about. Lengths are in the headers of rows: what is long is not read for them.
macro_rules! task_bytes {
    ($log:literal) => {
        concat!(
            "octet_length(t.spec) + coalesce(2 * octet_length(t.sealed), 0) + coalesce(octet_length(s.error), 0) + coalesce(octet_length(s.outcome), 0) \
             + coalesce(octet_length(",
            $log,
            "), 0)"
        )
    };
}

/// All lines of a query as one JSON array.
macro_rules! array_of {
    ($($piece:expr),+) => {
        concat!("SELECT '[' || coalesce(group_concat(line, ',\n'), '') || ']' FROM (", $($piece),+, ")")
    };
}

/// What stands between the lines of a text. Nothing that we wrote has it, so that a line is found whatever another has.
pub(super) const BETWEEN: &str = ",\n";

pub(super) use {array_of, job_no, job_text, last_attempt, state_or_null, state_text, task_bytes, task_text};

/// The text of a statement that gives a page as one JSON array and whether it has all the bytes that a page may have,
/// followed by the columns `more`. `places` selects `id` and `bytes` of the rows in their order; `rest` joins to these
/// places `w` what `line` is made of. The page ends before a row that begins beyond [`PAGE_BYTES_MAX`].
pub(super) fn page_of(places: &str, line: &str, rest: &str, more: &str) -> Arc<str> {
    format!(
        "SELECT '[' || coalesce(group_concat(line, '{BETWEEN}'), '') || ']', coalesce(max(upto), 0) >= {PAGE_BYTES_MAX}{more} \
         FROM (SELECT {line} AS line, w.upto AS upto FROM \
         (SELECT id, bytes, sum(bytes) OVER (ROWS UNBOUNDED PRECEDING) AS upto FROM ({places})) w {rest} \
         WHERE w.upto - w.bytes < {PAGE_BYTES_MAX})"
    )
    .into()
}

/// A page as [`page_of`] gives it.
pub(super) struct Page {
    /// The rows as one JSON array.
    pub(super) text: String,
    /// Whether it ended because of its bytes. The length of the text does not say so: what is counted for a row may be
    /// more than its text, and less.
    pub(super) is_cut: bool,
}

impl Page {
    /// Whether the page, of which so many rows were read, ended because it was full, by rows or by bytes.
    pub(super) fn is_full(&self, rows: usize, limit: u32) -> bool {
        rows > 0 && (rows >= limit as usize || self.is_cut)
    }
}

/// How many rows are read to know whether there are more than `limit`.
pub(super) fn one_more(limit: u32) -> i64 {
    i64::from(limit) + 1
}

/// What a page has for a caller.
pub(super) enum Readable<T> {
    Page(Listed<T>),
    /// None of its rows can be read, and there are more: the first value of the last row.
    GoOn(u32),
}

/// A page of at most `limit` of what `open` makes of the lines of `page`, of which [`one_more`] were asked for. A row that
/// cannot be read is logged and left out, so that it holds nothing that is behind it.
pub(super) fn readable<L: DeserializeOwned, T>(
    page: &Page,
    what: &str,
    limit: u32,
    open: impl Fn(L) -> Result<T, StoreError>,
) -> Readable<T> {
    let lines = good_lines::<L>(&page.text, what);
    let has_more = lines.count > 0 && page.is_cut || lines.count > limit as usize;
    let last = lines.last_head::<1>().and_then(|[first]| first.parse().ok());
    let mut items = opened(lines.good.into_iter().map(open));
    match last {
        Some(last) if items.is_empty() && has_more => Readable::GoOn(last),
        _ => {
            items.truncate(limit as usize);
            Readable::Page(Listed { items, has_more })
        }
    }
}

/// Reads one JSON value that we wrote; `what` names the row.
pub(super) fn parse<T: DeserializeOwned>(text: &str, what: impl Display) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Unreadable(format!("{what}: {error}")))
}

/// Reads what [`array_of`] and [`page_of`] made; `what` names the listing.
pub(super) fn lines<L: DeserializeOwned>(text: &str, what: impl Display) -> Result<Vec<L>, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Unreadable(format!("{what}{}: {error}", place::<L>(text))))
}

/// The lines of a listing that stand for themselves.
pub(super) struct Lines<'t, L> {
    /// Those that parse.
    pub(super) good: Vec<L>,
    /// How many there are in all.
    pub(super) count: usize,
    /// The text of the last one, whether it parses or not; empty where there is none.
    last: &'t str,
}

impl<L> Lines<'_, L> {
    /// The first `N` values of the last line: names, which `SQLite` has put together from keys, whatever stands behind them.
    /// `None`: there is no line.
    pub(super) fn last_head<const N: usize>(&self) -> Option<[&str; N]> {
        head(self.last)
    }
}

fn head<const N: usize>(line: &str) -> Option<[&str; N]> {
    let mut values = line.split(',').map(|value| value.trim_matches(['[', ']', '"']));
    let head: Vec<&str> = values.by_ref().take(N).collect();
    head.try_into().ok()
}

/// Reads a listing line by line. One that does not parse is logged, and its first `N` values are returned, as by
/// [`Lines::last_head`].
pub(super) fn each_line<'t, L: DeserializeOwned, const N: usize>(
    text: &'t str,
    what: &str,
) -> Vec<Result<L, [&'t str; N]>> {
    if let Ok(good) = serde_json::from_str::<Vec<L>>(text) {
        return good.into_iter().map(Ok).collect();
    }
    let read = |line: &'t str| match serde_json::from_str(line) {
        Ok(read) => Some(Ok(read)),
        Err(error) => {
            tracing::error!(%error, "the {what}{} cannot be read and is left out", name(line));
            head(line).map(Err)
        }
    };
    raw_lines(text).filter_map(read).collect()
}

/// Reads a listing whose lines stand for themselves: one that does not parse is logged and left out.
pub(super) fn good_lines<'t, L: DeserializeOwned>(text: &'t str, what: &str) -> Lines<'t, L> {
    if let Ok(good) = serde_json::from_str::<Vec<L>>(text) {
        let inner = text.strip_suffix(']').unwrap_or(text);
        let last = inner.rsplit(BETWEEN).next().unwrap_or_default();
        return Lines { count: good.len(), good, last };
    }
    let (mut good, mut count, mut last) = (Vec::new(), 0, "");
    for line in raw_lines(text) {
        (count, last) = (count + 1, line);
        match serde_json::from_str(line) {
            Ok(read) => good.push(read),
            // The rest of the line may hold secrets.
            Err(error) => tracing::error!(%error, "the {what}{} cannot be read and is left out", name(line)),
        }
    }
    Lines { good, count, last }
}

/// The text of each line.
fn raw_lines(text: &str) -> impl Iterator<Item = &str> {
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    inner.split(BETWEEN).filter(|line| !line.is_empty())
}

/// Names the first line that does not parse, by what stands first in it. The rest may hold secrets.
fn place<L: DeserializeOwned>(text: &str) -> String {
    let bad = raw_lines(text).find(|line| serde_json::from_str::<L>(line).is_err());
    bad.map(name).unwrap_or_default()
}

fn name(line: &str) -> String {
    format!(" {}", line.trim_start_matches('[').split(',').next().unwrap_or_default())
}

/// Returns what the lines of a listing stand for. One whose secrets do not open is logged and left out.
pub(super) fn opened<T>(lines: impl Iterator<Item = Result<T, StoreError>>) -> Vec<T> {
    lines.filter_map(|line| line.inspect_err(|error| tracing::error!("{error}; it is left out")).ok()).collect()
}

/// The counts that are stored; `total` has a column, and what remains is `pending`.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Moved {
    #[serde(skip_serializing_if = "is_default")]
    running: u32,
    #[serde(skip_serializing_if = "is_default")]
    backing_off: u32,
    #[serde(skip_serializing_if = "is_default")]
    succeeded: u32,
    #[serde(skip_serializing_if = "is_default")]
    failed: u32,
    #[serde(skip_serializing_if = "is_default")]
    cancelled: u32,
}

impl Moved {
    fn of(counts: Counts) -> Moved {
        let Counts { total: _, pending: _, running, backing_off, succeeded, failed, cancelled } = counts;
        Moved { running, backing_off, succeeded, failed, cancelled }
    }

    fn counts(self, job: JobId, total: u32) -> Counts {
        let Moved { running, backing_off, succeeded, failed, cancelled } = self;
        let counts = Counts { total, pending: 0, running, backing_off, succeeded, failed, cancelled };
        with_pending(job, counts)
    }
}

/// What of the total is in no other state is PENDING.
pub(super) fn with_pending(job: JobId, counts: Counts) -> Counts {
    let Counts { total, running, backing_off, succeeded, failed, cancelled, .. } = counts;
    let others = [running, backing_off, succeeded, failed, cancelled].into_iter().map(i64::from).sum::<i64>();
    let pending = i64::from(total) - others;
    if pending < 0 {
        tracing::error!(%job, ?counts, "a job has more tasks in its states than in all");
    }
    Counts { pending: u32::try_from(pending).unwrap_or(0), ..counts }
}

/// The part of a job that moves and that no query names.
#[derive(Serialize, Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Moving {
    #[serde(skip_serializing_if = "is_default")]
    open: bool,
    #[serde(skip_serializing_if = "is_default")]
    stop: Option<Stop>,
    counts: Moved,
    #[serde(skip_serializing_if = "is_default")]
    ended_bytes: u64,
    #[serde(skip_serializing_if = "is_default")]
    held: Held,
    #[serde(skip_serializing_if = "is_default")]
    failure: Option<Box<TaskError>>,
    #[serde(skip_serializing_if = "Failures::is_empty")]
    failures: Failures,
    sequence: u64,
    #[serde(skip_serializing_if = "is_default")]
    start_time: Option<Timestamp>,
    update_time: Timestamp,
    #[serde(skip_serializing_if = "is_default")]
    retrying: Option<TaskIndex>,
    #[serde(skip_serializing_if = "is_default")]
    retry_filter: Option<Box<TaskFilter>>,
    #[serde(skip_serializing_if = "is_default")]
    settled_failures: u32,
    #[serde(skip_serializing_if = "is_default")]
    settled_successes: u32,
    #[serde(skip_serializing_if = "is_default")]
    downloads: bool,
    #[serde(skip_serializing_if = "is_default")]
    creator: String,
    #[serde(skip_serializing_if = "is_default")]
    secrets_gone: bool,
    #[serde(skip_serializing_if = "is_default")]
    credentials: BTreeSet<String>,
    #[serde(skip_serializing_if = "is_default_tenant")]
    tenant: Arc<str>,
    #[serde(skip_serializing_if = "is_default")]
    caller: Option<Box<TraceParent>>,
}

fn is_default_tenant(name: &Arc<str>) -> bool {
    **name == *DEFAULT_TENANT
}

/// The column `jobs.moving`.
pub(super) fn moving(job: &Job) -> Result<String, serde_json::Error> {
    serde_json::to_string(&Moving {
        open: job.open,
        stop: job.stop.clone(),
        counts: Moved::of(job.counts),
        ended_bytes: job.ended_bytes,
        held: job.held,
        failure: job.failure.clone(),
        failures: job.failures.clone(),
        sequence: job.sequence,
        start_time: job.start_time,
        update_time: job.update_time,
        retrying: job.retrying,
        retry_filter: job.retry_filter.clone(),
        settled_failures: job.settled_failures,
        settled_successes: job.settled_successes,
        downloads: job.downloads,
        creator: job.creator.name.clone(),
        secrets_gone: job.secrets_gone,
        credentials: job.credentials.clone(),
        tenant: job.tenant.name.clone(),
        caller: job.caller.clone(),
    })
}

/// See [`job_text`].
#[derive(Deserialize)]
pub(super) struct JobLine(
    JobId,
    State<JobState>,
    u32,
    Timestamp,
    Option<Timestamp>,
    Moving,
    JobSpec,
    Option<Bag>,
    PrincipalNo,
    TenantNo,
);

impl JobLine {
    pub(super) fn into_job(self, vault: &Vault) -> Result<Job, StoreError> {
        let JobLine(id, State(state), total, create_time, end_time, moving, spec, bag, creator, tenant) = self;
        let spec = sealed::whole(vault, Place::Job(id), spec, Bag::bytes(bag.as_ref()))?;
        Ok(Job {
            id,
            spec: Arc::new(spec),
            state,
            open: moving.open,
            stop: moving.stop,
            counts: moving.counts.counts(id, total),
            ended_bytes: moving.ended_bytes,
            held: moving.held,
            failure: moving.failure,
            failures: moving.failures,
            sequence: moving.sequence,
            create_time,
            start_time: moving.start_time,
            end_time,
            update_time: moving.update_time,
            retrying: moving.retrying,
            retry_filter: moving.retry_filter,
            settled_failures: moving.settled_failures,
            settled_successes: moving.settled_successes,
            downloads: moving.downloads,
            creator: Creator { no: creator, name: moving.creator },
            secrets_gone: moving.secrets_gone,
            credentials: moving.credentials,
            tenant: if tenant == DEFAULT_NO { Owner::default() } else { Owner { no: tenant, name: moving.tenant } },
            caller: moving.caller,
        })
    }
}

/// A state by its number in the contract.
#[derive(Deserialize)]
#[serde(try_from = "i64")]
#[serde(bound(deserialize = "State<S>: TryFrom<i64>, <State<S> as TryFrom<i64>>::Error: Display"))]
pub(super) struct State<S>(pub(super) S);

impl TryFrom<i64> for State<JobState> {
    type Error = String;

    fn try_from(number: i64) -> Result<Self, String> {
        JobState::from_number(number).map(State).ok_or_else(|| format!("a job has the unknown state {number}"))
    }
}

impl TryFrom<i64> for State<TaskState> {
    type Error = String;

    fn try_from(number: i64) -> Result<Self, String> {
        TaskState::from_number(number).map(State).ok_or_else(|| format!("a task has the unknown state {number}"))
    }
}

/// See [`state_text`].
#[derive(Deserialize)]
pub(super) struct StateLine(
    State<TaskState>,
    u32,
    u32,
    u32,
    Option<Timestamp>,
    Option<Timestamp>,
    Option<Timestamp>,
    Option<TaskError>,
    Option<Outcome>,
    Option<Vec<Attempt>>,
);

impl StateLine {
    pub(super) fn into_row(self) -> TaskRow {
        let StateLine(State(state), attempts, fence, crashes, due, start_time, end_time, error, outcome, log) = self;
        let task = Task { state, attempts, fence, crashes, due, start_time, end_time, error };
        TaskRow { task, log: log.unwrap_or_default(), outcome }
    }
}

/// Attempts, fence, crashes, and start of the task, as of the running attempt.
type ClaimLine = (u32, u32, u32, Option<Timestamp>);

/// See [`task_text`].
#[derive(Deserialize)]
pub(super) struct TaskLine(TaskIndex, LaneNumber, TaskSpec, Option<Bag>, Option<ClaimLine>, Option<StateLine>);

impl TaskLine {
    pub(super) fn index(&self) -> TaskIndex {
        self.0
    }

    pub(super) fn into_task(self, vault: &Vault, job: JobId) -> Result<StoredTask, StoreError> {
        let TaskLine(index, lane, spec, bag, claim, state) = self;
        let spec = Arc::new(sealed::whole(vault, Place::Task(job, index), spec, Bag::bytes(bag.as_ref()))?);
        let mut row = state.map(StateLine::into_row).unwrap_or_default();
        if let Some((attempts, fence, crashes, start_time)) = claim {
            // The state row is from before the attempt: its error is the last one, its log goes on, its due is over.
            let error = row.task.error.take();
            let state = TaskState::Running;
            row.task = Task { state, attempts, fence, crashes, due: None, start_time, end_time: None, error };
        }
        Ok(StoredTask { index, lane, spec, row })
    }
}

/// Reads a page of [`task_text`] of one job.
pub(super) fn listed_tasks(vault: &Vault, page: &Page, job: JobId, limit: u32) -> Readable<StoredTask> {
    readable(page, &format!("task of job `{job}`:"), limit, |line: TaskLine| line.into_task(vault, job))
}
