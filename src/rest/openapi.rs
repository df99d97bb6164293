//! The description of the API as `OpenAPI` 3.1, made from the contract: its routes, its messages and its comments.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use prost_reflect::{EnumDescriptor, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use crate::rest::import;
use crate::rest::json;
use crate::rest::routes::{self, Body, Route, routes};

/// How deep parts of messages are named in a query.
const QUERY_DEPTH_MAX: usize = 2;

/// The document, with a line end.
pub(crate) static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    let routes = routes(json::pool());
    let mut text = serde_json::to_string_pretty(&Writer::default().document(&routes)).unwrap_or_default();
    text.push('\n');
    text
});

/// What is gathered while the routes are read.
#[derive(Default)]
struct Writer {
    schemas: Map<String, Value>,
    known: BTreeSet<String>,
    /// The comments of each file, by the path of what they stand before.
    comments: BTreeMap<String, BTreeMap<Vec<i32>, String>>,
}

impl Writer {
    fn document(mut self, routes: &[Arc<Route>]) -> Value {
        let mut paths = Map::new();
        for route in routes {
            let operation = self.operation(route, routes);
            let path = paths.entry(plain_path(&route.path)).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(path) = path {
                path.insert(route.method.as_str().to_ascii_lowercase(), operation);
            }
        }
        paths.insert(import::PATH.to_owned(), json!({"post": self.import()}));
        self.schemas.insert("Error".to_owned(), error_schema());
        json!({
            "openapi": "3.1.0",
            "info": {
                "title": "haul",
                "version": "v1",
                "description": "Durable fetch and download jobs. Numbers of 64 bits are strings in answers, since JSON \
                    has no room for them; requests may hold either. Fields are read in both spellings, `job_id` and \
                    `jobId`; an unknown field is an error.",
                "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            "paths": paths,
            "components": {"schemas": self.schemas},
        })
    }

    fn operation(&mut self, route: &Route, routes: &[Arc<Route>]) -> Value {
        let rpc = &route.rpc;
        let text = self.comment(&rpc.parent_file(), rpc.path());
        let is_first = routes.iter().find(|it| it.rpc == *rpc).is_some_and(|it| it.path == route.path);
        let verb = route.path.rsplit_once(':').map_or("other", |(_, verb)| verb);
        let id = if is_first { rpc.name().to_owned() } else { format!("{}_{verb}", rpc.name()) };
        let mut operation = json!({
            "operationId": id,
            "tags": [rpc.parent_service().name()],
            "summary": text.split_inclusive(". ").next().unwrap_or_default().trim(),
            "description": text,
            "parameters": self.parameters(route),
            "responses": self.responses(route),
        });
        let schema = match &route.body {
            Body::None => return operation,
            Body::All => self.reference(&rpc.input()),
            Body::Field(field) => self.value(field),
        };
        let is_required = matches!(route.body, Body::Field(_));
        operation["requestBody"] =
            json!({"required": is_required, "content": {"application/json": {"schema": schema}}});
        operation
    }

    /// Describes the import route, the only one without a method of its own: it turns lists of other programs into messages of
    /// `AddTasks`.
    fn import(&mut self) -> Value {
        let answer = json::pool().get_message_by_name("haul.v1.AddTasksResponse");
        let answer = answer.map_or(Value::Null, |message| self.reference(&message));
        let list = json!({"schema": {"type": "string"}});
        let kinds = json!({"type": "string", "enum": ["download", "fetch"], "default": "download"});
        json!({
            "operationId": "ImportTasks",
            "summary": "Adds the tasks of a list to an open job.",
            "description": "The list is read as it comes: URLs, a TaskSpec as JSON a line, an input file of aria2, or a \
                Metalink document. Each thousand tasks have a line in the answer once they are durable. A line that cannot be \
                read ends both, with its number as `line` in the metadata of the error; the same list can be sent again, \
                and what is there already is not added twice.",
            "parameters": [
                {"name": "job_id", "in": "path", "required": true, "schema": {"type": "string"}},
                {"name": "kind", "in": "query", "required": false, "schema": kinds,
                    "description": "What the tasks of URLs do."},
            ],
            "requestBody": {"required": true, "content": {
                "text/uri-list": list.clone(),
                "application/x-ndjson": list.clone(),
                "text/x-aria2-input": list.clone(),
                "application/metalink4+xml": list,
            }},
            "responses": {
                "200": {"description": "One line for each chunk. A list that fails ends with a line that is an Error.",
                    "content": {"application/x-ndjson": {"schema": answer}}},
                "default": {"description": "The error.",
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}},
            },
        })
    }

