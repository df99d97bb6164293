//! What the operator leaves to clients of how their tasks are sent.

use crate::api::status::Violations;
use crate::model::spec::{HttpOptions, TaskOptions, TaskSpec};

/// What tasks may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientOptions {
    /// Whether they may name a proxy: one is an egress that the guard on addresses cannot see.
    pub proxy: bool,
    /// Whether they may accept any certificate.
    pub skip_verify: bool,
}

impl ClientOptions {
    /// Adds what tasks say and may not. `defaults` is the path of the job's defaults, where they come with the tasks.
    pub(crate) fn check(
        self,
        job: &TaskOptions,
        defaults: Option<&str>,
        (tasks, path): (&[TaskSpec], &str),
        v: &mut Violations,
    ) {
        if let Some(path) = defaults {
            self.check_one(&job.http, path, v);
        }
        for (index, task) in tasks.iter().enumerate() {
            if task.options.http != HttpOptions::default() {
                self.check_one(&task.options.http, &format!("{path}[{index}].options"), v);
            }
        }
    }

    fn check_one(self, http: &HttpOptions, path: &str, v: &mut Violations) {
        if http.proxy_url.is_some() && !self.proxy {
            let why =
                "is for the operator of this server to choose (`--egress-proxy`, `--allow-client-proxy`); leave it out";
            v.add(format!("{path}.http.proxy_url"), why);
        }
        if http.insecure_skip_verify == Some(true) && !self.skip_verify {
            let why =
                "is not allowed on this server (`--allow-insecure-skip-verify`); trust the authority with `ca_pem`";
            v.add(format!("{path}.http.insecure_skip_verify"), why);
        }
    }
}
