//! Makes the message of a call from a request: its path, its query, its body and two of its headers.
//!
//! Path and query become one document of JSON, by what the descriptors say of each field, and are then read as a body is.
//! So they have one set of rules, and each error names a field of the request message.

use http::HeaderMap;
use percent_encoding::percent_decode_str;
use prost_reflect::{
    Cardinality, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage as _, Value as Field,
};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use tonic::Status;

use crate::api::status::{Violations, shown};
use crate::protojson::expected::{self, is_one_text};
use crate::protojson::field_of;
use crate::rest::json;
use crate::rest::routes::{Body, Route};

/// The header that makes a call idempotent.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// The header in which a browser says how far it was when its stream was cut.
const LAST_EVENT_ID: &str = "last-event-id";
/// Fields whose parts are named one by one in a mask, each with the parts that can be changed; none listed: all of them. Of other
/// fields a change is of the whole.
const CHANGED_IN_PARTS: [(&str, &[&str]); 2] = [("group", &["max_concurrency"]), ("quotas", &[])];

/// Returns the message of a call. `values` are those of the variables of the path, in their order.
pub(crate) fn message(
    route: &Route,
    values: &[String],
    query: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<DynamicMessage, Status> {
    // Some editors write a byte order mark, and a reader may ignore it (RFC 8259, 8.1).
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let path: Vec<(&str, &String)> = route.template.variables().zip(values).collect();
    let input = route.rpc.input();
    let mut message = match &route.body {
        Body::All if !body.is_empty() => json::read(&input, body, "")?,
        Body::Field(field) if !body.is_empty() => {
            let mut message = DynamicMessage::new(input.clone());
            if let Kind::Message(descriptor) = field.kind() {
                let value = json::read(&descriptor, body, field.name())?;
                message.set_field(field, Field::Message(value));
            }
            message
        }
        _ => DynamicMessage::new(input.clone()),
    };
    let mut v = Violations::default();
    let mut document = Map::new();
    let of_body = match &route.body {
        Body::Field(field) => Some(field.name()),
        Body::All | Body::None => None,
    };
    let elsewhere: Vec<&str> = path.iter().map(|(variable, _)| *variable).chain(of_body).collect();
    for (name, text) in pairs(query, &mut v) {
        let is_taken = path.iter().any(|(variable, _)| *variable == name);
        let first = name.split(['.', '[']).next().unwrap_or_default();
        let is_body = match &route.body {
            Body::All => field_of(&input, first).is_some(),
            Body::Field(field) => first == field.name(),
            Body::None => false,
        };
        if is_taken || is_body {
            v.add(shown(&name), if is_taken { "is given by the path" } else { "must be given in the body" });
        } else if field_of(&input, first).is_none() {
            v.add(shown(&name), expected::unknown(&input, &elsewhere));
        } else {
            place(&mut document, &input, &name, text, &mut v);
        }
    }
    for (name, text) in &path {
        if is_set(&message, name) {
            v.add(*name, "is given by the path; leave it out of the body");
        }
        place(&mut document, &input, name, Some((*text).clone()), &mut v);
    }
    let own = message.get_field_by_name("request_id").and_then(|it| it.as_str().map(str::to_owned));
    if own.is_some_and(|own| !own.is_empty() && idempotency_key(headers).is_some_and(|key| key != own)) {
        v.add("request_id", "differs from `Idempotency-Key`; leave one out");
    }
    from_headers(&mut document, &input, headers, &mut v);
    v.or(())?;
    if !set_texts(&mut message, &document) {
        merge(&mut message, json::read_value(&input, &Value::Object(document))?);
    }
    name_changes(&mut message, route, &path, body)?;
    Ok(message)
}

/// Sets what a document names if all of that are texts, of which each is what it is. Returns whether it has; the document has to
/// be read otherwise. Most requests are nothing but the id of a job.
fn set_texts(message: &mut DynamicMessage, document: &Map<String, Value>) -> bool {
    let of = message.descriptor();
    let texts = document.iter().map(|(name, value)| {
        let field = of.get_field_by_name(name)?;
        // Of fields that are one of several, another one may be set already.
        let is_alone = matches!(field.kind(), Kind::String) && !field.is_list() && field.containing_oneof().is_none();
        value.as_str().filter(|_| is_alone).map(|text| (field, text.to_owned()))
    });
    let Some(texts) = texts.collect::<Option<Vec<_>>>() else { return false };
    for (field, text) in texts {
        message.set_field(&field, Field::String(text));
    }
    true
}

/// Returns whether a field is set; parts of messages stand after a `.`.
fn is_set(message: &DynamicMessage, name: &str) -> bool {
    let Some((first, rest)) = name.split_once('.') else { return message.has_field_by_name(name) };
    let inside = message.get_field_by_name(first);
    inside.as_ref().and_then(|it| it.as_message()).is_some_and(|inside| is_set(inside, rest))
}

/// Sets what `other` sets, within messages that both have.
fn merge(message: &mut DynamicMessage, mut other: DynamicMessage) {
    for (field, value) in other.take_fields() {
        match value {
            Field::Message(inside) if message.has_field(&field) && !is_one_text(&inside.descriptor()) => {
                if let Field::Message(known) = message.get_field_mut(&field) {
                    merge(known, inside);
                }
            }
            value => message.set_field(&field, value),
        }
    }
}

/// Splits a query into names and values. A name without a `=` has none.
fn pairs(query: &str, v: &mut Violations) -> Vec<(String, Option<String>)> {
    let decoded = |text: &str| {
        let spaced = text.replace('+', " ");
        percent_decode_str(&spaced).decode_utf8().map(std::borrow::Cow::into_owned).map_err(|_| shown(text))
    };
    let parts = query.split('&').filter(|part| !part.is_empty());
    let mut pairs = Vec::new();
    for part in parts {
        let (name, value) = part.split_once('=').map_or((part, None), |(name, value)| (name, Some(value)));
        match (decoded(name), value.map(decoded).transpose()) {
            (Ok(name), Ok(value)) => pairs.push((name, value)),
            (Err(text), _) | (_, Err(text)) => v.add(shown(name), format!("has `{text}`, which is not UTF-8")),
        }
    }
    pairs
}

/// Puts a parameter into the document. `name` is a field by either of its names, parts of messages after a `.`, the key of
/// a map in brackets.
fn place(
    document: &mut Map<String, Value>,
    of: &MessageDescriptor,
    name: &str,
    text: Option<String>,
    v: &mut Violations,
) {
    let (first, rest) = match name.find(['.', '[']) {
        Some(at) => (&name[..at], &name[at..]),
        None => (name, ""),
    };
    let Some(field) = field_of(of, first) else {
        v.add(shown(name), expected::unknown(of, &[]));
        return;
    };
    let key = field.name().to_owned();
    if let Some(inner) = rest.strip_prefix('.') {
        match field.kind() {
            Kind::Message(inside) if !field.is_list() && !field.is_map() && !is_one_text(&inside) => {
                if let Value::Object(inside_document) = document.entry(key).or_insert_with(|| Value::Object(Map::new()))
                {
                    place(inside_document, &inside, inner, text, v);
                }
            }
            _ if field.is_map() => {
                v.add(shown(name), format!("is no field; write {}[{}]=VALUE", field.name(), shown(inner)));
            }
            _ => v.add(shown(name), format!("is no field: `{}` has no parts", field.name())),
        }
    } else if let Some(entry) = rest.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
        if entry.contains(['[', ']']) {
            // Others read lists or maps in such names.
            v.add(shown(name), "has brackets within its brackets; a key in a query has none");
        } else if field.is_map() {
            if let Value::Object(map) = document.entry(key).or_insert_with(|| Value::Object(Map::new()))
                && map.insert(entry.to_owned(), Value::from(text.unwrap_or_default())).is_some()
            {
                v.add(shown(name), "is given twice");
            }
        } else {
            v.add(shown(name), format!("is no field: `{}` has no keys", field.name()));
        }
    } else if !rest.is_empty() {
        v.add(shown(name), "has a bracket that does not close");
    } else if field.cardinality() == Cardinality::Repeated && !field.is_map() {
        let item = scalar(&field, text, name, v);
        if let Value::Array(items) = document.entry(key).or_insert_with(|| Value::Array(Vec::new())) {
            items.push(item);
        }
    } else if field.is_map() {
        v.add(shown(name), format!("is a map; write {}[KEY]=VALUE", field.name()));
    } else {
        let value = scalar(&field, text, name, v);
        if document.insert(key, value).is_some() {
            v.add(shown(name), "is given twice");
        }
    }
}

