//! The end of a part: by itself, or where many are to be durable together with others.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::files::Durability;
use crate::files::beside::beside;
use crate::files::bound::Bound;
use crate::files::checkpoint::Place;
use crate::files::commit::{Commit, Committed, Taken};
use crate::files::error::{blocking, interrupted};
use crate::files::source::Record;
use crate::files::together::{Folders, Member};
use crate::model::failure::Failure;
use crate::model::outcome::CreatedFile;

/// Larger files are made durable by themselves: what waits in one round is so many times as much.
const JOINS_BYTES_MAX: u64 = 1 << 20;

impl Bound {
    /// Gives the finished part its name. `size` is what it must have. `is_of_task`: its key is of one task for ever, so that a
    /// file of that key is the task's own.
    pub async fn commit(
        self,
        name: &str,
        size: u64,
        taken: Taken,
        durability: Durability,
        is_of_task: bool,
    ) -> Result<Committed, Failure> {
        let (place, binding) = self.into_parts();
        let has_date = !binding.version.last_modified.is_empty();
        let record = Record {
            is_young: has_date && !binding.version.has_strong_date(),
            key: place.key.clone(),
            source: binding.source,
            url: binding.final_url,
            etag: binding.version.etag,
            last_modified: binding.version.last_modified,
            content_type: binding.content_type,
            http_status: binding.http_status,
            connections: binding.connections,
            ..Record::default()
        };
        let commit = Commit { name: name.to_owned(), size, taken, durability, record, is_of_task };
        // What waits for nothing is done in place: a small file costs a few system calls and no change of threads.
        if durability == Durability::None && !place.has_meta() {
            return commit.run(&place);
        }
        let root = Arc::clone(&place.root);
        let under_way = root.together().begin();
        // All bytes of a part that has neither name nor checkpoint were written by this process, through this handle.
        let is_new = !place.has_meta() && !place.is_named();
        if durability == Durability::Full && size <= JOINS_BYTES_MAX && is_new && under_way.joins() {
            return together(commit, place).await;
        }
        blocking(move || commit.run(&place)).await
    }
}

async fn together(commit: Commit, place: Arc<Place>) -> Result<Committed, Failure> {
    let root = Arc::clone(&place.root);
    let (answer, answered) = oneshot::channel();
    let lead =
        root.together().add(Box::new(Joined { commit, place, prepared: None, name: None, answer: Some(answer) }));
    let leading = async move {
        match lead {
            Some(lead) => drop(beside(move || lead.run(|| root.sync_all())).await),
            None => std::future::pending().await,
        }
    };
    let mut answered = std::pin::pin!(answered);
    let answer = tokio::select! {
        biased;
        // First: others count on whoever is to lead, also where another leader was so quick that its own file is done by now. It goes
        // on for them after that, and the runtime waits for it at its end.
        () = leading => answered.await,
        answer = &mut answered => answer,
    };
    answer.unwrap_or_else(|lost| Err(interrupted(&lost)))
}

/// A file among others that are made durable together.
#[derive(Debug)]
struct Joined {
    commit: Commit,
    place: Arc<Place>,
    prepared: Option<CreatedFile>,
    name: Option<String>,
    /// `None`: it has failed, and has said so.
    answer: Option<oneshot::Sender<Result<Committed, Failure>>>,
}

impl Joined {
    fn answer(&mut self, result: Result<Committed, Failure>) {
        if let Some(answer) = self.answer.take() {
            // Where nobody waits any more, it is found by its key.
            let _ = answer.send(result);
        }
    }

    /// What a step has brought; `None`: it failed.
    fn taken<T>(&mut self, step: Result<T, Failure>) -> Option<T> {
        step.map_err(|failure| self.answer(Err(failure))).ok()
    }

    fn named(&mut self, errors: Option<u64>) -> Result<String, Failure> {
        self.place.sync_unless(errors, self.commit.size).map_err(|error| self.place.fail("finish", &error))?;
        self.commit.give_name(&self.place)
    }

    fn sync_name(&self, folders: &mut Folders) -> Result<(), Failure> {
        let home = self.place.home();
        let sync = || self.place.root.sync_folder(&home).map_err(|error| error.kind());
        let synced = folders.entry(home.path().to_owned()).or_insert_with(sync);
        synced.map_err(|kind| self.place.fail("finish", &kind.into()))
    }
}

impl Member for Joined {
    fn prepare(&mut self) -> bool {
        let prepared = self.commit.prepare(&self.place);
        self.prepared = self.taken(prepared);
        self.prepared.is_some()
    }

    fn take_name(&mut self, errors: Option<u64>) -> bool {
        let named = self.named(errors);
        self.name = self.taken(named);
        self.name.is_some()
    }

    fn end(mut self: Box<Self>, folders: &mut Folders) {
        let (Some(created), Some(name), answer) = (self.prepared, self.name.take(), self.answer.take()) else { return };
        let synced = self.sync_name(folders);
        let Joined { commit, place, .. } = *self;
        let result = synced.and_then(|()| commit.end(&place, &name, created));
        if let Some(answer) = answer {
            let _ = answer.send(result);
        }
    }
}
