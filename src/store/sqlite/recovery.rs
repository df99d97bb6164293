//! What a restart reads: unfinished jobs with their lanes, the attempts that were cut, and the tasks that wait. Queued
//! tasks are not among it.

use std::sync::{Arc, LazyLock};

use serde::Deserialize;
use serde_json::value::RawValue;
use sqlx::AssertSqlSafe;

use crate::model::host::Host;
use crate::model::ids::{Fence, JobId, TaskId, TaskIndex};
use crate::model::spec::JobSpec;
use crate::model::task::{Task, TaskState};
use crate::model::time::Timestamp;
use crate::store::sqlite::columns::blob;
use crate::store::sqlite::lines::{self, array_of};
use crate::store::sqlite::reader::{Ask, Reader};
use crate::store::sqlite::rows::{
    JobLine, TaskLine, job_no, job_text, state_or_null, state_text, task_bytes, task_text,
};
use crate::store::sqlite::sealed::{self, Bag, Place};
use crate::store::{
    CutAttempt, CutPage, DuePage, DueTask, LaneNumber, Recovered, StoreError, UnfinishedJobs, UnreadableAttempt,
};
use crate::vault::Vault;

/// Jobs of one part. Small ones reach it long before 4 MiB: a part takes several times its text while it is read, and the next
/// one is read while it is taken in.
const JOBS_MAX: u32 = 1024;
/// Lanes up to which it costs more to look how long they are than to take them to be as long as a host can be.
const FEW_LANES: u32 = 8;
/// The bytes of a lane whose host is as long as it can be.
const LANE_BYTES_MAX: u32 = 270;
/// Attempts of one part.
const CLAIMS_MAX: u32 = 4096;

/// A job and its lanes.
#[derive(Deserialize)]
struct RecoveredLine<'t>(#[serde(borrow)] JobLine<&'t RawValue>, Vec<(Host, TaskIndex)>);

/// Reads the specs of jobs, and none twice that stands in two jobs one after the other: those that wait are many, and most are
/// like the one before.
struct Specs<'t> {
    vault: &'t Vault,
    last: Option<(&'t str, Arc<JobSpec>)>,
}

impl<'t> Specs<'t> {
    fn whole(&mut self, id: JobId, spec: &'t RawValue, bag: Option<&Bag>) -> Result<Arc<JobSpec>, StoreError> {
        if let Some((text, last)) = &self.last
            && *text == spec.get()
            && bag.is_none()
        {
            return Ok(last.clone());
        }
        let left: JobSpec = lines::parse(spec.get(), format_args!("the spec of unfinished job {id}"))?;
        let whole = Arc::new(sealed::whole(self.vault, Place::Job(id), left, Bag::bytes(bag))?);
        // With secrets it is of this job alone.
        self.last = bag.is_none().then(|| (spec.get(), whole.clone()));
        Ok(whole)
    }
}

/// Reads unfinished jobs with their lanes.
fn jobs_of(text: &[u8], vault: &Vault) -> UnfinishedJobs {
    let mut specs = Specs { vault, last: None };
    let lines = lines::good_lines::<RecoveredLine<'_>>(text, "unfinished job");
    let open = |RecoveredLine(job, lanes)| Ok((job.into_job_with(|id, spec, bag| specs.whole(id, spec, bag))?, lanes));
    lines::opened(lines.good.into_iter().map(open))
}

pub(super) async fn recover(reader: &Reader, after: Option<JobId>) -> Result<Recovered, StoreError> {
    static PAGE: LazyLock<Arc<str>> = LazyLock::new(|| {
        let in_state = |state: u32| {
            format!(
                "SELECT u.id AS name, u.no AS no FROM jobs u INDEXED BY jobs_state WHERE u.state = {state} \
                 AND u.deleted = 0 AND u.id > ?1"
            )
        };
        let unfinished: Vec<String> = (1..=4).map(in_state).collect();
        let places = format!(
            "SELECT f.no AS id, octet_length(j.moving) + octet_length(p.spec) + coalesce(2 * octet_length(p.sealed), 0) + \
             CASE WHEN j.total <= {FEW_LANES} THEN j.total * {LANE_BYTES_MAX} ELSE coalesce((SELECT \
             sum(octet_length(l.host) + 8) FROM lanes l WHERE l.id BETWEEN (f.no << 32) AND ((f.no << 32) | 4294967295)), 0) END \
             AS bytes FROM ({} ORDER BY name LIMIT {JOBS_MAX}) f CROSS JOIN jobs j ON j.no = f.no \
             CROSS JOIN job_specs p ON p.job = f.no",
            unfinished.join(" UNION ALL ")
        );
        let line = concat!(
            "concat('[', ",
            job_text!(),
            ", ',[', (SELECT group_concat(l.line, ',') FROM (SELECT json_array(host, head) AS line FROM lanes \
             WHERE id BETWEEN (w.id << 32) AND ((w.id << 32) | 4294967295) ORDER BY id) l), ']]')"
        );
        let rest = "CROSS JOIN jobs j ON j.no = w.id CROSS JOIN job_specs p ON p.job = w.id";
        lines::page_of(&places, line, rest, "")
    });
    let after = after.map(blob).unwrap_or_default();
    let page = reader.page(Ask::new(AssertSqlSafe(PAGE.clone())).bind(after)).await?;
    let (count, last) = lines::count_and_last_head(page.text.as_ref());
    let last = last.filter(|_| page.is_full(count, JOBS_MAX));
    let next = last.map(|[job]: [&str; 1]| job_of(job)).transpose()?;
    let vault = reader.vault.clone();
    Ok(Recovered::new(next, move || jobs_of(page.text.as_ref(), &vault)))
}

