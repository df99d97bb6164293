//! Tasks as they were submitted, and reads of tasks with their states.

use std::sync::{Arc, LazyLock};

use serde::Deserialize;
use sqlx::AssertSqlSafe;

use crate::model::counts::Counts;
use crate::model::ids::{JobId, TaskId, TaskIndex};
use crate::model::spec::TaskSpec;
use crate::model::task::TaskState;
use crate::model::time::Timestamp;
use crate::store::sqlite::columns::blob;
use crate::store::sqlite::errors::Fault;
use crate::store::sqlite::insert::{Insert, Values};
use crate::store::sqlite::lines::{self, Page, Readable, array_of};
use crate::store::sqlite::numbers::key;
use crate::store::sqlite::reader::{Ask, Reader};
use crate::store::sqlite::rows::{
    self, State, TaskLine, job_no, last_attempt, state_or_null, state_text, task_bytes, task_text,
};
use crate::store::sqlite::script::Script;
use crate::store::sqlite::sealed::{self, Place};
use crate::store::sqlite::text::Text;
use crate::store::{LaneNumber, LanePage, Listed, StoreError, StoredTask};
use crate::vault::Vault;

static TASKS: Insert = Insert::new("tasks (id, lane, spec, sealed)", 4, "");
static KEYS: Insert = Insert::new("task_keys (job, key, task)", 3, "");

/// How many tasks of a lane one page looks at, those that cannot start included: about 10 ms.
const LANE_LOOK_MAX: u32 = 16_384;

/// A task to insert.
pub(super) struct NewTask<'a> {
    /// The number of its job.
    pub(super) no: i64,
    pub(super) job: JobId,
    pub(super) index: TaskIndex,
    pub(super) lane: LaneNumber,
    pub(super) spec: &'a TaskSpec,
}

pub(super) async fn insert(script: &mut Script<'_>, vault: &Vault, tasks: &[NewTask<'_>]) -> Result<(), Fault> {
    let bind = |row: &mut Values, NewTask { no, job, index, lane, spec }: &NewTask<'_>| {
        let (spec, bag) = sealed::row(vault, Place::Task(*job, *index), *spec)?;
        row.add(key(*no, *index))?.add(key(*no, *lane))?.add(spec)?.add(bag).map(drop)
    };
    script.insert(&TASKS, tasks, bind, None).await?;
    let keyed: Vec<&NewTask<'_>> = tasks.iter().filter(|task| !task.spec.key.is_empty()).collect();
    let bind = |row: &mut Values, task: &&NewTask<'_>| {
        row.add(task.no)?.add(task.spec.key.as_str())?.add(key(task.no, task.index)).map(drop)
    };
    script.insert(&KEYS, &keyed, bind, None).await
}

/// The tables that make up a task, joined to its place `w`.
const OF_PLACE: &str = "CROSS JOIN tasks t ON t.id = w.id LEFT JOIN task_states s ON s.id = w.id \
                        LEFT JOIN claims c ON c.id = w.id";

/// The tables that make up a task, all found by one key.
macro_rules! joined {
    () => {
        " FROM tasks t LEFT JOIN task_states s ON s.id = t.id LEFT JOIN claims c ON c.id = t.id "
    };
}

/// The keys of a job's tasks from index `?2` on, of the table `$t`.
macro_rules! from_index {
    ($t:literal) => {
        concat!($t, ".id >= ((", job_no!(), " << 32) | ?2) AND ", $t, ".id <= ((", job_no!(), " << 32) | 4294967295)")
    };
}

pub(super) async fn task(reader: &Reader, id: TaskId) -> Result<Option<StoredTask>, StoreError> {
    let sql = concat!("SELECT ", task_text!("s.log"), joined!(), "WHERE t.id = (", job_no!(), " << 32) | ?2");
    one(reader, Ask::new(sql).bind(blob(id.job)).bind(id.index), id.job).await
}

pub(super) async fn by_key(reader: &Reader, job: JobId, key: &str) -> Result<Option<StoredTask>, StoreError> {
    let sql = concat!(
        "SELECT ",
        task_text!("s.log"),
        joined!(),
        "WHERE t.id = (SELECT k.task FROM task_keys k WHERE k.job = ",
        job_no!(),
        " AND k.key = ?2)"
    );
    one(reader, Ask::new(sql).bind(blob(job)).bind(key), job).await
}

async fn one(reader: &Reader, ask: Ask, job: JobId) -> Result<Option<StoredTask>, StoreError> {
    let found: Option<(Text,)> = reader.first(ask).await?;
    let read = |(text,): (Text,)| lines::parse::<rows::TaskLine>(&text, format_args!("task of job `{job}`"));
    found.map(read).transpose()?.map(|line| line.into_task(&reader.vault, job)).transpose()
}