    fn responses(&mut self, route: &Route) -> Value {
        let error = json!({
            "description": "The error.",
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        });
        if route.rpc.name() == "ReadContent" {
            // The type is that of the answer which the content came with.
            let bytes = json!({"*/*": {}});
            return json!({
                "200": {"description": "The content.", "content": bytes.clone()},
                "206": {"description": "The range of the content.", "content": bytes},
                "304": {"description": "The client has the content."},
                "default": error,
            });
        }
        let schema = json!({"schema": self.reference(&route.rpc.output())});
        if !route.rpc.is_server_streaming() {
            let answer = json!({"description": "The answer.", "content": {"application/json": schema}});
            return json!({"200": answer, "default": error});
        }
        let events = json!({"schema": {"type": "string"}});
        json!({
            "200": {
                "description": "The messages: a document a line, or events. A last line, or event `stream_error`, of \
                    the form of Error ends a stream that broke.",
                "content": {"application/x-ndjson": schema, "text/event-stream": events},
            },
            "204": {"description": "Nothing is left to send on a stream of events that reconnects."},
            "default": error,
        })
    }

    fn parameters(&mut self, route: &Route) -> Vec<Value> {
        let input = route.rpc.input();
        let variables: Vec<&str> = route.template.variables().collect();
        let mut all = Vec::new();
        for field in variables.iter().filter_map(|name| routes::field(&input, name)) {
            let text = self.comment(&field.parent_message().parent_file(), field.path());
            let schema = self.value(&field);
            let name = field.name();
            all.push(json!({"name": name, "in": "path", "required": true, "description": text, "schema": schema}));
        }
        for field in input.fields() {
            let is_body = match &route.body {
                Body::All => true,
                Body::Field(body) => *body == field,
                Body::None => false,
            };
            if !variables.contains(&field.name()) && !is_body && route.rpc.name() != "ReadContent" {
                self.query(&field, field.name(), QUERY_DEPTH_MAX, &mut all);
            }
        }
        let header = |name: &str, description: &str| json!({"name": name, "in": "header", "description": description, "schema": {"type": "string"}});
        if input.get_field_by_name("request_id").is_some() {
            all.push(header("Idempotency-Key", "The `request_id`."));
        }
        if input.get_field_by_name("after_sequence").is_some() {
            all.push(header("Last-Event-ID", "The `after_sequence`, as browsers send it; stronger than the query."));
        }
        if route.rpc.name() == "ReadContent" {
            for name in ["Range", "If-Range", "If-Match", "If-None-Match"] {
                all.push(header(name, "As in RFC 9110, with the strong `ETag` of the answer; one range."));
            }
        }
        all
    }

    fn query(&mut self, field: &FieldDescriptor, name: &str, depth: usize, all: &mut Vec<Value>) {
        let inside = match field.kind() {
            Kind::Message(inside) if !field.is_map() && !field.is_list() && well_known(&inside).is_none() => {
                Some(inside)
            }
            _ => None,
        };
        if let Some(inside) = inside {
            for part in inside.fields().filter(|_| depth > 0) {
                self.query(&part, &format!("{name}.{}", part.name()), depth - 1, all);
            }
            return;
        }
        let text = self.comment(&field.parent_message().parent_file(), field.path());
        let schema = self.value(field);
        let mut parameter = json!({"name": name, "in": "query", "description": text, "schema": schema});
        if field.is_map() {
            parameter["style"] = json!("deepObject");
        }
        all.push(parameter);
    }

    /// Returns the schema of a field.
    fn value(&mut self, field: &FieldDescriptor) -> Value {
        if field.is_map() {
            let value = match field.kind() {
                Kind::Message(entry) => self.single(&entry.map_entry_value_field().kind()),
                _ => json!({}),
            };
            return json!({"type": "object", "additionalProperties": value});
        }
        let single = self.single(&field.kind());
        if field.is_list() { json!({"type": "array", "items": single}) } else { single }
    }

    fn single(&mut self, kind: &Kind) -> Value {
        match kind {
            Kind::Bool => json!({"type": "boolean"}),
            Kind::String => json!({"type": "string"}),
            Kind::Bytes => json!({"type": "string", "contentEncoding": "base64"}),
            Kind::Double | Kind::Float => json!({"type": "number"}),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => json!({"type": "integer", "format": "int32"}),
            Kind::Uint32 | Kind::Fixed32 => json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => json!({"type": ["string", "integer"], "format": "int64"}),
            Kind::Uint64 | Kind::Fixed64 => json!({"type": ["string", "integer"], "format": "uint64"}),
            Kind::Message(message) => well_known(message).unwrap_or_else(|| self.reference(message)),
            Kind::Enum(of) => self.enumeration(of),
        }
    }

    /// Names the schema of a message, which is written the first time.
    fn reference(&mut self, message: &MessageDescriptor) -> Value {
        let name = message.name().to_owned();
        if self.known.insert(name.clone()) {
            let file = message.parent_file();
            let mut properties = Map::new();
            for field in message.fields() {
                let text = self.comment(&file, field.path());
                let mut schema = self.value(&field);
                if !text.is_empty() {
                    // Beside a reference, this version reads what stands there too.
                    schema["description"] = json!(text);
                }
                properties.insert(field.name().to_owned(), schema);
            }
            let text = self.comment(&file, message.path());
            let schema = json!({"type": "object", "description": text, "properties": properties});
            self.schemas.insert(name.clone(), schema);
        }
        json!({"$ref": format!("#/components/schemas/{name}")})
    }