/// The id in a line that [`lines::Lines::last_head`] found.
fn job_of(text: &str) -> Result<JobId, StoreError> {
    lines::parse(format!("\"{text}\""), "the id of a job")
}

/// The task named by a job and an index; see [`lines::Lines::last_head`].
fn task_of([job, index]: [&str; 2]) -> Result<TaskId, StoreError> {
    Ok(TaskId { job: job_of(job)?, index: lines::parse(index, "the index of a task")? })
}

/// The task named by a job, a number that goes before its index, and its index; see [`lines::Lines::last_head`].
fn place_of([job, number, index]: [&str; 3]) -> Result<(TaskId, Timestamp), StoreError> {
    Ok((task_of([job, index])?, lines::parse(number, "a time")?))
}

/// Job, index and lane of the task, attempts, fence and start of the task, start of the attempt, task.
#[derive(Deserialize)]
struct ClaimLine(JobId, TaskIndex, LaneNumber, u32, Fence, Option<Timestamp>, Timestamp, TaskLine);

/// Those values of a [`ClaimLine`] that stand there whatever is damaged in the rows of the task.
type ClaimHead<'t> = [&'t str; 6];

impl ClaimLine {
    fn into_cut(self, vault: &Vault) -> Result<CutAttempt, Box<(StoreError, UnreadableAttempt)>> {
        let ClaimLine(job, index, lane, attempts, fence, start_time, attempt_start, task) = self;
        let id = TaskId { job, index };
        match task.into_task(vault, job) {
            Ok(task) => Ok(CutAttempt { id, attempt_start, task }),
            Err(error) => Err(Box::new((error, unreadable(id, lane, attempts, fence, start_time)))),
        }
    }
}

fn unreadable(
    id: TaskId,
    lane: LaneNumber,
    attempts: u32,
    fence: Fence,
    start_time: Option<Timestamp>,
) -> UnreadableAttempt {
    let state = TaskState::Running;
    UnreadableAttempt { id, lane, task: Task { state, attempts, fence, start_time, ..Task::default() } }
}

fn unreadable_of(
    [job, index, lane, attempts, fence, start_time]: ClaimHead<'_>,
) -> Result<UnreadableAttempt, StoreError> {
    let what = "a claim of a task that cannot be read";
    let id = TaskId { job: job_of(job)?, index: lines::parse(index, what)? };
    let (lane, attempts) = (lines::parse(lane, what)?, lines::parse(attempts, what)?);
    Ok(unreadable(id, lane, attempts, lines::parse(fence, what)?, lines::parse(start_time, what)?))
}