/// Returns the value of a field as JSON has it. Numbers, enums, times and masks are read from texts; what is true or false is true
/// where its name stands alone.
fn scalar(field: &FieldDescriptor, text: Option<String>, name: &str, v: &mut Violations) -> Value {
    let stands_alone = text.is_none();
    let text = text.unwrap_or_default();
    match field.kind() {
        Kind::Bool => match text.as_str() {
            "true" => Value::Bool(true),
            "" if stands_alone => Value::Bool(true),
            "false" => Value::Bool(false),
            _ => {
                v.add(shown(name), format!("is `{}`; it must be true or false", shown(&text)));
                Value::Null
            }
        },
        Kind::Message(inside) if !is_one_text(&inside) => {
            v.add(shown(name), format!("is a message; write {name}.PART=VALUE"));
            Value::Null
        }
        _ => Value::from(text),
    }
}

/// Returns the field by which a client says how much of a stream it has.
pub(crate) fn going_on(input: &MessageDescriptor) -> Option<FieldDescriptor> {
    ["after_sequence", "after_item"].iter().find_map(|name| input.get_field_by_name(name))
}

/// Returns the value of `Idempotency-Key`, if there is one.
fn idempotency_key(headers: &HeaderMap) -> Option<String> {
    let value = String::from_utf8_lossy(headers.get(IDEMPOTENCY_KEY)?.as_bytes()).into_owned();
    // A text of RFC 8941 stands in quotes.
    let text = value.strip_prefix('"').and_then(|text| text.strip_suffix('"')).map(str::to_owned);
    Some(text.unwrap_or(value))
}

