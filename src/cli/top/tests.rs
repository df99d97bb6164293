//! What is seen of each page, what keys do, and that no screen is too small.

use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use crate::cli::many::Action;
use crate::cli::term::page::tests::screen;
use crate::cli::term::screen::Size;
use crate::cli::top::draw::sheet;
use crate::cli::top::keys::Key;
use crate::cli::top::state::{Answer, Order, Place, Prompt, ROWS_STEP, State, TaskAction, TaskView, Wish};
use crate::pb;

/// What an origin or another client may send to mislead whoever looks.
const HOSTILE: &str = "\x1b]0;owned\x07\x1b[2Jevil\u{202e}txt\u{200b}\r\u{9b}1m";

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_158_400)
}

#[allow(clippy::unnecessary_wraps)] // As the fields of messages are.
fn ago(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds: 1_764_158_400 - seconds, nanos: 0 })
}

fn job(nth: u32, state: pb::JobState, title: &str) -> pb::Job {
    let counts = pb::TaskCounts {
        total: 1_000_000,
        succeeded: 712_004,
        failed: 38,
        running: 64,
        backing_off: 12,
        pending: 287_882,
        cancelled: 0,
    };
    let left = prost_types::Duration { seconds: 125, nanos: 0 };
    pb::Job {
        job_id: format!("0198c0de-0000-7000-8000-{nth:012}"),
        title: title.to_owned(),
        state: state.into(),
        counts: Some(counts),
        progress: Some(pb::Progress {
            bytes_done: 5 << 30,
            bytes_total: 0,
            bytes_per_second: 96 << 20,
            estimated_remaining: Some(left),
        }),
        create_time: ago(180),
        ..Default::default()
    }
}

fn jobs() -> Vec<pb::Job> {
    vec![
        job(3, pb::JobState::Running, "nightly mirror"),
        job(2, pb::JobState::Paused, HOSTILE),
        job(1, pb::JobState::Failed, "partner feed"),
    ]
}

fn totals() -> Answer {
    let tasks = pb::TaskCounts { running: 64, pending: 1_000_000, backing_off: 12, ..Default::default() };
    Answer::Totals(Some(pb::ServerTotals { tasks: Some(tasks), bytes_per_second: 412 << 20, ..Default::default() }))
}

fn at_jobs() -> State {
    let mut state = State::new(None, now());
    state.take(totals(), now());
    state.take(Answer::Jobs { jobs: jobs(), has_more: true }, now());
    state
}

fn waits(tasks: u32, message: &str, until: Option<prost_types::Timestamp>) -> pb::WaitingTasks {
    let waiting = pb::Waiting { reason: pb::WaitReason::HostLimit.into(), until, message: message.to_owned() };
    pb::WaitingTasks { waiting: Some(waiting), tasks }
}

fn at_job() -> State {
    let mut state = at_jobs();
    assert_eq!(state.press(Key::Enter, 10), None);
    let kind = |status, count, host: &str, message: &str| pb::FailureCount {
        reason: pb::FailureReason::HttpStatus.into(),
        http_status: status,
        host: host.to_owned(),
        count,
        sample_message: message.to_owned(),
        ..Default::default()
    };
    let task = |index: u32, state: pb::TaskState| pb::Task {
        task_index: index,
        state: state.into(),
        url: format!("https://cdn.example/a/{index}.bin"),
        attempts: 2,
        ..Default::default()
    };
    let running = pb::Task {
        progress: Some(pb::Progress {
            bytes_done: 61,
            bytes_total: 100,
            bytes_per_second: 12 << 20,
            ..Default::default()
        }),
        ..task(0, pb::TaskState::Running)
    };
    let waiting = pb::Task {
        next_attempt_time: ago(-30),
        last_error: Some(pb::TaskError { message: "reset by peer".to_owned(), ..Default::default() }),
        ..task(1, pb::TaskState::BackingOff)
    };
    let job = pb::Job {
        waiting: vec![
            waits(275_100, "`cdn.example:443` has no room (8 of 8)", None),
            waits(12_700, "`cdn2.example:443` is paused: Retry-After", ago(-90)),
        ],
        failures: vec![
            kind(403, 31, "cdn.example:443", "the origin answered 403 Forbidden"),
            kind(404, 7, "mirror.example:443", HOSTILE),
        ],
        ..job(3, pb::JobState::Running, "nightly mirror")
    };
    let tasks = vec![running, waiting, task(2, pb::TaskState::Pending)];
    state.take(Answer::Job { job: Box::new(job), tasks, has_more: false }, now());
    state
}