pub(super) async fn claims(reader: &Reader, after: Option<TaskId>) -> Result<CutPage, StoreError> {
    static PAGE: LazyLock<Arc<str>> = LazyLock::new(|| {
        let places = format!(
            concat!(
                "SELECT c.id AS id, coalesce(",
                task_bytes!("s.log"),
                ", 0) AS bytes FROM claims c LEFT JOIN tasks t ON t.id = c.id LEFT JOIN task_states s ON s.id = c.id \
                 WHERE c.id > CASE WHEN ?2 < 0 THEN -1 ELSE ((SELECT no FROM jobs WHERE id = ?1) << 32) | ?2 END \
                 ORDER BY c.id LIMIT {}"
            ),
            CLAIMS_MAX
        );
        // What stands before the task is read whatever is damaged, and if its row is gone. No later attempt has the fence, whichever
        // row is damaged.
        let line = concat!(
            "concat('[\"', hex(j.id), '\",', c.id & 4294967295, ',', coalesce(t.lane & 4294967295, 0), ',', \
             min(max(CAST(c.attempts AS INTEGER), 0), 4294967295), ',', \
             min(max(CAST(c.fence AS INTEGER), coalesce(CAST(s.fence AS INTEGER), 0), 0), 4294967294), ',', \
             coalesce(CAST(c.start_time AS INTEGER), 'null'), ',', c.attempt_start, ',', ",
            task_text!("s.log"),
            ", ']')"
        );
        let rest = "CROSS JOIN claims c ON c.id = w.id CROSS JOIN jobs j ON j.no = w.id >> 32 \
             LEFT JOIN tasks t ON t.id = w.id LEFT JOIN task_states s ON s.id = w.id";
        lines::page_of(&places, line, rest, "")
    });
    let (job, index) = after.map_or((Vec::new(), -1), |id| (blob(id.job), i64::from(id.index)));
    let page = reader.page(Ask::new(AssertSqlSafe(PAGE.clone())).bind(job).bind(index)).await?;
    let (count, last) = lines::count_and_last_head(page.text.as_ref());
    let last = last.filter(|_| page.is_full(count, CLAIMS_MAX));
    let mut found = CutPage { next: last.map(task_of).transpose()?, ..CutPage::default() };
    for line in lines::each_line::<ClaimLine, 6>(page.text.as_ref(), "cut attempt of job") {
        match line.map(|line| line.into_cut(&reader.vault)) {
            Ok(Ok(cut)) => found.attempts.push(cut),
            Ok(Err(unreadable)) => {
                tracing::error!("{}", unreadable.0);
                found.unreadable.push(unreadable.1);
            }
            Err(head) => match unreadable_of(head) {
                Ok(unreadable) => found.unreadable.push(unreadable),
                Err(error) => tracing::error!("{error}; it is left out"),
            },
        }
    }
    Ok(found)
}

pub(super) async fn lanes(reader: &Reader, job: JobId) -> Result<Vec<(Host, TaskIndex)>, StoreError> {
    let sql = array_of!(
        "SELECT json_array(host, head) AS line FROM lanes WHERE id BETWEEN (",
        job_no!(),
        " << 32) AND ((",
        job_no!(),
        " << 32) | 4294967295) ORDER BY id"
    );
    let text = reader.text(Ask::new(sql).bind(blob(job))).await?;
    lines::lines(&text, format_args!("lane of job `{job}`:"))
}

/// Job, due time, task.
#[derive(Deserialize)]
struct DueLine(JobId, Timestamp, TaskLine);

/// Tasks of equal due time are ordered by their ids, so that a page can end among them.
pub(super) async fn due(reader: &Reader, after: Option<DueTask>, limit: u32) -> Result<DuePage, StoreError> {
    static PAGE: LazyLock<Arc<str>> = LazyLock::new(|| {
        let places = concat!(
            "SELECT s.id AS id, ",
            task_bytes!("s.log"),
            " AS bytes FROM task_states s INDEXED BY task_states_due CROSS JOIN jobs j ON j.no = s.id >> 32 \
             CROSS JOIN tasks t ON t.id = s.id WHERE s.due IS NOT NULL AND s.due >= ?1 \
             AND (s.due, j.id, s.id & 4294967295) > (?1, ?2, ?3) AND s.state = 3 \
             AND NOT EXISTS (SELECT 1 FROM claims c WHERE c.id = s.id) ORDER BY s.due, j.id, s.id LIMIT ?4 + 0"
        );
        let line = concat!("'[\"' || hex(j.id) || '\",' || s.due || ',' || ", task_text!("s.log"), " || ']'");
        let rest = "CROSS JOIN task_states s ON s.id = w.id CROSS JOIN tasks t ON t.id = w.id \
             CROSS JOIN jobs j ON j.no = w.id >> 32 LEFT JOIN claims c ON c.id = w.id";
        lines::page_of(places, line, rest, "")
    });
    let (time, job, index) = match after {
        Some(DueTask { due, id }) => (due.0, blob(id.job), i64::from(id.index)),
        None => (i64::MIN, Vec::new(), -1),
    };
    let ask = Ask::new(AssertSqlSafe(PAGE.clone())).bind(time).bind(job).bind(index).bind(limit);
    let page = reader.page(ask).await?;
    let lines = lines::good_lines::<DueLine>(page.text.as_ref(), "waiting task of job");
    let last = lines.last_head().filter(|_| page.is_full(lines.count, limit));
    let next = last.map(place_of).transpose()?.map(|(id, due)| DueTask { due, id });
    let waiting = |DueLine(job, due, task): DueLine| {
        let task = task.into_task(&reader.vault, job)?;
        Ok((DueTask { due, id: TaskId { job, index: task.index } }, task))
    };
    Ok(DuePage { tasks: lines::opened(lines.good.into_iter().map(waiting)), next })
}
