//! Random histories against a small model of the contract: submit, add, seal, pause, resume, cancel, retry, delete and
//! kills of the server, in any order, while tasks end. In the end states, counts and event lists are what the model says.

use std::collections::HashMap;
use std::time::Duration;

use haul::pb;
use haul::pb::watch_job_response::Event;
use haul::pb::{GroupMode, JobState, TaskState};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tonic::Code;

use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::Server;
use crate::support::spec::{fetch, group, job, once};

/// What the model knows of a job.
struct Known {
    id: String,
    /// Whether each task fails when it runs.
    fails: Vec<bool>,
    max_failures: u32,
    open: bool,
    /// Set by an answer that said so; without it tasks ended by themselves.
    cancelled: bool,
    retries: u32,
    chunks: u32,
    /// What was done to it, for who has to find out.
    history: Vec<&'static str>,
}

struct World {
    server: Server,
    origin: Origin,
    rng: SmallRng,
    jobs: Vec<Known>,
    deleted: Vec<String>,
    kills: u32,
}

const CONTROLS: [&str; 5] = ["seal", "pause", "resume", "cancel", "retry"];

impl World {
    fn tasks(&mut self, count: u32) -> (Vec<pb::TaskSpec>, Vec<bool>) {
        let fails: Vec<bool> = (0..count).map(|_| self.rng.random_ratio(1, 4)).collect();
        let url = |fails: &bool| self.origin.url(if *fails { "/bad" } else { "/good" });
        (fails.iter().map(|it| fetch(url(it))).collect(), fails)
    }

    async fn submit(&mut self) {
        let (count, open) = (self.rng.random_range(1..8), self.rng.random_ratio(1, 2));
        let max_failures = self.rng.random_range(0..4);
        let (tasks, fails) = self.tasks(count);
        let policy = Some(group(GroupMode::Collect, max_failures));
        let spec = pb::JobSpec { open, group: policy, defaults: Some(once()), ..job(tasks) };
        let id = self.server.submit(spec).await;
        let history = vec!["submit"];
        self.jobs.push(Known { id, fails, max_failures, open, cancelled: false, retries: 0, chunks: 0, history });
    }

    /// Each chunk is sent twice: the second time it is answered again and stored once.
    async fn add(&mut self, which: usize) {
        let count = self.rng.random_range(1..6);
        let (tasks, fails) = self.tasks(count);
        let job = &mut self.jobs[which];
        job.history.push("add");
        let chunk_id = format!("c{}", job.chunks);
        job.chunks += 1;
        let request = pb::AddTasksRequest { job_id: job.id.clone(), chunk_id, tasks };
        for _ in 0..2 {
            let answers = self.server.jobs().add_tasks(tokio_stream::once(request.clone())).await;
            match answers.unwrap().into_inner().message().await {
                Ok(answer) => assert_eq!(answer.unwrap().first_task_index, job.fails.len() as u32),
                Err(status) => {
                    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
                    assert!(!job.open || job.cancelled);
                    return;
                }
            }
        }
        assert!(job.open && !job.cancelled);
        job.fails.extend(fails);
    }

    async fn control(&mut self, which: usize, what: usize) {
        let job = &mut self.jobs[which];
        job.history.push(CONTROLS[what]);
        let (job_id, mut jobs) = (job.id.clone(), self.server.jobs());
        let reason = String::new();
        let answer = match CONTROLS[what] {
            "seal" => jobs.seal_job(pb::SealJobRequest { job_id }).await.map(|it| it.into_inner().job),
            "pause" => jobs.pause_job(pb::PauseJobRequest { job_id }).await.map(|it| it.into_inner().job),
            "resume" => jobs.resume_job(pb::ResumeJobRequest { job_id }).await.map(|it| it.into_inner().job),
            "cancel" => jobs.cancel_job(pb::CancelJobRequest { job_id, reason }).await.map(|it| it.into_inner().job),
            _ => {
                let request = pb::RetryJobRequest { job_id, task_indexes: Vec::new(), filter: None };
                jobs.retry_job(request).await.map(|it| it.into_inner().job)
            }
        };
        let Ok(answer) =
            answer.map(Option::unwrap).map_err(|status| assert_eq!(status.code(), Code::FailedPrecondition))
        else {
            return;
        };
        let is_over = matches!(answer.state(), JobState::Succeeded | JobState::Failed | JobState::Cancelled);
        match CONTROLS[what] {
            "seal" => job.open = false,
            "cancel" => {
                job.cancelled |= answer.state() == JobState::Cancelled;
                job.open = false;
            }
            // A retry of nothing answers the job as it is; one that is over already is told by its sequence.
            "retry" if !is_over || answer.counts.unwrap().failed + answer.counts.unwrap().cancelled == 0 => {
                job.retries += u32::from(!is_over);
                job.cancelled &= is_over;
            }
            _ => {}
        }
    }

