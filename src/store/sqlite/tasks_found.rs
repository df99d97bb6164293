//! Looks for tasks by what they are, how they failed and where they go, each question by the index that fits it.
//!
//! States are found by their index, and so is the lane of a single host; other conditions are judged row by row, and a text
//! by what people see of a task, which the database does not have.

use serde::Deserialize;

use crate::model::ids::JobId;
use crate::model::task::TaskState;
use crate::store::sqlite::columns::blob;
use crate::store::sqlite::conditions;
use crate::store::sqlite::lines::{self, BETWEEN};
use crate::store::sqlite::look::{Judge, Look, Step};
use crate::store::sqlite::reader::{Ask, Reader};
use crate::store::sqlite::rows::{TaskLine, job_no, last_attempt, state_or_null, state_text, task_bytes, task_text};
use crate::store::sqlite::text::Text;
use crate::store::sqlite::values::{Value, Values};
use crate::store::{PAGE_BYTES_MAX, StoreError, TaskPage, TaskQuery};

/// A task that was found: how many rows were looked at with it, and the task.
#[derive(Deserialize)]
struct Line(u32, TaskLine);

/// What the rows are found by.
enum Index {
    /// The ids themselves.
    Ids,
    /// One range for each state, merged.
    States(Vec<TaskState>),
    /// This lane.
    Lane(i64),
}

pub(super) async fn find(reader: &Reader, job: JobId, query: &TaskQuery, limit: u32) -> Result<TaskPage, StoreError> {
    let Some(index) = choose(reader, job, query).await? else { return Ok(TaskPage::default()) };
    let mut look = Look::new(limit, query.look_max());
    let mut from = query.from;
    loop {
        let mut values = Values::default();
        values.add(Value::Bytes(blob(job)));
        values.add(Value::Number(from.into()));
        let lead = lead(&index, &mut values);
        let fits = fits(&index, query, &mut values);
        let judge = match (query.search.is_empty(), fits.is_empty()) {
            (true, true) => Judge::Nobody,
            (true, false) => Judge::Statement,
            (false, _) => Judge::Reader,
        };
        let step = look.step(judge);
        let text = statement(&lead, &fits, step, &mut values);
        let found: Option<(Text, bool, u32, Option<u32>)> = reader.first(values.ask(text)).await?;
        let (text, is_cut, looked, last) = found.unwrap_or_default();
        let mut found = Vec::new();
        for line in lines::each_line::<Line, 2>(text.as_ref(), &format!("task of job `{job}`, found as number")) {
            match line {
                Ok(Line(seen, line)) => {
                    let index = line.index();
                    let task = lines::opened(std::iter::once(line.into_task(&reader.vault, job))).pop();
                    found.push((seen, index, task.filter(|task| task.shows(&query.search))));
                }
                Err([seen, index]) => {
                    if let (Ok(seen), Ok(index)) = (seen.parse(), index.parse()) {
                        found.push((seen, index, None));
                    }
                }
            }
        }
        let last = look.take(step, found.into_iter(), is_cut, looked, last);
        match last.and_then(|last| last.checked_add(1)) {
            Some(next) => from = next,
            None => break,
        }
    }
    let (items, examined, last) = look.into_parts();
    Ok(TaskPage { items, examined, next: last.and_then(|last| last.checked_add(1)) })
}

/// Chooses what the rows are found by; `None`: nothing fits.
async fn choose(reader: &Reader, job: JobId, query: &TaskQuery) -> Result<Option<Index>, StoreError> {
    let filter = &query.filter;
    let states: Vec<TaskState> = TaskState::ALL.into_iter().filter(|state| filter.has_state(*state)).collect();
    let lanes = if filter.host.is_empty() { None } else { Some(lanes(reader, job, &filter.host).await?) };
    if states.is_empty() || lanes.as_ref().is_some_and(Vec::is_empty) {
        return Ok(None);
    }
    if states.len() < TaskState::ALL.len() {
        return Ok(Some(Index::States(states)));
    }
    // Those of one lane lie together.
    Ok(Some(match lanes.as_deref() {
        Some([lane]) => Index::Lane(*lane),
        _ => Index::Ids,
    }))
}

/// The first two lanes at a host.
async fn lanes(reader: &Reader, job: JobId, host: &str) -> Result<Vec<i64>, StoreError> {
    let text = format!("SELECT h.id FROM lanes h WHERE {} LIMIT 2", conditions::lanes_at(job_no!(), "?2"));
    let ask = Ask::new(sqlx::AssertSqlSafe(text)).bind(blob(job)).bind(host);
    Ok(reader.all::<(i64,)>(ask).await?.into_iter().map(|(id,)| id).collect())
}

/// The keys of the job's tasks from index `?2` on, of the table `of`.
fn range(of: &str) -> String {
    let no = job_no!();
    format!("{of}.id >= (({no} << 32) | ?2) AND {of}.id <= (({no} << 32) | 4294967295)")
}