/// The page of task 1, which backs off.
fn at_task() -> State {
    let mut state = at_job();
    state.press(Key::Char('j'), 10);
    assert_eq!(state.press(Key::Enter, 10), None);
    let attempt = |number: u32, error: &str| pb::Attempt {
        number,
        start_time: ago(60 - i64::from(number) * 10),
        end_time: ago(53 - i64::from(number) * 10),
        remote_address: format!("203.0.113.{number}:443"),
        http_status: 206,
        bytes: u64::from(number) << 28,
        error: (!error.is_empty()).then(|| pb::TaskError { message: error.to_owned(), ..Default::default() }),
        resume: if number == 2 { "continued at 268435456".to_owned() } else { String::new() },
        ..Default::default()
    };
    let task = pb::Task {
        start_time: ago(60),
        key: "image".to_owned(),
        attempt_log: vec![attempt(1, "reset by peer"), attempt(2, HOSTILE), attempt(3, "")],
        progress: Some(pb::Progress { bytes_done: 3 << 28, bytes_total: 1 << 30, ..Default::default() }),
        ..state.tasks[1].clone()
    };
    state.take(Answer::Task { job: Box::new(state.job.clone()), task: Box::new(task) }, now());
    state
}

fn at_hosts() -> State {
    let mut state = at_jobs();
    state.press(Key::Char('g'), 10);
    state.press(Key::Char('h'), 10);
    let host = |name: &str, paused: Option<prost_types::Timestamp>| pb::Host {
        host: name.to_owned(),
        running: 8,
        waiting: 275_100,
        limits: Some(pb::HostLimits { max_concurrent: 8, ..Default::default() }),
        bytes_per_second: 96 << 20,
        recent_failures: 3,
        recent_error: "reset by peer".to_owned(),
        paused_until: paused,
        ..Default::default()
    };
    let hosts = vec![host("cdn.example:443", None), host("cdn2.example:443", ago(-90))];
    state.take(Answer::Hosts { hosts, has_more: false }, now());
    state
}

fn seen(state: &State, columns: usize, rows: usize) -> String {
    screen(Size { columns, rows }, |size| sheet(state, size))
}

#[test]
fn each_page_is_seen() {
    let mut failures = at_job();
    failures.press(Key::Char('f'), 10);
    let mut help = at_jobs();
    help.press(Key::Char('?'), 10);
    let mut scrolled = help.clone();
    scrolled.press(Key::Rows(3), 10);
    let mut asked = at_jobs();
    asked.press(Key::Char('x'), 10);
    asked.press(Key::Char('j'), 10);
    asked.press(Key::Char('x'), 10);
    asked.press(Key::Char('c'), 10);
    let mut lost = at_jobs();
    lost.take(Answer::Lost("no server answers".to_owned()), now());
    lost.take(Answer::Lost("no server answers".to_owned()), now() + Duration::from_secs(4));
    let pages = vec![
        ("jobs", at_jobs(), 110, 9),
        ("jobs, narrow", at_jobs(), 40, 9),
        ("a job", at_job(), 110, 12),
        ("a job, narrow", at_job(), 40, 12),
        ("failures", failures, 110, 12),
        ("a task", at_task(), 110, 14),
        ("a task, narrow", at_task(), 40, 14),
        ("hosts", at_hosts(), 110, 7),
        ("no server", lost, 80, 8),
        ("a question", asked, 80, 8),
        ("help, narrow", scrolled, 40, 9),
        ("help", help, 80, 18),
        (
            "nothing yet",
            {
                let mut state = State::new(None, now());
                state.take(Answer::Jobs { jobs: vec![], has_more: false }, now());
                state
            },
            80,
            6,
        ),
    ];
    let shown: Vec<String> = pages
        .into_iter()
        .map(|(name, state, columns, rows)| format!("{name}\n{}", seen(&state, columns, rows)))
        .collect();
    insta::assert_snapshot!(shown.join("\n"));
}