    fn enumeration(&mut self, of: &EnumDescriptor) -> Value {
        let name = of.name().to_owned();
        if self.known.insert(name.clone()) {
            let file = of.parent_file();
            let mut text = self.comment(&file, of.path());
            for value in of.values() {
                let meaning = self.comment(&file, value.path());
                text.push_str(&format!("\n- `{}`: {meaning}", value.name()));
            }
            let values: Vec<String> = of.values().map(|value| value.name().to_owned()).collect();
            self.schemas.insert(name.clone(), json!({"type": "string", "description": text, "enum": values}));
        }
        json!({"$ref": format!("#/components/schemas/{name}")})
    }

    /// Returns the comment before something of the contract.
    fn comment(&mut self, file: &FileDescriptor, path: &[i32]) -> String {
        let comments = self.comments.entry(file.name().to_owned()).or_insert_with(|| {
            let locations = file.file_descriptor_proto().source_code_info.clone().unwrap_or_default().location;
            let leading = locations.into_iter().filter_map(|it| Some((it.path, it.leading_comments?)));
            leading.map(|(path, text)| (path, flowing(&text))).collect()
        });
        comments.get(path).cloned().unwrap_or_default()
    }
}

/// Returns a path whose variables have the names of the fields alone: `{tenant.name}` is `{name}`, since to `OpenAPI` paths
/// that differ only in the names of their variables are the same path, which may stand there once.
fn plain_path(path: &str) -> String {
    let mut parts = path.split('{');
    let start = parts.next().unwrap_or_default().to_owned();
    parts.fold(start, |plain, part| {
        let (variable, rest) = part.split_once('}').unwrap_or((part, ""));
        let name = variable.rsplit('.').next().unwrap_or(variable);
        format!("{plain}{{{name}}}{rest}")
    })
}

/// Joins the lines of a comment; an empty one parts paragraphs.
fn flowing(comment: &str) -> String {
    let paragraphs = comment.split("\n\n").flat_map(|it| it.split("\n \n"));
    let joined =
        paragraphs.map(|it| it.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" "));
    joined.filter(|it| !it.is_empty()).collect::<Vec<_>>().join("\n\n")
}

/// Returns the schema of a message whose JSON is one text.
fn well_known(message: &MessageDescriptor) -> Option<Value> {
    match message.full_name() {
        "google.protobuf.Timestamp" => Some(json!({"type": "string", "format": "date-time"})),
        "google.protobuf.Duration" => Some(json!({"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"})),
        "google.protobuf.FieldMask" => Some(json!({"type": "string"})),
        _ => None,
    }
}

fn error_schema() -> Value {
    let detail = json!({
        "type": "object",
        "description": "A message of google.rpc, such as ErrorInfo with a stable `reason`, or BadRequest with the field.",
        "properties": {"@type": {"type": "string"}},
        "required": ["@type"],
    });
    let error = json!({
        "type": "object",
        "properties": {
            "code": {"type": "integer", "description": "The status of HTTP."},
            "status": {"type": "string", "description": "The status of gRPC."},
            "message": {"type": "string", "description": "What went wrong, for a person."},
            "details": {"type": "array", "items": detail},
        },
        "required": ["code", "status", "message", "details"],
    });
    json!({"type": "object", "properties": {"error": error}, "required": ["error"]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_lead_somewhere_and_operations_have_names_of_their_own() {
        let document: Value = serde_json::from_str(&DOCUMENT).unwrap();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        for rest in DOCUMENT.split("#/components/schemas/").skip(1) {
            let name = rest.split('"').next().unwrap();
            assert!(schemas.contains_key(name), "{name}");
        }
        let paths = document["paths"].as_object().unwrap();
        let mut ids = BTreeSet::new();
        for operation in paths.values().flat_map(|path| path.as_object().unwrap().values()) {
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id), "{id}");
            assert!(!operation["summary"].as_str().unwrap().is_empty(), "{id}");
        }
        assert!(ids.contains("SubmitJob") && ids.contains("GetTask_byKey"), "{ids:?}");
    }

    #[test]
    fn no_two_paths_differ_only_in_the_names_of_their_variables() {
        let document: Value = serde_json::from_str(&DOCUMENT).unwrap();
        let mut shapes = BTreeSet::new();
        for (path, operations) in document["paths"].as_object().unwrap() {
            let variables: Vec<&str> =
                path.split('{').skip(1).filter_map(|part| Some(part.split_once('}')?.0)).collect();
            let shape = variables.iter().fold(path.clone(), |shape, it| shape.replace(&format!("{{{it}}}"), "{}"));
            assert!(shapes.insert(shape), "{path}");
            for operation in operations.as_object().unwrap().values() {
                let parameters = operation["parameters"].as_array().unwrap().iter().filter(|it| it["in"] == "path");
                let named: Vec<&str> = parameters.map(|it| it["name"].as_str().unwrap()).collect();
                assert_eq!(named, variables, "{path}");
            }
        }
        assert_eq!(plain_path("/v1/{a.b}/c/{d}:e"), "/v1/{b}/c/{d}:e");
    }

    #[test]
    fn lines_of_a_comment_are_joined() {
        assert_eq!(flowing(" One line\n and more.\n\n Another.\n"), "One line and more.\n\nAnother.");
    }
}
