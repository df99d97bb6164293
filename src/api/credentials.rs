//! Tasks that name a credential, judged when they are submitted: whether it is theirs to use, where they use it, and what
//! they must leave to it.

use std::collections::HashSet;
use std::sync::Arc;

use url::Url;

use crate::api::status::{Violations, shown};
use crate::engine::handle::Engine;
use crate::model::access::Actor;
use crate::model::book::Book;
use crate::model::credential::{Credential, NAMED_MAX, Value};
use crate::model::header::{begins_header, is_header};
use crate::model::spec::{HttpParts, TaskOptions, TaskSpec, Work};
use crate::model::time::Timestamp;

/// Headers that would take the credential somewhere else, or its place.
const RESERVED: [&str; 3] = ["authorization", "cookie", "proxy-authorization"];
/// Headers by which some origins take a request for one of another method, path or host, to which the credential is not bound.
const DISGUISES: [&str; 3] = ["forwarded", "x-host", "x-method"];
/// The beginnings of more such headers.
const DISGUISES_BEGIN: [&str; 8] = [
    "x-envoy-original-",
    "x-forwarded",
    "x-http-host",
    "x-http-method",
    "x-method-override",
    "x-original-",
    "x-override-",
    "x-rewrite-",
];

/// Judges the credentials that tasks name, and adds what is wrong. `defaults` is the path of the job's defaults, where they
/// come with the tasks.
pub(crate) fn check(
    engine: &Engine,
    by: &Actor,
    job: &TaskOptions,
    defaults: Option<&str>,
    (tasks, path): (&[TaskSpec], &str),
    v: &mut Violations,
) {
    let is_named = |options: &TaskOptions| options.http.credential.is_some();
    if !is_named(job) && !tasks.iter().any(|task| is_named(&task.options)) {
        return;
    }
    let book = engine.books().borrow().clone();
    let judge = Judge { book: &book, by, now: engine.now() };
    if let (Some(path), true) = (defaults, is_named(job)) {
        judge.check(HttpParts::of(&job.http, &job.http), &format!("{path}.http"), None, v);
    }
    let mut names: HashSet<&str> = HashSet::new();
    for (index, task) in tasks.iter().enumerate() {
        // Nothing of the job is copied: that may be a hundred headers, for each of ten thousand tasks.
        let parts = HttpParts::of(&job.http, &task.options.http);
        if parts.credential.is_none() {
            continue;
        }
        let path = format!("{path}[{index}].options.http");
        judge.check(parts, &path, Some(&task.work), v);
        let own = task.options.http.credential.as_deref();
        if own.is_some_and(|name| names.insert(name)) && names.len() > NAMED_MAX {
            let why = format!("is one too many: the tasks of a job name at most {NAMED_MAX}");
            return v.add(format!("{path}.credential"), why);
        }
    }
}

struct Judge<'a> {
    book: &'a Arc<Book>,
    by: &'a Actor,
    now: Timestamp,
}

impl Judge<'_> {
    /// Judges the options that a task runs with, or of the defaults of a job.
    fn check(&self, http: HttpParts<'_>, path: &str, work: Option<&Work>, v: &mut Violations) {
        let Some(name) = http.credential else { return };
        let field = format!("{path}.credential");
        let usable = |tenant| self.book.credentials.usable(tenant, name, self.by.principal);
        let Some(credential) = self.by.scope.no().and_then(usable) else {
            return v.add(field, format!("is `{}`, which is not a credential that the caller may use", shown(name)));
        };
        if credential.is_expired(self.now) {
            v.add(&field, format!("is `{name}`, which has expired; an admin of the tenant has to set it again"));
        }
        if let Some(work) = work {
            check_work(credential, work, &field, v);
        }
        for (name, is_set) in [
            ("basic_auth", http.auth.basic_auth.is_some()),
            ("bearer_token", http.auth.bearer_token.is_some()),
            ("proxy_url", http.proxy_url.is_some()),
            ("ca_pem", http.ca_pem.is_some()),
            ("client_certificate_pem", http.identity.client_certificate_pem.is_some()),
            ("insecure_skip_verify", http.insecure_skip_verify == Some(true)),
        ] {
            if is_set {
                v.add(format!("{path}.{name}"), "cannot be combined with `credential`");
            }
        }
        let own = credential.value.as_ref().and_then(Value::header);
        for (index, header) in http.headers.iter().enumerate() {
            let is_name = |other: &str| is_header(&header.name, other);
            let is_disguise = DISGUISES.iter().any(|it| is_name(it))
                || DISGUISES_BEGIN.iter().any(|it| begins_header(&header.name, it));
            if is_disguise || RESERVED.iter().any(|it| is_name(it)) || own.is_some_and(is_name) {
                v.add(
                    format!("{path}.headers[{index}].name"),
                    format!("`{}` cannot be set beside `credential`", shown(&header.name.to_ascii_lowercase())),
                );
            }
        }
    }
}

fn check_work(credential: &Credential, work: &Work, field: &str, v: &mut Violations) {
    let Ok(url) = Url::parse(work.url()) else { return };
    let name = &credential.name;
    if !credential.binding.fits(work.method(), &url) {
        v.add(field, format!("is `{name}`, which is not bound to the URL and method of the task"));
    }
    if let Some(Value::Query { name: parameter, .. }) = &credential.value
        && url.query_pairs().any(|(own, _)| own == parameter.as_str())
    {
        v.add(
            field,
            format!("is `{name}`, which sets a parameter of the query that the URL has too; leave it out there"),
        );
    }
}