#[test]
fn the_help_is_seen_to_its_end_on_a_small_screen() {
    let mut state = at_jobs();
    state.press(Key::Char('?'), 5);
    let mut read = String::new();
    for _ in 0..8 {
        read += &seen(&state, 40, 8);
        state.press(Key::Screens(1), 5);
        assert!(matches!(state.prompt, Some(Prompt::Help(_))), "it stays");
    }
    for word in ["row down", "selection", "quit", "scroll"] {
        assert!(read.contains(word), "{word}: {read}");
    }
    state.press(Key::Char('k'), 5);
    state.press(Key::Escape, 5);
    assert_eq!(state.prompt, None);
}

#[test]
fn what_an_order_met_is_forgotten_when_the_server_answers_again() {
    let mut state = at_jobs();
    state.take(Answer::Lost("no server answers".to_owned()), now());
    state.take(Answer::Done("no server answers".to_owned()), now());
    assert_eq!(state.note, "no server answers");
    state.take(Answer::Jobs { jobs: jobs(), has_more: false }, now());
    assert_eq!(state.note, "");
    state.take(Answer::Done("paused 1 job".to_owned()), now());
    state.take(Answer::Jobs { jobs: jobs(), has_more: false }, now());
    assert_eq!(state.note, "paused 1 job", "until the next key");
}

#[test]
fn the_foot_names_the_help_at_any_width() {
    for columns in [20, 40, 60, 80, 110] {
        for state in [at_jobs(), at_job(), at_task(), at_hosts()] {
            let shown = seen(&state, columns, 12);
            assert!(shown.contains("? help  q quit"), "{columns}: {shown}");
        }
    }
}

#[test]
fn the_row_stays_with_its_job() {
    let mut state = at_jobs();
    state.press(Key::Char('j'), 10);
    assert_eq!(state.row(), 1);
    let more = [vec![job(4, pb::JobState::Pending, "new")], jobs()].concat();
    state.take(Answer::Jobs { jobs: more, has_more: false }, now());
    assert_eq!(state.row(), 2, "it is the same job");
    state.press(Key::Rows(-9), 10);
    assert_eq!(state.row(), 0);
    state.press(Key::End, 10);
    assert_eq!(state.row(), 3);
}

#[test]
fn jobs_are_acted_on() {
    let id = |nth: usize| jobs()[nth].job_id.clone();
    let mut state = at_jobs();
    assert_eq!(state.press(Key::Char('p'), 10), Some(Order::Control(Action::Pause, vec![id(0)])));
    assert_eq!(state.press(Key::Char('r'), 10), None);
    assert_eq!(state.note, "this job is running: it cannot be retried");
    // Nothing is cancelled without a yes.
    assert_eq!(state.press(Key::Char('c'), 10), None);
    assert_eq!(state.press(Key::Enter, 10), None);
    assert_eq!((state.prompt.clone(), state.place.clone()), (None, Place::Jobs));
    state.press(Key::Char('c'), 10);
    assert_eq!(state.press(Key::Char('y'), 10), Some(Order::Control(Action::Cancel, vec![id(0)])));
    // What is selected is meant, as far as the order fits it.
    for key in ['x', 'j', 'x', 'j', 'x', 'c'] {
        state.press(Key::Char(key), 10);
    }
    assert_eq!(state.prompt, Some(Prompt::Confirm(Order::Control(Action::Cancel, vec![id(0), id(1)]))));
    state.press(Key::Escape, 10);
    assert_eq!(state.press(Key::Char('r'), 10), Some(Order::Control(Action::Retry, vec![id(2)])));
    state.press(Key::Escape, 10);
    assert!(state.selected.is_empty());

    let mut job = at_job();
    assert_eq!(job.press(Key::Char('p'), 10), Some(Order::Control(Action::Pause, vec![id(0)])));
    let mut hosts = at_hosts();
    assert_eq!(hosts.press(Key::Char('p'), 10), None, "it is not paused");
    hosts.press(Key::Char('j'), 10);
    assert_eq!(hosts.press(Key::Char('p'), 10), Some(Order::ResumeHost("cdn2.example:443".to_owned())));
    assert_eq!(hosts.press(Key::Char('q'), 10), Some(Order::Quit));
}

