//! The conformance suite of the store: every backend passes the same cases, so that a second one cannot drift.

// The cases are for each other, nobody is outside; and a panic is how a case fails.
#![allow(unreachable_pub, clippy::unwrap_used)]

mod store {
    pub mod deletion;
    pub mod events;
    pub mod jobs;
    pub mod pages;
    pub mod restart;
    pub mod sqlite_open;
    pub mod states;
    pub mod support;
    pub mod sweeps;
    pub mod tasks;
}

/// A test per case, for one backend.
macro_rules! conformance {
    ($name:ident: $backend:ty { $($group:ident: $($case:ident),+;)+ }) => {
        mod $name {
            $(mod $group {
                $(#[tokio::test]
                async fn $case() {
                    crate::store::$group::$case::<$backend>().await;
                })+
            })+
        }
    };
}

/// All cases, for one backend.
macro_rules! all_cases {
    ($name:ident: $backend:ty) => {
        conformance!($name: $backend {
            jobs: stored_job_reads_back, moving_part_is_updated, spec_is_updated, lists_newest_first,
                lists_by_state_and_label, lists_by_time, request_is_found, chunk_is_found, limits_are_kept,
                an_unknown_job_is_refused, nothing_of_a_failed_batch_stays, many_in_one_batch;
            tasks: stored_task_reads_back, keys_find_tasks, taken_keys_are_told, a_taken_key_is_refused,
                lists_by_state, lane_page_skips_what_is_not_waiting, states_are_told, download_paths_are_told;
            states: a_claim_is_running, a_move_ends_the_claim, ended_and_claimed_again_in_one_batch, backing_off_and_claimed_again, two_claims_are_refused,
                an_end_is_final, an_older_attempt_changes_nothing, a_move_cannot_be_running, due_tasks_in_order,
                retry_puts_back, retry_of_some, retry_of_what_has_not_failed_is_refused;
            events: events_in_order, an_end_is_told_by_its_row, an_end_before_a_retry_is_told_as_it_was;
            pages: pages_read_back, dropped_pages_go_first, page_of_item_is_found;
            sweeps: sweep_of_pending, sweep_of_backing_off, sweep_in_steps, a_wrong_count_is_refused;
            restart: everything_is_there_again, recovery_tells_what_was_cut, ended_jobs_are_not_recovered,
                a_writer_that_died_lost_nothing, heads_are_kept;
            deletion: deleted_jobs_are_hidden, purge_takes_bounded_steps, purge_of_a_kept_job_is_refused,
                expired_jobs_are_told, a_purge_leaves_others_alone;
        });
    };
}

all_cases!(sqlite: crate::store::support::Sqlite);
