//! Rows that cannot be read: they are left out, however many stand together, and hold nothing else.

use std::sync::Arc;

use haul::model::job::{Job, JobState};
use haul::model::task::{Task, TaskState};
use haul::model::time::Timestamp;
use haul::store::sqlite::{Durability, SqliteStore};
use haul::store::{
    Batch, Content, DueTask, JobFilter, NewPage, Store as _, TaskMove, TaskQuery, TaskRow, WriteStore as _,
};
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};

use super::support::*;

/// What a damaged spec is: JSON of another kind, and none at all.
const DAMAGES: [&str; 2] = ["{}", "{\"work\":{\"fetch\":[,"];

async fn damage(rig: &Rig, sql: String) {
    let url = format!("sqlite://{}", rig.dir().join("haul.db").display());
    let mut conn = SqliteConnection::connect(&url).await.unwrap();
    sqlx::query(AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

#[tokio::test]
async fn tasks_that_cannot_be_read_do_not_hold_those_behind_them() {
    for spec in DAMAGES {
        let mut rig = Rig::new::<Sqlite>().await;
        rig.job_of(1, 12).await;
        for index in 6..12 {
            rig.end(task_id(1, index), backing_off(50 + i64::from(index))).await;
        }
        damage(&rig, format!("UPDATE tasks SET spec = '{spec}' WHERE id & 4294967295 IN (0, 1, 2, 3, 6, 7, 8, 9)"))
            .await;

        let (mut from, mut found) = (Some(0), Vec::new());
        while let Some(next) = from {
            let page = rig.store.lane_page(job_id(1), 0, next, 2, Timestamp(0)).await.unwrap();
            found.extend(page.tasks.iter().map(|task| task.index));
            assert!(page.next.is_none_or(|it| it > next), "it goes on");
            from = page.next;
        }
        assert_eq!(found, [4, 5]);

        let (mut after, mut found) = (None, Vec::new());
        loop {
            let page = rig.store.due_tasks(after, 2).await.unwrap();
            found.extend(page.tasks.iter().map(|(due, _)| *due));
            if page.next.is_none() {
                break;
            }
            assert!(page.next > after, "it goes on");
            after = page.next;
        }
        let due = |index: u32| DueTask { due: Timestamp(50 + i64::from(index)), id: task_id(1, index) };
        assert_eq!(found, [due(10), due(11)]);
    }
}

/// More than come with one read.
#[tokio::test]
async fn jobs_and_attempts_that_cannot_be_read_do_not_hold_those_behind_them() {
    for spec in DAMAGES {
        let dir = tempfile::tempdir().unwrap();
        let (store, mut writer) = SqliteStore::open(dir.path(), Durability::Off).await.unwrap();
        let last = job(9_999, 1);
        let mut batch = with_job(&job(1, 5_000), 5_000);
        batch.claims.extend((0..5_000).map(|index| claim_of(task_id(1, index), &Task::default(), 100)));
        batch.submissions.extend((2..3_000).map(|number| submission(&job(number, 0), 0)));
        batch.submissions.push(submission(&last, 1));
        batch.claims.push(claim_of(task_id(9_999, 0), &Task::default(), 100));
        assert_eq!(writer.commit(&batch).await.unwrap().refused, []);
        let url = format!("sqlite://{}", dir.path().join("haul.db").display());
        let mut conn = SqliteConnection::connect(&url).await.unwrap();
        for sql in [
            format!("UPDATE tasks SET spec = '{spec}' WHERE id >> 32 = (SELECT min(no) FROM jobs)"),
            format!("UPDATE job_specs SET spec = '{spec}' WHERE job < (SELECT max(no) FROM jobs)"),
        ] {
            sqlx::query(AssertSqlSafe(sql.replace("{}", "{\"group\":1}"))).execute(&mut conn).await.unwrap();
        }

        let (mut after, mut found) = (None, Vec::new());
        loop {
            let part = store.recover(after).await.unwrap();
            after = part.next;
            found.extend(part.jobs().iter().map(|(job, _)| job.id));
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found, [last.id]);

        let (mut after, mut found, mut unreadable) = (None, Vec::new(), Vec::new());
        loop {
            let part = store.claims(after).await.unwrap();
            found.extend(part.attempts.iter().map(|cut| cut.id));
            unreadable.extend(part.unreadable.into_iter().map(|it| (it.id, it.task)));
            after = part.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found, [task_id(9_999, 0)]);
        let claimed = claim_of(task_id(1, 0), &Task::default(), 100).task;
        let all: Vec<_> = (0..5_000).map(|index| (task_id(1, index), claimed.clone())).collect();
        assert!(unreadable == all, "they are named, with what their claims say");
    }
}

/// Of what is damaged in the rows of a task that runs the store still says which task it is, and its end is written over it.
#[tokio::test]
async fn a_running_task_that_cannot_be_read_can_be_ended() {
    for damage in [
        "tasks SET spec = '{'",
        "tasks SET spec = CAST(x'ff' AS TEXT)",
        "task_states SET error = '{'",
        "task_states SET log = CAST(x'ff' AS TEXT)",
        "task_states SET outcome = '7'",
        "task_states SET state = 77",
        "task_states SET fence = 'many'",
        "task_states SET fence = 1 << 40",
        "task_states SET due = 'soon'",
    ] {
        let mut rig = Rig::new::<Sqlite>().await;
        rig.job_of(1, 3).await;
        let mut cut = Vec::new();
        for index in 0..3 {
            let row = rig.end(task_id(1, index), backing_off(50)).await;
            cut.push(claim_of(task_id(1, index), &row.task, 600));
        }
        rig.commit(Batch { claims: cut.clone(), ..Batch::default() }).await;
        self::damage(&rig, format!("UPDATE {damage} WHERE id & 4294967295 = 1")).await;
        let page = rig.store.claims(None).await.unwrap();
        let read: Vec<_> = page.attempts.iter().map(|it| it.id).collect();
        assert_eq!(read, [task_id(1, 0), task_id(1, 2)], "{damage}");
        let [found] = page.unreadable.as_slice() else { panic!("{damage}: {:?}", page.unreadable) };
        assert_eq!((found.id, found.lane), (task_id(1, 1), 0), "{damage}");
        assert!(found.task.state == TaskState::Running && found.task.fence >= cut[1].task.fence, "{damage}: {found:?}");

        let row =
            TaskRow { task: found.task.apply(failed(&found.task), Timestamp(700)).unwrap(), ..TaskRow::default() };
        rig.commit(Batch {
            moves: vec![TaskMove { id: found.id, row: row.clone() }],
            unreadable_tasks: vec![found.id],
            ..Batch::default()
        })
        .await;
        assert_eq!(rig.store.claims(None).await.unwrap().unreadable, [], "{damage}");
        assert_eq!(rig.store.task_states(job_id(1), &[1]).await.unwrap(), [(1, TaskState::Failed)], "{damage}");
        if damage.starts_with("task_states") {
            assert_eq!(rig.store.task(found.id).await.unwrap().unwrap().row, row, "{damage}");
        }
    }
}

/// Callers' lists: what is behind a row that cannot be read is listed all the same.
#[tokio::test]
async fn rows_that_cannot_be_read_end_no_list() {
    for spec in DAMAGES {
        let mut rig = Rig::new::<Sqlite>().await;
        for number in 1..=9 {
            rig.job_of(number, 12).await;
        }
        for index in 0..12 {
            rig.end(task_id(1, index), succeeded).await;
        }
        rig.commit(Batch {
            events: (0..12).map(|index| ended_event(task_id(1, index), u64::from(index) + 1)).collect(),
            ..Batch::default()
        })
        .await;
        damage(&rig, format!("UPDATE tasks SET spec = '{spec}' WHERE id & 4294967295 IN (0, 1, 2, 3, 4, 9)")).await;
        let no_job = spec.replace("{}", "{\"group\":1}");
        damage(
            &rig,
            format!(
                "UPDATE job_specs SET spec = '{no_job}' WHERE job IN (SELECT no FROM jobs WHERE no BETWEEN 4 AND 8)"
            ),
        )
        .await;

        let mut filter = JobFilter::default();
        let mut found = Vec::new();
        loop {
            let page = rig.store.jobs(&filter, 2).await.unwrap();
            found.extend(page.items.iter().map(|job| job.id));
            let Some(next) = page.next else { break };
            filter.before = Some(next);
        }
        assert_eq!(found, [9, 3, 2, 1].map(job_id));

        let good = [5, 6, 7, 8, 10, 11];
        let (mut from, mut found) = (Some(0), Vec::new());
        while let Some(start) = from {
            let page = rig.store.tasks(job_id(1), &[], start, 2).await.unwrap();
            found.extend(page.items.iter().map(|task| task.index));
            from = found.last().filter(|_| page.has_more).map(|last| last + 1);
        }
        assert_eq!(found, good);
        let (mut query, mut found) = (TaskQuery::default(), Vec::new());
        loop {
            let page = rig.store.find_tasks(job_id(1), &query, 2).await.unwrap();
            found.extend(page.items.iter().map(|task| task.index));
            let Some(next) = page.next else { break };
            query.from = next;
        }
        assert_eq!(found, good);

        let all: Vec<u32> = (0..12).collect();
        let (mut after, mut found) = (Some(0), Vec::new());
        while let Some(start) = after {
            let page = rig.store.events(job_id(1), start, 2).await.unwrap();
            found.extend(page.items.iter().filter_map(|event| event.head.task));
            after = page.items.last().filter(|_| page.has_more).map(|last| last.head.sequence);
        }
        assert_eq!(found, all, "how a task ended is told whatever became of what it was");
        let (mut before, mut found) = (u64::MAX, Vec::new());
        loop {
            let page = rig.store.events_before(job_id(1), before, &[], 2).await.unwrap();
            found.extend(page.items.iter().filter_map(|event| event.head.task));
            let Some(next) = page.next else { break };
            before = next;
        }
        found.reverse();
        assert_eq!(found, all, "how a task ended is told whatever became of what it was");
        assert!(rig.store.visit(job_id(5)).await.is_err(), "who asks for it alone is told");
    }
}

/// How many bytes a page has is a number as any other, and a sum of damaged ones fits into none.
#[tokio::test]
async fn pages_of_a_damaged_size_are_purged() {
    for bytes in ["9223372036854775807", "-9", "'x'"] {
        let mut rig = Rig::new::<Sqlite>().await;
        rig.job_of(1, 1).await;
        let page = |page| NewPage {
            id: task_id(1, 0),
            page,
            first_item: 0,
            items: 0,
            content: Content::Inline("x".into()),
            next: None,
        };
        rig.commit(Batch { pages: (0..3).map(page).collect(), ..Batch::default() }).await;
        let ended = Job { state: JobState::Failed, end_time: Some(Timestamp(4)), ..job(1, 1) };
        rig.commit(Batch { jobs: vec![Arc::new(ended)], deletions: vec![job_id(1)], ..Batch::default() }).await;
        damage(&rig, format!("UPDATE pages SET bytes = {bytes}")).await;
        let mut pieces = 0;
        while !rig.commit(Batch { purges: vec![(job_id(1), 100)], ..Batch::default() }).await.purges[0].is_gone {
            pieces += 1;
            assert!(pieces < 10, "it comes to no end");
        }
    }
}