#[test]
fn a_million_tasks_are_read_around_the_chosen_one() {
    let first = |state: &State| match state.wish() {
        Wish::Job { tasks: Some(list), .. } => list.first_task_index,
        _ => None,
    };
    let mut state = at_job();
    assert_eq!(first(&state), Some(0));
    state.press(Key::End, 10);
    assert_eq!(state.row(), 999_999);
    assert_eq!(first(&state), Some(999_600));
    state.press(Key::Screens(-1), 30);
    assert_eq!((state.row(), first(&state)), (999_969, Some(999_600)), "the same tasks");
    // What is there is not what was wished for yet.
    seen(&state, 80, 24);
    for view in [TaskView::Active, TaskView::Failures, TaskView::All] {
        state.press(Key::Tab, 10);
        assert_eq!(state.task_view, view);
    }
    state.press(Key::Char('f'), 10);
    state.press(Key::Char('j'), 10);
    state.press(Key::Enter, 10);
    let Wish::Job { tasks: Some(list), .. } = state.wish() else { panic!("tasks of that kind are listed") };
    assert_eq!((list.http_statuses, list.host), (vec![404], "mirror.example:443".to_owned()));
    state.press(Key::Escape, 10);
    assert_eq!(state.task_view, TaskView::Failures);
    state.press(Key::Char('u'), 10);
    assert_eq!((state.place.clone(), state.row()), (Place::Jobs, 0));
}

#[test]
fn a_task_is_opened_acted_on_and_left() {
    let mut state = at_task();
    let id = jobs()[0].job_id.clone();
    assert_eq!(state.wish(), Wish::Task { id: id.clone(), index: 1 });
    // What comes of another task is not shown.
    let other = pb::Task { task_index: 7, key: "other".to_owned(), ..Default::default() };
    state.take(Answer::Task { job: Box::new(state.job.clone()), task: Box::new(other) }, now());
    assert_eq!(state.task.key, "image");
    assert_eq!((state.len(), state.row()), (3, 0));
    state.press(Key::End, 10);
    assert_eq!(state.row(), 2, "an attempt is chosen");
    let order = |action| Some(Order::Task(action, id.clone(), 1));
    assert_eq!(state.press(Key::Char('r'), 10), order(TaskAction::RetryNow));
    assert_eq!(state.press(Key::Char('c'), 10), None);
    assert_eq!(state.press(Key::Char('y'), 10), order(TaskAction::Cancel));
    assert_eq!(state.press(Key::Char('p'), 10), Some(Order::Control(Action::Pause, vec![id.clone()])));
    let ended = |state: &State, task: pb::TaskState| pb::Task { state: task.into(), ..state.task.clone() };
    let failed = ended(&state, pb::TaskState::Failed);
    state.take(Answer::Task { job: Box::new(state.job.clone()), task: Box::new(failed.clone()) }, now());
    assert_eq!(state.press(Key::Char('c'), 10), None);
    assert_eq!((state.prompt.clone(), state.note.as_str()), (None, "this task is failed: it cannot be cancelled"));
    assert_eq!(state.press(Key::Char('r'), 10), None);
    assert_eq!(state.note, "it can be retried when the job has ended");
    let over = job(3, pb::JobState::Failed, "nightly mirror");
    state.take(Answer::Task { job: Box::new(over.clone()), task: Box::new(failed) }, now());
    assert_eq!(state.press(Key::Char('r'), 10), order(TaskAction::Retry));
    // The list is as it was left.
    state.press(Key::Char('u'), 10);
    assert_eq!((state.place.clone(), state.row()), (Place::Job(id), 1));
    state.press(Key::Char('u'), 10);
    assert_eq!((state.place.clone(), state.row()), (Place::Jobs, 0));
}

