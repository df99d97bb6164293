//! The conformance suite of the store: every backend passes the same cases, so that a second one cannot drift.

// The cases are for each other, nobody is outside; and a panic is how a case fails.
#![allow(unreachable_pub, clippy::unwrap_used)]

#[path = "support/disk.rs"]
mod disk;
#[path = "memory/mod.rs"]
mod memory;

mod store {
    pub mod chosen;
    pub mod deletion;
    pub mod events;
    pub mod found;
    pub mod jobs;
    pub mod pages;
    pub mod restart;
    pub mod sqlite_audit;
    pub mod sqlite_copies;
    pub mod sqlite_damage;
    pub mod sqlite_full;
    pub mod sqlite_open;
    pub mod sqlite_sealed;
    pub mod sqlite_unreadable;
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
                lists_by_state_and_label, lists_by_time, a_request_is_stored_once, a_request_of_a_refused_job_is_free, jobs_have_creators, tenants_have_their_own_jobs_labels_and_requests,
                who_may_call_is_kept,
                a_chunk_is_stored_once, taken_keys_are_answered, total_and_pending_are_derived, limits_are_kept, pauses_are_kept,
                an_unknown_job_is_refused, a_refused_job_leaves_the_others, a_task_that_is_not_there_is_refused,
                events_run_out_for_one_job_alone, many_in_one_batch;
            tasks: stored_task_reads_back, keys_find_tasks, lists_by_state, lane_page_skips_what_may_not_start,
                lane_page_goes_on_behind_what_has_ended, pages_end_by_bytes, states_are_told,
                downloads_that_started_are_found;
            states: a_claim_is_running, a_move_ends_the_claim, ended_and_claimed_again_in_one_batch,
                backing_off_and_claimed_again, two_claims_are_refused, an_end_is_final,
                an_older_attempt_changes_nothing, a_move_cannot_be_running, due_tasks_in_order, retry_puts_back,
                retry_in_pieces, retry_of_some, retry_tells_how_tasks_failed, retry_of_what_has_not_failed_is_refused,
                tasks_are_counted_by_their_rows;
            events: events_in_order, an_end_is_told_by_its_row, an_end_before_a_retry_is_told_as_it_was;
            pages: pages_read_back, page_of_item_is_found;
            sweeps: sweep_of_pending, sweep_of_backing_off, sweep_in_pieces, sweep_in_the_batch_of_an_end,
                shared_errors_are_told_apart, a_sweep_of_what_runs_is_refused;
            found: jobs_are_found_by_a_text, jobs_are_found_by_their_end, jobs_are_found_by_name,
                tasks_are_found_by_all_conditions, tasks_are_found_by_what_people_see, events_come_from_the_last_on;
            chosen: tasks_that_are_named_end, tasks_that_fit_end, nothing_beyond_the_last_one_is_touched, tasks_are_due_at_once, retry_of_what_fits,
                a_retry_keeps_what_it_is_about;
            restart: everything_is_there_again, recovery_tells_what_was_cut, every_job_is_recovered, ended_jobs_are_not_recovered,
                a_writer_that_died_lost_nothing, heads_are_kept, recovery_comes_in_parts;
            deletion: deleted_jobs_are_hidden, purge_takes_bounded_steps, purge_of_a_kept_job_is_refused,
                expired_jobs_are_told, a_purge_leaves_others_alone, what_tenants_store_is_summed_up, deletions_are_answered,
                an_unfinished_job_that_cannot_be_read_is_deleted,
                a_purge_takes_old_states_too;
        });
    };
}

all_cases!(sqlite: crate::store::support::Sqlite);
all_cases!(in_memory: crate::store::support::Memory);
