//! Paths of `google.api.http`: `/v1/jobs/{job_id}/tasks/{task_index}` and `/v1/jobs/{job_id}:cancel`. Pure.
//!
//! A variable stands for one segment, which is decoded after the path was split, so that a value may hold a `/`. The verb
//! is what follows the last `:` of the path.

use percent_encoding::percent_decode_str;

/// A path with its variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    segments: Vec<Segment>,
    verb: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Variable(String),
}

impl Template {
    /// Reads a template; `None` for what the rules here do not have (`*`, `**`, a variable of several segments).
    pub(crate) fn parse(text: &str) -> Option<Template> {
        let path = text.strip_prefix('/')?;
        let (path, verb) = match path.rsplit_once(':') {
            Some((path, verb)) => (path, Some(verb.to_owned())),
            None => (path, None),
        };
        let segments = path.split('/').map(|segment| match segment.strip_prefix('{') {
            Some(rest) => {
                let name = rest.strip_suffix('}').filter(|name| name.split('.').all(is_name));
                name.map(|it| Segment::Variable(it.to_owned()))
            }
            None => is_name(segment).then(|| Segment::Literal(segment.to_owned())),
        });
        Some(Template { segments: segments.collect::<Option<_>>()?, verb })
    }

    /// Returns the values of the variables, in their order, if the path fits this template. A value that is not UTF-8 matches
    /// nothing.
    pub(crate) fn matches(&self, path: &SplitPath<'_>) -> Option<Vec<String>> {
        if path.verb != self.verb.as_deref() || path.segments.len() != self.segments.len() {
            return None;
        }
        let mut values = Vec::new();
        for (segment, given) in self.segments.iter().zip(&path.segments) {
            match segment {
                Segment::Literal(literal) if literal == given => {}
                Segment::Literal(_) => return None,
                Segment::Variable(_) if given.is_empty() => return None,
                Segment::Variable(_) => values.push(percent_decode_str(given).decode_utf8().ok()?.into_owned()),
            }
        }
        Some(values)
    }

    /// Returns the names of the variables.
    pub(crate) fn variables(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Variable(name) => Some(name.as_str()),
            Segment::Literal(_) => None,
        })
    }
}

/// The path of a request, split once for all templates that it is compared with.
#[derive(Debug)]
pub(crate) struct SplitPath<'a> {
    /// As they were sent.
    segments: Vec<&'a str>,
    verb: Option<&'a str>,
}

impl<'a> SplitPath<'a> {
    /// Splits a path; `None` where it does not begin with a `/`.
    pub(crate) fn of(path: &'a str) -> Option<SplitPath<'a>> {
        let path = path.strip_prefix('/')?;
        let (path, verb) = match path.rfind(':').filter(|at| !path[*at..].contains('/')) {
            Some(at) => (&path[..at], Some(&path[at + 1..])),
            None => (path, None),
        };
        Some(SplitPath { segments: path.split('/').collect(), verb })
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matched(template: &str, path: &str) -> Option<String> {
        let template = Template::parse(template).unwrap();
        let values = template.matches(&SplitPath::of(path)?)?;
        let pairs: Vec<_> = template.variables().zip(values).map(|(name, value)| format!("{name}={value};")).collect();
        Some(pairs.concat())
    }

    #[test]
    fn variables_are_segments_and_the_verb_follows_the_last_colon() {
        for (template, path, values) in [
            ("/v1/jobs", "/v1/jobs", Some("")),
            ("/v1/jobs", "/v1/jobs/", None),
            ("/v1/jobs", "/v1//jobs", None),
            ("/v1/jobs", "/v1/job", None),
            ("/v1/jobs", "/v1/jobs:watch", None),
            ("/v1/jobs:watch", "/v1/jobs:watch", Some("")),
            ("/v1/jobs:watch", "/v1/jobs", None),
            ("/v1/jobs/{job_id}", "/v1/jobs/a", Some("job_id=a;")),
            ("/v1/jobs/{job_id}", "/v1/jobs/", None),
            ("/v1/jobs/{job_id}", "/v1/jobs/a/", None),
            ("/v1/jobs/{job_id}", "/v1/jobs/a/b", None),
            ("/v1/jobs/{job_id}", "/v1/jobs/a%2Fb", Some("job_id=a/b;")),
            ("/v1/jobs/{job_id}", "/v1/jobs/a%3Acancel", Some("job_id=a:cancel;")),
            ("/v1/jobs/{job_id}", "/v1/jobs/a:cancel", None),
            ("/v1/jobs/{job_id}", "/v1/jobs/%ff", None),
            ("/v1/jobs/{job_id}", "/v1/jobs/..", Some("job_id=..;")),
            ("/v1/jobs/{job_id}:cancel", "/v1/jobs/a:cancel", Some("job_id=a;")),
            ("/v1/jobs/{job_id}:cancel", "/v1/jobs/:cancel", None),
            ("/v1/jobs/{job_id}:cancel", "/v1/jobs/a%3Acancel", None),
            ("/v1/hosts/{host}:resume", "/v1/hosts/cdn.example:443:resume", Some("host=cdn.example:443;")),
            ("/v1/jobs/{job_id}/tasks/{task_index}/items", "/v1/jobs/a/tasks/7/items", Some("job_id=a;task_index=7;")),
            (
                "/v1/jobs/{job_id}/tasks/{task_index}/items",
                "/v1/jobs/a:b/tasks/7/items",
                Some("job_id=a:b;task_index=7;"),
            ),
        ] {
            assert_eq!(matched(template, path).as_deref(), values, "{template} {path}");
        }
    }

    #[test]
    fn what_is_no_template_of_ours_is_refused() {
        for bad in ["v1/jobs", "/v1/*", "/v1/{name=jobs/*}", "/v1/{}", "/v1//jobs", "/"] {
            assert_eq!(Template::parse(bad), None, "{bad}");
        }
    }
}
