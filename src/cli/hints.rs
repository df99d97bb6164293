//! Which command helps after an error of a call. The server's messages are for all its clients, so they name no command.

use std::collections::HashMap;

/// Returns what a person may run next, for the reason of an error and the facts beside it.
pub(crate) fn hint(reason: &str, facts: &HashMap<String, String>) -> Option<&'static str> {
    let is = |states: &[&str]| facts.get("state").is_some_and(|state| states.contains(&state.as_str()));
    Some(match reason {
        "WRONG_STATE" if is(&["JOB_STATE_SUCCEEDED"]) => "`haul show JOB` shows it",
        "WRONG_STATE" if is(&ENDED) => "`haul retry JOB` runs its failed and cancelled tasks again",
        "WRONG_STATE" => {
            "`haul cancel JOB` cancels it, `haul wait JOB` waits for its end, which an open job has only after `haul seal JOB`"
        }
        "JOB_SEALED" => "`haul show JOB` says whether it has ended, `haul submit` makes another job",
        "JOB_NOT_FOUND" => "`haul list` lists the jobs",
        "TASK_NOT_FOUND" => "`haul tasks JOB` lists its tasks",
        "HOST_NOT_FOUND" => "`haul hosts` lists the hosts",
        "TOKEN_NOT_FOUND" => "`haul token list` lists the tokens",
        "TENANT_NOT_FOUND" => "`haul tenant list` lists the tenants",
        "CREDENTIAL_NOT_FOUND" => "`haul credential list` lists the credentials",
        "NO_CONTENT" => "`haul show JOB TASK` says how far it is",
        "NOT_PAGINATED" => "`haul cat JOB TASK` prints its body",
        "MESSAGE_TOO_LARGE" => {
            "`haul submit --open` makes an open job, and `haul add -i FILE` adds any number of tasks"
        }
        _ => return None,
    })
}

/// The states of a job that has ended and may have tasks to run again, as the contract names them.
const ENDED: [&str; 2] = ["JOB_STATE_FAILED", "JOB_STATE_CANCELLED"];