/// Selects `id` of the tasks that are looked at, each once and in order. Those that are `fresh` may be in any state.
fn lead(index: &Index, values: &mut Values) -> String {
    let states = match index {
        Index::Ids => return format!("SELECT t.id AS id, 0 AS fresh FROM tasks t WHERE {} ORDER BY t.id", range("t")),
        Index::Lane(lane) => {
            let lane = values.add(Value::Number(*lane));
            return format!(
                "SELECT t.id AS id, 0 AS fresh FROM tasks t INDEXED BY tasks_lane WHERE t.lane = {lane} AND {} ORDER BY t.id",
                range("t")
            );
        }
        Index::States(states) => states,
    };
    // From the lowest head of a lane on, before which no task is PENDING, all tasks are looked at.
    let no = job_no!();
    let begin = format!(
        "({no} << 32) + max(?2, coalesce((SELECT min(l.head) FROM lanes l WHERE l.id BETWEEN ({no} << 32) \
         AND (({no} << 32) | 4294967295)), 4294967295))"
    );
    let is_pending = states.contains(&TaskState::Pending);
    let before = |of: &str| if is_pending { format!(" AND {of}.id < {begin}") } else { String::new() };
    let mut arms = Vec::new();
    if is_pending {
        arms.push(format!(
            "SELECT t.id AS id, 1 AS fresh FROM tasks t WHERE t.id >= {begin} AND t.id <= (({no} << 32) | 4294967295)"
        ));
    }
    for state in states.iter().filter(|state| **state != TaskState::Pending) {
        if *state == TaskState::Running {
            arms.push(format!("SELECT c.id AS id, 0 AS fresh FROM claims c WHERE {}{}", range("c"), before("c")));
            continue;
        }
        let unclaimed =
            if state.is_ended() { "" } else { " AND NOT EXISTS (SELECT 1 FROM claims c WHERE c.id = s.id)" };
        for begun in [0, 1] {
            arms.push(format!(
                "SELECT s.id AS id, 0 AS fresh FROM task_states s INDEXED BY task_states_state WHERE s.state = {} \
                 AND (s.fence > 0) = {begun} AND {}{}{unclaimed}",
                *state as i64,
                range("s"),
                before("s")
            ));
        }
    }
    arms.join(" UNION ALL ") + " ORDER BY id"
}

/// The conditions that the index does not answer, each with ` AND ` before it.
fn fits(index: &Index, query: &TaskQuery, values: &mut Values) -> String {
    let mut fits = conditions::of_failure(&query.filter);
    if !matches!(index, Index::Lane(_)) && !query.filter.host.is_empty() {
        fits += &conditions::of_host(&query.filter.host, job_no!(), values);
    }
    if let Index::States(states) = index
        && states.contains(&TaskState::Pending)
    {
        let states: Vec<String> = states.iter().map(|state| (*state as i64).to_string()).collect();
        let state = "CASE WHEN c.id IS NULL THEN coalesce(s.state, 1) ELSE 2 END";
        fits += &format!(" AND (k.fresh = 0 OR {state} IN ({}))", states.join(", "));
    }
    fits
}

/// One step: the rows `k` that are looked at, those `f` of them that fit, and their lines.
fn statement(lead: &str, fits: &str, step: Step, values: &mut Values) -> String {
    const OF_TASK: &str = "LEFT JOIN task_states s ON s.id = t.id LEFT JOIN claims c ON c.id = t.id";
    let (rows, limit) = (values.add(Value::Number(step.rows.into())), values.add(Value::Number(step.limit.into())));
    let (bytes, line) = (task_bytes!("NULL"), task_text!(last_attempt!()));
    format!(
        "WITH k AS MATERIALIZED (SELECT id, fresh, row_number() OVER () AS seen FROM ({lead} LIMIT {rows} + 0)), \
         f AS (SELECT k.id AS id, k.seen AS seen, {bytes} AS bytes FROM k CROSS JOIN tasks t ON t.id = k.id {OF_TASK} \
         WHERE true{fits} LIMIT {limit} + 0) \
         SELECT '[' || coalesce(group_concat(line, '{BETWEEN}'), '') || ']', coalesce(max(upto), 0) >= {PAGE_BYTES_MAX}, \
         (SELECT count(*) FROM k), (SELECT max(id) & 4294967295 FROM k) \
         FROM (SELECT '[' || w.seen || ',' || {line} || ']' AS line, w.upto AS upto FROM \
         (SELECT id, seen, bytes, sum(bytes) OVER (ROWS UNBOUNDED PRECEDING) AS upto FROM f) w \
         CROSS JOIN tasks t ON t.id = w.id {OF_TASK} WHERE w.upto - w.bytes < {PAGE_BYTES_MAX})"
    )
}