    async fn delete(&mut self, which: usize) {
        let request = pb::DeleteJobRequest { job_id: self.jobs[which].id.clone(), delete_files: true };
        match self.server.jobs().delete_job(request).await {
            Ok(_) => self.deleted.push(self.jobs.swap_remove(which).id),
            Err(status) => assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}"),
        }
    }

    async fn step(&mut self) {
        let which = if self.jobs.is_empty() { 0 } else { self.rng.random_range(0..self.jobs.len()) };
        match self.rng.random_range(0..20) {
            _ if self.jobs.is_empty() => self.submit().await,
            0..3 => self.submit().await,
            3..8 => self.add(which).await,
            8..17 => {
                let what = [0, 1, 1, 2, 2, 3, 4, 4][self.rng.random_range(0..8usize)];
                self.control(which, what).await;
            }
            17 => self.delete(which).await,
            // Whatever runs at each of three deaths in a row fails.
            18 if self.kills < 2 => {
                self.kills += 1;
                self.jobs.iter_mut().for_each(|job| job.history.push("KILL"));
                self.server.restart().await;
            }
            _ => tokio::time::sleep(Duration::from_millis(self.rng.random_range(1..30))).await,
        }
    }

    async fn check(&mut self, seed: u64) {
        for which in 0..self.jobs.len() {
            self.control(which, 2).await;
            self.control(which, 0).await;
        }
        for job in &self.jobs {
            let waited = tokio::time::timeout(Duration::from_secs(20), self.server.ended(&job.id)).await;
            let Ok(ended) = waited else {
                let tasks = self.server.tasks(&job.id).await;
                panic!("seed {seed}: {:?} does not end: {:#?} {tasks:#?}", job.history, self.server.job(&job.id).await);
            };
            let tasks = self.server.tasks(&job.id).await;
            assert_eq!(tasks.len(), job.fails.len());
            let counts = ended.counts.unwrap();
            assert_eq!(counts.succeeded + counts.failed + counts.cancelled, counts.total);
            for (task, fails) in tasks.iter().zip(&job.fails) {
                let own = if *fails { TaskState::Failed } else { TaskState::Succeeded };
                assert!(task.state() == own || (job.cancelled && task.state() == TaskState::Cancelled), "{task:#?}");
            }
            let expected = match (job.cancelled, counts.failed <= job.max_failures) {
                (true, _) => JobState::Cancelled,
                (false, true) => JobState::Succeeded,
                (false, false) => JobState::Failed,
            };
            assert_eq!(ended.state(), expected, "seed {seed}: {:?} {ended:#?}", job.history);
            self.check_events(job, &ended).await;
        }
        for id in &self.deleted {
            let gone = self.server.jobs().get_job(pb::GetJobRequest { job_id: id.clone(), ..Default::default() }).await;
            assert_eq!(gone.unwrap_err().code(), Code::NotFound);
        }
    }

    async fn check_events(&self, job: &Known, ended: &pb::Job) {
        let events = self.server.events(&job.id, 0).await;
        let sequences: Vec<u64> = events.iter().map(|event| event.sequence).collect();
        assert_eq!(sequences, (1..=ended.sequence).collect::<Vec<_>>());
        let (mut ends, mut job_ends) = (HashMap::<u32, u32>::new(), 0);
        for event in &events {
            match event.event.as_ref().unwrap() {
                Event::TaskEnded(task) => *ends.entry(task.task_index).or_default() += 1,
                Event::JobEnded(_) => job_ends += 1,
                _ => {}
            }
        }
        assert_eq!(job_ends, job.retries + 1, "one end, and one more for each retry: {:?}", job.history);
        assert_eq!(ends.len(), job.fails.len());
        assert!(ends.values().all(|ends| (1..=job.retries + 1).contains(ends)), "{ends:?} of {:?}", job.history);
    }
}

#[tokio::test]
async fn random_histories_end_as_the_model_says() {
    for seed in 0..8 {
        let origin = Origin::start();
        origin.handle("/good", |_| Reply::ok("good").delay(Duration::from_millis(3)));
        origin.reply("/bad", Reply::status(404));
        let server = Server::with(&["--allow-private-networks", "--max-concurrent-tasks", "5"]).await;
        let rng = SmallRng::seed_from_u64(seed);
        let mut world = World { server, origin, rng, jobs: Vec::new(), deleted: Vec::new(), kills: 0 };
        for _ in 0..60 {
            world.step().await;
        }
        world.check(seed).await;
    }
}
