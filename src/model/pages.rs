//! Which paths are pages of the dashboard. Pure.
//!
//! A page holds no data: it is the same document for each of these paths, and what it shows it asks for by calls of its own.

/// The tabs of a job that have paths of their own.
const TABS: [&str; 4] = ["tasks", "failures", "activity", "spec"];

/// Returns whether a path is a page.
pub fn is_page(path: &str) -> bool {
    let Some(path) = path.strip_prefix('/') else { return false };
    let mut parts = path.split('/');
    let parts: [Option<&str>; 5] = std::array::from_fn(|_| parts.next());
    match parts {
        [Some("" | "jobs" | "hosts" | "server" | "submit"), None, ..] => true,
        [Some("jobs"), Some(id), None, ..] => !id.is_empty(),
        [Some("jobs"), Some(id), Some(tab), None, _] => !id.is_empty() && TABS.contains(&tab),
        [Some("jobs"), Some(id), Some("tasks"), Some(index), None] => {
            !id.is_empty() && !index.is_empty() && index.bytes().all(|it| it.is_ascii_digit())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::is_page;

    #[test]
    fn pages_are_these_paths_and_no_others() {
        for page in [
            "/",
            "/jobs",
            "/hosts",
            "/server",
            "/submit",
            "/jobs/0197",
            "/jobs/0197/tasks",
            "/jobs/0197/failures",
            "/jobs/0197/activity",
            "/jobs/0197/spec",
            "/jobs/0197/tasks/0",
            "/jobs/0197/tasks/999999",
        ] {
            assert!(is_page(page), "{page}");
        }
        for other in [
            "",
            "jobs",
            "/jobs/",
            "/jobs//tasks",
            "/jobs/0197/",
            "/jobs/0197/items",
            "/jobs/0197/tasks/",
            "/jobs/0197/tasks/x",
            "/jobs/0197/tasks/1/2",
            "/jobs/0197/spec/1",
            "/schedules",
            "/webhooks",
            "/server/x",
            "/app.js",
            "/v1/jobs",
            "//",
        ] {
            assert!(!is_page(other), "{other}");
        }
    }
}
