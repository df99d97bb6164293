//! Who may call: decided against the newest book, in force after the commit.

use std::sync::Arc;

use crate::engine::command::{Reply, answer};
use crate::engine::effect::Effect;
use crate::engine::scheduler::Scheduler;
use crate::model::access::{AccessAnswer, AccessChange, Actor};
use crate::model::book::{Applied, Book};

impl Scheduler {
    pub(super) fn change_access(&mut self, change: &AccessChange, by: &Actor, reply: Reply<AccessAnswer>) {
        let Applied { book, rows, answer: told } = match self.book.apply(change, by, self.now()) {
            Ok(applied) => applied,
            Err(refusal) => return answer(reply, Err(refusal.into())),
        };
        // What changes nothing is answered once what it was decided upon is durable.
        self.book = Arc::new(book);
        self.outbox.batch().access.extend(rows);
        self.outbox.then(Effect::AccessStored(self.book.clone(), told, reply));
    }

    /// Puts a book into force that is durable.
    pub(super) fn access_stored(&mut self, book: Arc<Book>, told: AccessAnswer, reply: Reply<AccessAnswer>) {
        self.books.send_replace(book);
        answer(reply, Ok(told));
    }
}
