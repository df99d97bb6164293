//! Long work on jobs, piece by piece: a commit has a bounded number of rows of it, so that nobody waits long behind it.

use std::collections::HashSet;

use futures_util::FutureExt as _;

use crate::engine::bounds::Bounds;
use crate::engine::command::answer;
use crate::engine::effect::Effect;
use crate::engine::jobs::{JobTable, Stage};
use crate::engine::patience::caught;
use crate::engine::scheduler::Scheduler;
use crate::engine::scheduler::piece::{CommitRoom, Piece};
use crate::engine::scheduler::read::Read;
use crate::engine::writer::Condition;
use crate::model::ids::JobId;
use crate::model::task_filter::TaskChoice;
use crate::store::{Retry, Sweep, Which};

impl Scheduler {
    /// Queues work that is to go on.
    pub(super) fn add_piece(&mut self, piece: Piece) {
        self.pieces.add(piece);
    }

    /// Adds the next pieces to the batch. Returns the jobs whose effect publishes them.
    pub(super) fn add_pieces(&mut self) -> HashSet<JobId> {
        let mut jobs = HashSet::new();
        // The store does not keep which tasks were named, so they are put back in the commit that says that their job is
        // retried.
        for (job, _) in std::mem::take(&mut self.named_retries) {
            jobs.extend(self.put_back(job, u32::MAX).then_some(job));
        }
        if self.draining {
            // What is left goes on after the restart.
            return jobs;
        }
        let Bounds { piece_rows, piece_share, .. } = self.bounds;
        // What is left of a full disk is for what ends and removes work.
        let all = self.condition() == Condition::Writable;
        let known = &self.jobs;
        let need = |piece| rows_of(piece, known);
        for (piece, share) in self.pieces.round(CommitRoom { rows: piece_rows, share: piece_share }, all, need) {
            match piece {
                Piece::Sweep(job) => jobs.extend(self.sweep(job, share).then_some(job)),
                Piece::Withdraw(job) => jobs.extend(self.withdraw(job, share).then_some(job)),
                Piece::Hasten(job) => self.hasten(job, share),
                Piece::Retry(job) => jobs.extend(self.put_back(job, share).then_some(job)),
                Piece::Purge(job) => self.purge(job, share),
            }
        }
        jobs
    }

    /// Adds purges alone, for a store that has no room for anything else: as many as go into one commit, since a large one
    /// would need more room than it makes.
    pub(super) fn add_purges(&mut self) {
        let Bounds { piece_rows, piece_share, .. } = self.bounds;
        for piece in self.pieces.purges((piece_rows / piece_share.max(1)) as usize) {
            self.purge(piece.job(), piece_share);
        }
    }

    fn sweep(&mut self, job: JobId, limit: u32) -> bool {
        let now = self.now();
        let Some(run) = self.jobs.get_mut(job) else { return false };
        if run.in_flight {
            self.add_piece(Piece::Sweep(job));
            return false;
        }
        let (Some((state, from)), Some(stop)) = (run.to_sweep(), &run.job.stop) else { return false };
        let error = stop.task_error();
        run.in_flight = true;
        run.job_mut().update_time = now;
        let first_sequence = run.job.sequence + 1;
        self.outbox.changed(job);
        let events = self.outbox.take_events(job);
        let batch = self.outbox.batch();
        let nth = batch.sweeps.len();
        let which = TaskChoice::All;
        batch.sweeps.push(Sweep { job, state, which, from, to: None, limit, error, time: now, first_sequence });
        self.outbox.then(Effect::Swept { nth, job, state, events });
        true
    }

    fn put_back(&mut self, job: JobId, limit: u32) -> bool {
        let Some(run) = self.jobs.get_mut(job) else { return false };
        if run.in_flight {
            self.add_piece(Piece::Retry(job));
            return false;
        }
        let Stage::Retrying(retrying) = &run.stage else { return false };
        let from = run.job.retrying.unwrap_or(0);
        let which = match &retrying.which {
            TaskChoice::These(these) => Which::These(these.clone()),
            TaskChoice::Fitting(filter) => Which::Fitting(from, filter.clone()),
            TaskChoice::All => Which::From(from),
        };
        run.in_flight = true;
        self.outbox.changed(job);
        let events = self.outbox.take_events(job);
        let batch = self.outbox.batch();
        let nth = batch.retries.len();
        batch.retries.push(Retry { job, which, limit });
        self.outbox.then(Effect::PutBack { nth, job, events });
        true
    }

    /// All tasks of a retry are put back, which is durable. Before they run, their part files come back: nothing else happens
    /// to the job until they are there.
    pub(super) fn bring_parts_back(&mut self, job: JobId) {
        let Some(run) = self.jobs.get_mut(job) else { return };
        let Stage::Retrying(retrying) = &mut run.stage else { return };
        retrying.returns = true;
        if !run.job.downloads {
            return self.retried(job);
        }
        run.in_flight = true;
        let (files, row) = (self.runner.files.clone(), run.job.clone());
        self.reads.spawn(async move {
            // A download whose part does not come back begins anew.
            let _ = caught(files.bring_back(&row).map(Ok)).await;
            Read::PartsBack(job)
        });
    }

    /// The tasks of a retry may run.
    pub(super) fn retried(&mut self, job: JobId) {
        let now = self.now();
        let Some(run) = self.jobs.get_mut(job) else { return };
        // A job that was read again meanwhile runs already.
        if !matches!(&run.stage, Stage::Retrying(retrying) if retrying.returns) {
            return;
        }
        run.in_flight = false;
        if let Stage::Retrying(retrying) = std::mem::replace(&mut run.stage, Stage::Open) {
            let (total, row) = (run.job.counts.total, run.job.clone());
            self.queue.reread(job, retrying.first.unwrap_or(total), total);
            self.queue.share_out(job, row.counts.pending);
            self.job_may_run(job, now);
            if let Some(reply) = retrying.reply {
                answer(reply, Ok(row));
            }
            self.next_selection(job);
        }
        self.go_on_with(job);
    }

    fn purge(&mut self, job: JobId, limit: u32) {
        let batch = self.outbox.batch();
        let nth = batch.purges.len();
        batch.purges.push((job, limit));
        self.outbox.then(Effect::Purged { nth, job });
    }
}

/// How many rows a piece may look at, at most. Those of a purge nobody knows.
fn rows_of(piece: Piece, jobs: &JobTable) -> u32 {
    jobs.get(piece.job()).map_or(u32::MAX, |run| run.job.counts.total)
}