/// The places of tasks in one of `states`, in order: each state is a range of an index, and the ranges are merged.
/// `started`: only tasks that an attempt was made at.
fn places_by_state(states: &[TaskState], started: bool) -> String {
    const PUT_BACK: &str = " AND NOT EXISTS (SELECT 1 FROM claims c WHERE c.id = s.id)";
    // Nothing before the lowest head of a lane is PENDING.
    const FRESH: &str = concat!(
        "SELECT t.id AS id FROM tasks t WHERE t.id >= (",
        job_no!(),
        " << 32) + max(?2, coalesce((SELECT min(l.head) FROM lanes l WHERE l.id BETWEEN (",
        job_no!(),
        " << 32) AND ((",
        job_no!(),
        " << 32) | 4294967295)), 4294967295)) AND t.id <= ((",
        job_no!(),
        " << 32) | 4294967295) AND NOT EXISTS (SELECT 1 FROM task_states s WHERE s.id = t.id) \
         AND NOT EXISTS (SELECT 1 FROM claims c WHERE c.id = t.id)"
    );
    const RUNNING: &str = concat!("SELECT c.id AS id FROM claims c WHERE ", from_index!("c"));
    let mut arms = Vec::new();
    for state in TaskState::ALL.into_iter().filter(|state| states.contains(state)) {
        if state == TaskState::Running {
            arms.push(RUNNING.to_owned());
            continue;
        }
        if state == TaskState::Pending && !started {
            arms.push(FRESH.to_owned());
        }
        let unclaimed = if state.is_ended() { "" } else { PUT_BACK };
        for begun in if started { &[1][..] } else { &[0, 1] } {
            arms.push(format!(
                "SELECT s.id AS id FROM task_states s INDEXED BY task_states_state WHERE s.state = {} \
                 AND (s.fence > 0) = {begun} AND {}{unclaimed}",
                state as i64,
                from_index!("s")
            ));
        }
    }
    arms.join(" UNION ALL ") + " ORDER BY id"
}

/// The text of a listing of tasks in some states; `filter` is a condition over `t`.
fn by_state(states: &[TaskState], started: bool, line: &str, bytes: &str, filter: &str) -> Arc<str> {
    let places = format!(
        "SELECT t.id AS id, {bytes} AS bytes FROM ({}) f CROSS JOIN tasks t ON t.id = f.id \
         LEFT JOIN task_states s ON s.id = f.id {filter} LIMIT ?3 + 0",
        places_by_state(states, started)
    );
    lines::page_of(&places, line, OF_PLACE, "")
}

/// Reads the page of `sql` that begins with `from`.
async fn listed(
    reader: &Reader,
    sql: &Arc<str>,
    job: JobId,
    mut from: TaskIndex,
    limit: u32,
) -> Result<Listed<StoredTask>, StoreError> {
    loop {
        let ask = Ask::new(AssertSqlSafe(sql.clone())).bind(blob(job)).bind(from).bind(lines::one_more(limit));
        let page = reader.page(ask).await?;
        from = match rows::listed_tasks(&reader.vault, &page, job, limit) {
            Readable::Page(page) => return Ok(page),
            Readable::GoOn(last) => last.saturating_add(1),
        };
    }
}

pub(super) async fn list(
    reader: &Reader,
    job: JobId,
    states: &[TaskState],
    from: TaskIndex,
    limit: u32,
) -> Result<Listed<StoredTask>, StoreError> {
    static ALL: LazyLock<Arc<str>> = LazyLock::new(|| {
        let places = concat!(
            "SELECT t.id AS id, ",
            task_bytes!("NULL"),
            " AS bytes FROM tasks t LEFT JOIN task_states s ON s.id = t.id WHERE ",
            from_index!("t"),
            " ORDER BY t.id LIMIT ?3 + 0"
        );
        lines::page_of(places, task_text!(last_attempt!()), OF_PLACE, "")
    });
    let sql = match states {
        [] => ALL.clone(),
        states => by_state(states, false, task_text!(last_attempt!()), task_bytes!("NULL"), ""),
    };
    listed(reader, &sql, job, from, limit).await
}

/// A job without any download is not looked through.
pub(super) async fn downloads(
    reader: &Reader,
    job: JobId,
    states: &[TaskState],
    from: TaskIndex,
    limit: u32,
) -> Result<Listed<StoredTask>, StoreError> {
    const FILTER: &str = concat!(
        "WHERE (SELECT downloads FROM jobs WHERE no = ",
        job_no!(),
        ") = 1 AND CASE WHEN json_valid(t.spec) THEN t.spec -> '$.work.download' IS NOT NULL ELSE 1 END"
    );
    if states.is_empty() {
        return Ok(Listed::default());
    }
    let sql = by_state(states, true, task_text!("s.log"), task_bytes!("s.log"), FILTER);
    listed(reader, &sql, job, from, limit).await
}