/// Reads the two headers that stand for fields.
fn from_headers(document: &mut Map<String, Value>, input: &MessageDescriptor, headers: &HeaderMap, v: &mut Violations) {
    let text = |name: &str| {
        let value = headers.get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    if let (Some(_), Some(key)) = (input.get_field_by_name("request_id"), idempotency_key(headers)) {
        let before = document.insert("request_id".to_owned(), Value::from(key.as_str()));
        if before.is_some_and(|before| before.as_str() != Some(&key)) {
            v.add("request_id", "differs from `Idempotency-Key`; leave one out");
        }
    }
    if let (Some(field), Some(id)) = (going_on(input), text(LAST_EVENT_ID)) {
        if id.parse::<u64>().is_err() {
            v.add(field.name(), "is given by `Last-Event-ID`, which must be the `id` of an event, a whole number");
        }
        document.insert(field.name().to_owned(), Value::from(id));
    }
}

/// Fields by which a change says what it changes, and which it cannot change.
const OF_THE_CHANGE: [&str; 2] = ["update_mask", "etag"];

/// Returns the parts of a field that its value names. Without a value each part that can be changed is named, and so gets its default.
fn parts_named(
    inside: &MessageDescriptor,
    name: &str,
    changeable: &[&str],
    value: &RawValue,
) -> Result<Vec<String>, Status> {
    let may_change = |part: &FieldDescriptor| changeable.is_empty() || changeable.contains(&part.name());
    let path = |part: &FieldDescriptor| format!("{name}.{}", part.name());
    if value.get() == "null" {
        return Ok(inside.fields().filter(may_change).map(|part| path(&part)).collect());
    }
    let named: std::collections::BTreeMap<String, &RawValue> = serde_json::from_str(value.get()).unwrap_or_default();
    let parts: Vec<FieldDescriptor> = named.keys().filter_map(|part| field_of(inside, part)).collect();
    match parts.iter().find(|part| !may_change(part)) {
        Some(part) => Err(Violations::one(&path(part), "cannot be changed; leave it out".to_owned())),
        None => Ok(parts.iter().map(path).collect()),
    }
}

/// Names in the mask of a change what its body names, where it has no mask of its own. What the path names is not changed.
fn name_changes(
    message: &mut DynamicMessage,
    route: &Route,
    path: &[(&str, &String)],
    body: &[u8],
) -> Result<(), Status> {
    let has_mask = || route.rpc.input().get_field_by_name("update_mask").is_some();
    if route.method != http::Method::PATCH || !has_mask() || message.has_field_by_name("update_mask") || body.is_empty()
    {
        return Ok(());
    }
    let of = match &route.body {
        Body::Field(field) => match field.kind() {
            Kind::Message(descriptor) => descriptor,
            _ => return Ok(()),
        },
        _ => route.rpc.input(),
    };
    let named: std::collections::BTreeMap<String, &RawValue> = serde_json::from_slice(body).unwrap_or_default();
    let mut paths = Vec::new();
    for (name, value) in named {
        let known = field_of(&of, &name);
        let is_of_path =
            |field: &FieldDescriptor| path.iter().any(|(name, _)| name.rsplit('.').next() == Some(field.name()));
        let Some(field) = known.filter(|it| !OF_THE_CHANGE.contains(&it.name()) && !is_of_path(it)) else { continue };
        let in_parts = CHANGED_IN_PARTS.iter().find(|(name, _)| *name == field.name());
        match (field.kind(), in_parts) {
            (Kind::Message(inside), Some((_, changeable))) => {
                paths.extend(parts_named(&inside, field.name(), changeable, value)?);
            }
            _ => paths.push(field.name().to_owned()),
        }
    }
    if paths.is_empty() {
        return Err(Violations::one(
            "body",
            "names nothing to change; see /v1/openapi.json for what it may name".to_owned(),
        ));
    }
    let mask = json::read_value(&route.rpc.input(), &serde_json::json!({"updateMask": paths.join(",")}))?;
    if let Some(value) = mask.get_field_by_name("update_mask") {
        message.set_field_by_name("update_mask", value.into_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::Method;
    use prost::Message as _;
    use tonic_types::StatusExt as _;

    use super::*;
    use crate::pb;
    use crate::rest::routes::{Found, find, routes};

    fn bound<M: prost::Message + Default>(
        method: &Method,
        uri: &str,
        headers: &[(&'static str, &str)],
        body: &str,
    ) -> Result<M, Vec<String>> {
        let routes = routes(json::pool());
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let Found::Route(route, values) = find(&routes, method, path) else { panic!("{uri}") };
        let headers = headers.iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()));
        let message = message(&route, &values, query, &headers.collect(), body.as_bytes());
        message.map(|message| M::decode(message.encode_to_vec().as_slice()).unwrap()).map_err(|status| {
            let violations = status.get_details_bad_request().unwrap().field_violations;
            violations.into_iter().map(|it| format!("{}: {}", it.field, it.description)).collect()
        })
    }

    #[test]
    fn a_query_has_all_kinds_of_fields() {
        let list: pb::ListJobsRequest = bound(
            &Method::GET,
            "/v1/jobs?page_size=7&states=JOB_STATE_RUNNING&states=JOB_STATE_PAUSED&labels[team]=m+l%26&labels%5Bx%5D=\
             &createTimeAfter=2026-01-02T03:04:05Z",
            &[],
            "",
        )
        .unwrap();
        assert_eq!((list.page_size, list.states.len()), (7, 2));
        assert_eq!(list.labels["team"], "m l&");
        assert_eq!(list.labels["x"], "");
        assert_eq!(list.create_time_after.unwrap().seconds, 1_767_323_045);
        let task: pb::GetTaskRequest = bound(&Method::GET, "/v1/jobs/a%2Fb/tasks/3?include_body", &[], "").unwrap();
        assert_eq!((task.job_id.as_str(), task.include_body), ("a/b", true));
        assert_eq!(task.task, Some(pb::get_task_request::Task::TaskIndex(3)));
        let wait: pb::WaitJobRequest = bound(&Method::GET, "/v1/jobs/a:wait?timeout=1.5s", &[], "").unwrap();
        assert_eq!(wait.timeout.unwrap().nanos, 500_000_000);
    }

    #[test]
    fn every_wrong_parameter_is_named() {
        let uri = "/v1/jobs?page_sizes=1&labels=x&labels[a]=1&labels[a]=2&page_token=a&page_token=b&states.x=1&page_size[0]=1\
                   &labels[a&labels[][][0]=1&labels[b][]=1";
        let wrong = bound::<pb::ListJobsRequest>(&Method::GET, uri, &[], "").unwrap_err();
        let fields: Vec<_> = wrong.iter().map(|it| it.split(": ").next().unwrap()).collect();
        let expected = [
            "page_sizes",
            "labels",
            "labels[a]",
            "page_token",
            "states.x",
            "page_size[0]",
            "labels[a",
            "labels[][][0]",
            "labels[b][]",
        ];
        assert_eq!(fields, expected, "{wrong:?}");
        for (uri, field) in [
            ("/v1/jobs?page_size=x", "page_size"),
            ("/v1/jobs?states=RUNNING", "states[0]"),
            ("/v1/jobs?create_time_after=now", "create_time_after"),
            ("/v1/jobs/a/tasks/1?include_body=", "include_body"),
            ("/v1/jobs/a/tasks/x", "task_index"),
            ("/v1/jobs/a/tasks/-1", "task_index"),
            ("/v1/jobs/a/tasks/1?task_key=x", "task_key"),
            ("/v1/jobs/a/tasks/1?task=x", "task"),
            ("/v1/jobs/a?job_id=b", "job_id"),
        ] {
            let wrong = bound::<pb::ListJobsRequest>(&Method::GET, uri, &[], "").unwrap_err();
            assert!(wrong[0].starts_with(&format!("{field}: ")), "{uri}: {wrong:?}");
        }
    }

    #[test]
    fn an_unknown_name_is_told_what_may_stand_in_the_query() {
        let said =
            |method: &Method, uri: &str| bound::<pb::ListJobsRequest>(method, uri, &[], "").unwrap_err().remove(0);
        let events = said(&Method::GET, "/v1/jobs/a/events:list?x=1");
        assert!(events.starts_with("x: is unknown; ") && !events.contains("job_id"), "{events}");
        let limits = said(&Method::PATCH, "/v1/limits?x=1");
        assert_eq!(limits, "x: is unknown; the only field here is `update_mask`");
        let labels = said(&Method::GET, "/v1/jobs?labels.a=b");
        assert_eq!(labels, "labels.a: is no field; write labels[a]=VALUE");
    }

    #[test]
    fn the_body_is_one_field_or_all_of_them() {
        let submit: pb::SubmitJobRequest =
            bound(&Method::POST, "/v1/jobs?validate_only=true", &[("idempotency-key", "\"k\"")], r#"{"title": "t"}"#)
                .unwrap();
        assert_eq!((submit.request_id.as_str(), submit.validate_only), ("k", true));
        assert_eq!(submit.job.unwrap().title, "t");
        let key = [("idempotency-key", "k")];
        let twice = bound::<pb::SubmitJobRequest>(&Method::POST, "/v1/jobs?request_id=x", &key, "{}").unwrap_err();
        assert!(twice[0].starts_with("request_id: "), "{twice:?}");
        let twice = bound::<pb::CreateTokenRequest>(&Method::POST, "/v1/tokens", &key, r#"{"request_id": "x"}"#);
        assert!(twice.unwrap_err()[0].starts_with("request_id: "));
        let query = bound::<pb::SubmitJobRequest>(&Method::POST, "/v1/jobs?job.title=x", &[], "{}").unwrap_err();
        assert!(query[0].starts_with("job.title: "), "{query:?}");
        let cancel: pb::CancelJobRequest =
            bound(&Method::POST, "/v1/jobs/a:cancel", &[], r#"{"reason": "r"}"#).unwrap();
        assert_eq!((cancel.job_id.as_str(), cancel.reason.as_str()), ("a", "r"));
        let bare: pb::CancelJobRequest = bound(&Method::POST, "/v1/jobs/a:cancel", &[], "").unwrap();
        assert_eq!(bare.job_id, "a");
        let query = bound::<pb::CancelJobRequest>(&Method::POST, "/v1/jobs/a:cancel?reason=r", &[], "").unwrap_err();
        assert!(query[0].starts_with("reason: "), "{query:?}");
        let twice = bound::<pb::CancelJobRequest>(&Method::POST, "/v1/jobs/a:cancel", &[], r#"{"job_id": "b"}"#);
        assert!(twice.unwrap_err()[0].starts_with("job_id: "));
    }

    #[test]
    fn a_change_names_what_its_body_names() {
        let change = |body| bound::<pb::UpdateJobRequest>(&Method::PATCH, "/v1/jobs/a", &[], body).unwrap();
        let mask = |body| change(body).update_mask.unwrap_or_default().paths;
        assert_eq!(mask(r#"{"title": "t", "rateLimit": null}"#), ["rate_limit", "title"]);
        assert_eq!(mask(r#"{"group": {"maxConcurrency": 3}}"#), ["group.max_concurrency"]);
        assert_eq!(mask("\u{feff}{\"title\": \"t\"}"), ["title"]);
        assert_eq!(mask(r#"{"title": "t", "priority": 1, "update_mask": "title"}"#), ["title"]);
        let both = r#"{"priority": 1, "update_mask": "rate_limit,group.maxConcurrency"}"#;
        assert_eq!(mask(both), ["rate_limit", "group.max_concurrency"]);
        let refused = |body| bound::<pb::UpdateJobRequest>(&Method::PATCH, "/v1/jobs/a", &[], body).unwrap_err();
        assert!(refused("{}")[0].starts_with("body: names nothing to change"), "{:?}", refused("{}"));
        let mode = r#"{"group": {"mode": "GROUP_MODE_COLLECT"}}"#;
        assert!(refused(mode)[0].starts_with("group.mode: cannot be changed"), "{:?}", refused(mode));
        let limits = |uri, body| bound::<pb::UpdateLimitsRequest>(&Method::PATCH, uri, &[], body).unwrap();
        let set = limits("/v1/limits", r#"{"max_per_host": 3}"#);
        assert_eq!(
            (set.update_mask.unwrap().paths, set.limits.unwrap().max_per_host),
            (vec!["max_per_host".into()], 3)
        );
        let set = limits("/v1/limits?update_mask=max_per_host,bytes_per_second", "{}");
        assert_eq!(set.update_mask.unwrap().paths, ["max_per_host", "bytes_per_second"]);
    }

    #[test]
    fn a_variable_of_the_path_may_be_a_part_of_the_body() {
        let change =
            |body| bound::<pb::UpdatePrincipalRequest>(&Method::PATCH, "/v1/principals/default%2Fci", &[], body);
        let set = change(r#"{"title": "t", "disabled": true}"#).unwrap();
        let principal = set.principal.unwrap();
        assert_eq!((principal.name.as_str(), principal.title.as_str(), principal.disabled), ("default/ci", "t", true));
        assert_eq!(set.update_mask.unwrap().paths, ["disabled", "title"]);
        assert_eq!(change("").unwrap().principal.unwrap().name, "default/ci");
        let twice = change(r#"{"name": "ops"}"#).unwrap_err();
        assert!(twice[0].starts_with("principal.name: "), "{twice:?}");
        let locked = change(r#"{"title": "t", "etag": "16-0"}"#).unwrap();
        let etag = locked.principal.unwrap().etag;
        assert_eq!((etag.as_str(), locked.update_mask.unwrap().paths), ("16-0", vec!["title".to_owned()]));
        let tenant = |body| bound::<pb::UpdateTenantRequest>(&Method::PATCH, "/v1/tenants/a", &[], body).unwrap();
        let mask = |body| tenant(body).update_mask.unwrap().paths;
        let two = r#"{"quotas": {"watchers": 3, "maxRetention": null}}"#;
        assert_eq!(mask(two), ["quotas.max_retention", "quotas.watchers"]);
        assert!(mask(r#"{"quotas": null}"#).len() > 10);
    }

    #[test]
    fn a_query_is_utf_8() {
        for uri in ["/v1/jobs?page_token=%ff", "/v1/jobs?labels[%ff]=1"] {
            let wrong = bound::<pb::ListJobsRequest>(&Method::GET, uri, &[], "").unwrap_err();
            assert!(wrong[0].contains("is not UTF-8"), "{wrong:?}");
        }
    }

    #[test]
    fn a_browser_that_was_cut_goes_on() {
        let watch =
            |uri, headers: &[(&'static str, &str)]| bound::<pb::WatchJobRequest>(&Method::GET, uri, headers, "");
        let id = [("last-event-id", "7")];
        assert_eq!(watch("/v1/jobs/a/events?after_sequence=3", &id).unwrap().after_sequence, Some(7));
        assert_eq!(watch("/v1/jobs/a/events", &[]).unwrap().after_sequence, None);
        let wrong = watch("/v1/jobs/a/events", &[("last-event-id", "x")]).unwrap_err();
        assert!(wrong[0].starts_with("after_sequence: "), "{wrong:?}");
        let items = "/v1/jobs/a/tasks/0/items?after_item=3";
        let items =
            |headers: &[(&'static str, &str)]| bound::<pb::StreamItemsRequest>(&Method::GET, items, headers, "");
        assert_eq!(items(&id).unwrap().after_item, Some(7));
        let wrong = items(&[("last-event-id", "x")]).unwrap_err();
        assert!(wrong[0].starts_with("after_item: "), "{wrong:?}");
    }
}