#[test]
fn whoever_goes_down_a_list_reads_more_of_it() {
    let mut state = at_jobs();
    let rows = |state: &State| match state.wish() {
        Wish::Jobs { rows, .. } => rows,
        other => panic!("{other:?}"),
    };
    assert_eq!(rows(&state), 2 * ROWS_STEP);
    let many = |count: usize| (0..count).map(|nth| job(nth as u32, pb::JobState::Running, "one of many")).collect();
    for step in 3..6 {
        let answer = Answer::Jobs { jobs: many(rows(&state)), has_more: true };
        state.take(answer, now());
        state.press(Key::End, 10);
        assert_eq!(rows(&state), step * ROWS_STEP);
    }
    assert!(seen(&state, 80, 10).contains("more than these"));
    state.take(Answer::Jobs { jobs: many(20_000), has_more: true }, now());
    state.press(Key::End, 10);
    assert_eq!(rows(&state), 10_000, "a list is not read without end");
}

#[test]
fn searching_takes_the_keys() {
    let mut state = at_jobs();
    for letter in "/quj".chars() {
        assert_eq!(state.press(Key::Char(letter), 10), None);
    }
    assert_eq!(state.search, "quj");
    state.press(Key::Backspace, 10);
    state.press(Key::Enter, 10);
    let wish = Wish::Jobs { view: state.job_view, search: "qu".to_owned(), rows: 2 * ROWS_STEP };
    assert_eq!(state.wish(), wish);
    for _ in 0..300 {
        state.press(Key::Char('/'), 10);
        state.press(Key::Char('é'), 10);
    }
    assert!(state.search.len() <= 128);
    state.press(Key::Enter, 10);
    state.press(Key::Escape, 10);
    assert_eq!(state.search, "");
    assert_eq!(state.press(Key::Interrupt, 10), Some(Order::Quit));
}

#[test]
fn what_belongs_elsewhere_changes_nothing() {
    let mut state = at_job();
    state.take(Answer::Jobs { jobs: Vec::new(), has_more: false }, now());
    let other =
        Answer::Job { job: Box::new(job(9, pb::JobState::Failed, "other")), tasks: Vec::new(), has_more: false };
    state.take(other, now());
    state.take(Answer::Hosts { hosts: Vec::new(), has_more: false }, now());
    assert_eq!((state.jobs.len(), state.job.title.as_str()), (3, "nightly mirror"));
    // Paused updates change nothing either, but that the server is gone is said.
    state.press(Key::Char('.'), 10);
    state.take(
        Answer::Job { job: Box::new(job(3, pb::JobState::Failed, "new")), tasks: Vec::new(), has_more: false },
        now(),
    );
    state.take(Answer::Lost("gone".to_owned()), now());
    assert_eq!(state.job.title, "nightly mirror");
    assert!(seen(&state, 80, 10).contains("no connection for 0 s"));
    state.take(Answer::Totals(None), now());
    assert!(!seen(&state, 80, 10).contains("no connection"), "it is there again, as is said at once");
}

#[test]
fn a_kind_of_failure_stays_chosen_when_another_outgrows_it() {
    let kind = |host: &str, count| pb::FailureCount { host: host.to_owned(), count, ..Default::default() };
    let mut state = at_job();
    state.job.failures = vec![kind("a:80", 2), kind("b:80", 1)];
    state.press(Key::Char('f'), 10);
    state.press(Key::Enter, 10);
    state.job.failures.reverse();
    match state.wish() {
        Wish::Job { tasks: Some(list), .. } => assert_eq!(list.host, "a:80"),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn every_screen_is_large_enough(columns in 1usize..130, rows in 1usize..40, keys in prop::collection::vec(0usize..16, 0..12), which in 0usize..4) {
        let mut state = [at_jobs, at_job, at_task, at_hosts][which]();
        let all = ['j', 'k', 'x', 'p', 'c', 'r', 'f', '.', '/', '?', 'u', 'g', 'h', 'y', 'q', 'z'];
        for key in keys {
            state.press(Key::Char(all[key]), rows);
        }
        let sheet = sheet(&state, Size { columns, rows });
        prop_assert!(sheet.lines.len() <= rows);
        prop_assert!(sheet.lines.iter().all(|line| line.width() <= columns));
        prop_assert!(sheet.chosen.is_none_or(|at| at < rows));
        let shown = seen(&state, columns, rows);
        let is_harmless = !shown.contains(['\x1b', '\u{202e}', '\u{9b}', '\u{200b}', '\r']);
        prop_assert!(is_harmless, "{}", shown);
    }
}