/// Quick wherever in the lane `from` is: both conditions are ranges of one index.
pub(super) async fn lane_page(
    reader: &Reader,
    job: JobId,
    lane: LaneNumber,
    from: TaskIndex,
    limit: u32,
    now: Timestamp,
) -> Result<LanePage, StoreError> {
    macro_rules! of_lane {
        () => {
            concat!(
                "FROM tasks t INDEXED BY tasks_lane WHERE t.lane = ((",
                job_no!(),
                " << 32) | ?3) AND ",
                from_index!("t"),
                " ORDER BY t.id LIMIT "
            )
        };
    }
    static PAGE: LazyLock<Arc<str>> = LazyLock::new(|| {
        let places = format!(
            concat!(
                "SELECT k.id AS id, ",
                task_bytes!("s.log"),
                " AS bytes FROM (SELECT t.id AS id ",
                of_lane!(),
                "{}) k CROSS JOIN tasks t ON t.id = k.id LEFT JOIN task_states s ON s.id = k.id \
                 LEFT JOIN claims c ON c.id = k.id WHERE c.id IS NULL \
                 AND (s.id IS NULL OR s.state = 1 OR (s.state = 3 AND s.due <= ?5)) LIMIT ?4 + 0"
            ),
            LANE_LOOK_MAX
        );
        let rest = format!(
            concat!(", CASE WHEN count(*) < ?4 THEN (SELECT t.id & 4294967295 ", of_lane!(), "1 OFFSET {}) END"),
            LANE_LOOK_MAX
        );
        lines::page_of(&places, task_text!("s.log"), OF_PLACE, &rest)
    });
    let ask = Ask::new(AssertSqlSafe(PAGE.clone())).bind(blob(job)).bind(from).bind(lane).bind(limit).bind(now.0);
    let (text, is_cut, beyond): (Text, bool, Option<u32>) = reader.first(ask).await?.unwrap_or_default();
    // Tasks that cannot be read do not hold those behind them.
    let page = Page { text, is_cut };
    let index_of = |[index]: [&str; 1]| lines::parse::<TaskIndex>(index, "the index of a task");
    let (count, last) = lines::count_and_last_head(page.text.as_ref());
    let next = match last.filter(|_| page.is_full(count, limit)) {
        Some(last) => index_of(last)?.checked_add(1),
        None => beyond,
    };
    let mut found = LanePage { next, ..LanePage::default() };
    for line in lines::each_line::<TaskLine, 1>(page.text.as_ref(), "waiting task") {
        let task = match line {
            Ok(line) => (line.index(), line.into_task(&reader.vault, job)),
            Err(head) => (index_of(head)?, Err(StoreError::Unreadable("its row does not parse".to_owned()))),
        };
        match task {
            (_, Ok(task)) => found.tasks.push(task),
            (index, Err(error)) => {
                tracing::error!("task {index} of job {job} cannot be read and is left out: {error}");
                found.first_unreadable.get_or_insert(index);
            }
        }
    }
    Ok(found)
}

/// A task's index and its state.
#[derive(Deserialize)]
struct StateOf(TaskIndex, State<TaskState>);

pub(super) async fn states(
    reader: &Reader,
    job: JobId,
    indexes: &[TaskIndex],
) -> Result<Vec<(TaskIndex, TaskState)>, StoreError> {
    let sql = array_of!(
        "SELECT '[' || (t.id & 4294967295) || ',' || CASE WHEN c.id IS NULL THEN coalesce(s.state, 1) ELSE 2 END || ']' \
         AS line",
        joined!(),
        "WHERE t.id IN (SELECT (",
        job_no!(),
        " << 32) | value FROM json_each(?2)) ORDER BY t.id"
    );
    let wanted = serde_json::to_string(indexes).map_err(|error| StoreError::Unreadable(error.to_string()))?;
    let text = reader.text(Ask::new(sql).bind(blob(job)).bind(wanted)).await?;
    let found: Vec<StateOf> = lines::lines(&text, format_args!("state of a task of job `{job}`:"))?;
    Ok(found.into_iter().map(|StateOf(index, State(state))| (index, state)).collect())
}

/// Total, running, backing off, succeeded, failed, cancelled.
type CountRow = (u32, u32, u32, u32, u32, u32);

pub(super) async fn recount(reader: &Reader, job: JobId) -> Result<Counts, StoreError> {
    macro_rules! in_state {
        ($state:literal) => {
            concat!(
                "(SELECT count(*) FROM task_states s INDEXED BY task_states_state WHERE s.state = ",
                $state,
                " AND (s.fence > 0) IN (0, 1) AND ",
                from_index!("s"),
                ")"
            )
        };
    }
    let sql = concat!(
        "SELECT total, (SELECT count(*) FROM claims c WHERE ",
        from_index!("c"),
        "), ",
        in_state!("3"),
        " - (SELECT count(*) FROM claims c CROSS JOIN task_states s ON s.id = c.id WHERE s.state = 3 AND ",
        from_index!("c"),
        "), ",
        in_state!("4"),
        ", ",
        in_state!("5"),
        ", ",
        in_state!("6"),
        " FROM jobs WHERE id = ?1 AND deleted = 0"
    );
    let found: Option<CountRow> = reader.first(Ask::new(sql).bind(blob(job)).bind(0)).await?;
    let Some((total, running, backing_off, succeeded, failed, cancelled)) = found else {
        return Ok(Counts::default());
    };
    Ok(rows::with_pending(job, Counts { total, pending: 0, running, backing_off, succeeded, failed, cancelled }))
}
