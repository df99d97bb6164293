//! Credentials of a tenant: set, shown without their values, listed and deleted.

use http::{HeaderName, HeaderValue};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tonic::Status;

use crate::api::access::caller::Caller;
use crate::api::options::is_own_header;
use crate::api::pages::{cut_to_page, page_size};
use crate::api::status::{Violations, internal, not_found, shown};
use crate::api::to_proto::timestamp;
use crate::api::values::{self, ID_BYTES_MAX};
use crate::engine::handle::Engine;
use crate::model::access::{AccessAnswer, AccessChange};
use crate::model::book::Book;
use crate::model::credential::binding::{PathPrefix, method_objection};
use crate::model::credential::echo::SECRET_BYTES_MIN;
use crate::model::credential::put::PutCredential;
use crate::model::credential::{Credential, Value};
use crate::model::header::is_header;
use crate::model::secret::{REDACTED, Secret};
use crate::model::tenant::TenantNo;
use crate::pb;
use crate::pb::credential_value::Kind;
use crate::store::page_token::{Listing, PageTokens};

const HOSTS_MAX: usize = 32;
const PATHS_MAX: usize = 32;
const METHODS_MAX: usize = 16;
const USERS_MAX: usize = 100;
/// The most bytes of a secret that is sent, and of one in PEM.
const VALUE_BYTES_MAX: usize = 16 << 10;
const PEM_BYTES_MAX: usize = 64 << 10;
const FIELDS: &str = "hosts, path_prefixes, methods, allow_http, users, skip_echo_scan, expire_time, value, ca_pem";

/// Answers `PutCredential`.
pub(super) async fn put(
    engine: &Engine,
    caller: &Caller,
    request: pb::PutCredentialRequest,
) -> Result<pb::PutCredentialResponse, Status> {
    let mut v = Violations::default();
    let put = read(request, here(caller)?, &mut v);
    let put = v.or(put)?;
    match engine.by(caller.actor.clone()).change_access(AccessChange::PutCredential(Box::new(put))).await? {
        AccessAnswer::Credential(credential) => {
            let book = engine.books().borrow().clone();
            Ok(pb::PutCredentialResponse { credential: Some(message(&book, &credential)) })
        }
        _ => Err(internal("a change of a credential was answered with something else")),
    }
}

/// Answers `GetCredential`.
pub(super) fn get(engine: &Engine, caller: &Caller, name: &str) -> Result<pb::GetCredentialResponse, Status> {
    let book = engine.books().borrow().clone();
    let credential = book.credentials.get(here(caller)?, name).ok_or_else(|| not_found("credential", name))?;
    Ok(pb::GetCredentialResponse { credential: Some(message(&book, credential)) })
}

/// Answers `ListCredentials`.
pub(super) fn list(
    engine: &Engine,
    caller: &Caller,
    tokens: &PageTokens,
    request: &pb::ListCredentialsRequest,
) -> Result<pb::ListCredentialsResponse, Status> {
    let mut v = Violations::default();
    let size = page_size(request.page_size, &mut v) as usize;
    let tenant = here(caller)?;
    let filter = tenant.to_be_bytes();
    let mut after = String::new();
    if !request.page_token.is_empty() {
        match tokens.read_name(Listing::Credentials, &filter, &request.page_token) {
            Ok(name) => after = name,
            Err(bad) => v.add("page_token", bad.to_string()),
        }
    }
    v.or(())?;
    let book = engine.books().borrow().clone();
    let found = book.credentials.after(tenant, &after).take(size + 1);
    let mut credentials: Vec<_> = found.map(|credential| message(&book, credential)).collect();
    let has_more = cut_to_page(&mut credentials, size);
    let last = credentials.last().filter(|_| has_more);
    let next_page_token = last.map(|last| tokens.after_name(Listing::Credentials, &filter, &last.name));
    Ok(pb::ListCredentialsResponse { credentials, next_page_token: next_page_token.unwrap_or_default() })
}

/// Answers `DeleteCredential`.
pub(super) async fn delete(
    engine: &Engine,
    caller: &Caller,
    request: pb::DeleteCredentialRequest,
) -> Result<pb::DeleteCredentialResponse, Status> {
    let pb::DeleteCredentialRequest { name, etag, force } = request;
    let change = AccessChange::DeleteCredential { tenant: here(caller)?, name, etag, force };
    engine.by(caller.actor.clone()).change_access(change).await?;
    Ok(pb::DeleteCredentialResponse {})
}

/// Returns the tenant of a call; the layer lets none on that has none.
fn here(caller: &Caller) -> Result<TenantNo, Status> {
    caller.actor.scope.no().ok_or_else(|| internal("a call about a credential is about no tenant"))
}

/// Converts a credential, without what it sends.
fn message(book: &Book, credential: &Credential) -> pb::Credential {
    let binding = &credential.binding;
    let is_known = credential.version > 0;
    pb::Credential {
        name: credential.name.clone(),
        hosts: binding.hosts.iter().map(ToString::to_string).collect(),
        path_prefixes: binding.path_prefixes.iter().map(ToString::to_string).collect(),
        methods: binding.methods.clone(),
        allow_http: binding.allow_http,
        // That a user was deleted must not read as if everybody might use it.
        users: binding.users.iter().map(|no| book.name_of(*no).to_owned()).collect(),
        skip_echo_scan: binding.skip_echo_scan,
        kind: credential.value.as_ref().map(Value::kind).unwrap_or_default().to_owned(),
        version: credential.version,
        create_time: is_known.then(|| timestamp(credential.create_time)),
        update_time: is_known.then(|| timestamp(credential.update_time)),
        expire_time: credential.expire_time.map(timestamp),
        last_use_time: credential.last_use.map(timestamp),
        etag: credential.etag(),
    }
}

/// Reads what is to be set, and adds what is wrong with it.
fn read(request: pb::PutCredentialRequest, tenant: TenantNo, v: &mut Violations) -> PutCredential {
    let pb::PutCredentialRequest { credential, value, ca_pem, update_mask, request_id } = request;
    let wish = credential.unwrap_or_default();
    values::text(&request_id, &"request_id", ID_BYTES_MAX, v);
    let is_whole = update_mask.is_none();
    let paths = if is_whole { Vec::new() } else { values::mask(update_mask, v) };
    for (index, path) in &paths {
        if !FIELDS.split(", ").any(|field| field == path) {
            v.add(
                format!("update_mask.paths[{index}]"),
                format!("`{}` cannot be updated; the fields are {FIELDS}", shown(path)),
            );
        }
    }
    let sets = |field: &str| is_whole || paths.iter().any(|(_, path)| path == field);
    let mut put = PutCredential { tenant, is_whole, etag: wish.etag, request_id, ..PutCredential::default() };
    put.name = shown(&wish.name);
    if sets("hosts") {
        put.hosts = Some(parsed(&wish.hosts, "credential.hosts", HOSTS_MAX, |_| None, v));
        if wish.hosts.is_empty() {
            v.add("credential.hosts", "is empty; a credential is bound to one host at least");
        }
    }
    if sets("path_prefixes") {
        let paths = parsed(&wish.path_prefixes, "credential.path_prefixes", PATHS_MAX, PathPrefix::objection, v);
        put.path_prefixes = Some(paths);
    }
    if sets("methods") {
        put.methods = Some(methods(wish.methods, v));
    }
    if sets("users") {
        bounded(wish.users.len(), "credential.users", USERS_MAX, v);
        wish.users.iter().enumerate().for_each(|(at, it)| values::text(it, &format!("credential.users[{at}]"), 128, v));
        put.users = Some(wish.users);
    }
    if sets("expire_time") {
        put.expire_time = Some(wish.expire_time.and_then(|it| values::timestamp(it, &"credential.expire_time", v)));
    }
    put.allow_http = sets("allow_http").then_some(wish.allow_http);
    put.skip_echo_scan = sets("skip_echo_scan").then_some(wish.skip_echo_scan);
    if sets("ca_pem") {
        certificates(&ca_pem, "ca_pem", true, v);
        put.ca_pem = Some(ca_pem);
    } else if !ca_pem.is_empty() {
        v.add("ca_pem", "is set and not named in `update_mask`");
    }
    match value.and_then(|value| value.kind) {
        Some(kind) if sets("value") => put.value = Some(read_value(kind, v)),
        Some(_) => v.add("value", "is set and not named in `update_mask`"),
        None if sets("value") && !is_whole => v.add("value", "is named in `update_mask` and not set"),
        None => {}
    }
    put
}

fn bounded(count: usize, path: &str, most: usize, v: &mut Violations) {
    if count > most {
        v.add(path, format!("holds {count} entries; at most {most} are accepted"));
    }
}

/// Reads what is written as texts; `objection` says what is wrong with one that can be read.
fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
    texts: &[String],
    path: &str,
    most: usize,
    objection: impl Fn(&T) -> Option<&'static str>,
    v: &mut Violations,
) -> Vec<T> {
    bounded(texts.len(), path, most, v);
    let mut read = Vec::new();
    for (index, text) in texts.iter().enumerate().take(most) {
        match text.parse() {
            Ok(pattern) => {
                if let Some(why) = objection(&pattern) {
                    v.add(format!("{path}[{index}]"), format!("`{}` {why}", shown(text)));
                }
                read.push(pattern);
            }
            Err(why) => v.add(format!("{path}[{index}]"), format!("`{}` {why}", shown(text))),
        }
    }
    read
}

fn methods(methods: Vec<String>, v: &mut Violations) -> Vec<String> {
    bounded(methods.len(), "credential.methods", METHODS_MAX, v);
    for (index, method) in methods.iter().enumerate().take(METHODS_MAX) {
        if let Some(why) = method_objection(method) {
            v.add(format!("credential.methods[{index}]"), format!("`{}` {why}", shown(method)));
        }
    }
    methods
}

fn read_value(kind: Kind, v: &mut Violations) -> Value {
    match kind {
        Kind::BearerToken(token) => Value::Bearer(secret(token, "value.bearer_token", v)),
        Kind::BasicAuth(pb::BasicAuth { username, password }) => {
            values::text(&username, &"value.basic_auth.username", VALUE_BYTES_MAX, v);
            if username.contains(':') || username.chars().any(char::is_control) {
                v.add("value.basic_auth.username", "must hold neither a colon nor control characters (RFC 7617)");
            }
            Value::Basic { user: username, password: secret(password, "value.basic_auth.password", v) }
        }
        Kind::Header(pb::Header { name, value, .. }) => {
            match HeaderName::from_bytes(name.as_bytes()) {
                Ok(name)
                    if is_own_header(name.as_str())
                        || ["range", "proxy-authorization"].iter().any(|other| is_header(name.as_str(), other)) =>
                {
                    v.add("value.header.name", format!("`{name}` is set by haul"));
                }
                Ok(_) => {}
                Err(_) => v.add("value.header.name", "is not a header name (RFC 9110, 5.1)"),
            }
            Value::Header { name: name.to_ascii_lowercase(), value: secret(value, "value.header.value", v) }
        }
        Kind::ClientCertificate(pb::ClientCertificate { certificate_pem, key_pem }) => {
            let chain = certificates(&certificate_pem, "value.client_certificate.certificate_pem", false, v);
            let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).ok().filter(|_| key_pem.len() <= PEM_BYTES_MAX);
            match key {
                None => v.add("value.client_certificate.key_pem", "must hold a private key in PEM, at most 64 KiB"),
                Some(key) if !chain.is_empty() => {
                    let provider = rustls::crypto::ring::default_provider();
                    if CertifiedKey::from_der(chain, key, &provider).is_err() {
                        v.add("value.client_certificate.key_pem", "must be the key of the certificate");
                    }
                }
                Some(_) => {}
            }
            Value::Certificate { certificate: certificate_pem, key: Secret::new(key_pem) }
        }
        Kind::QueryParameter(pb::QueryParameter { name, value }) => {
            values::text(&name, &"value.query_parameter.name", 256, v);
            if name.is_empty() {
                v.add("value.query_parameter.name", "is empty; name the parameter");
            }
            Value::Query { name, value: secret(value, "value.query_parameter.value", v) }
        }
    }
}

/// Reads a secret that can be sent in a header.
fn secret(text: String, path: &str, v: &mut Violations) -> Secret {
    if text.len() < SECRET_BYTES_MIN {
        v.add(
            path,
            format!("is shorter than {SECRET_BYTES_MIN} bytes, too short to be found in what an origin sends back"),
        );
    }
    if text.len() > VALUE_BYTES_MAX {
        v.add(path, format!("is longer than {VALUE_BYTES_MAX} bytes"));
    }
    if HeaderValue::from_str(&text).is_err() || text.trim() != text {
        v.add(path, "holds characters that a header cannot, or spaces around it");
    }
    if text == REDACTED {
        v.add(path, "is `REDACTED`, as in a copied answer; give the secret itself");
    }
    Secret::new(text)
}

/// Reads certificates; none, where they are wrong.
fn certificates(pem: &str, path: &str, may_be_empty: bool, v: &mut Violations) -> Vec<CertificateDer<'static>> {
    if pem.is_empty() && may_be_empty {
        return Vec::new();
    }
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let found = read.unwrap_or_default();
    if pem.len() > PEM_BYTES_MAX || found.is_empty() {
        v.add(path, "must hold one or more certificates in PEM, at most 64 KiB");
        return Vec::new();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_no_url_is_below_is_refused() {
        for (text, is_good) in
            [("/v1/a b", true), ("/v1/%41", true), ("/a%25b", false), ("/a%0ab", false), ("/100%", false)]
        {
            let mut v = Violations::default();
            let texts = ["/".to_owned(), text.to_owned()];
            parsed(&texts, "credential.path_prefixes", 10, PathPrefix::objection, &mut v);
            let message = v.or(()).err().map(|status| status.message().to_owned()).unwrap_or_default();
            assert_eq!(message.is_empty(), is_good, "{text}: {message}");
            assert!(is_good || message.starts_with("`credential.path_prefixes[1]`"), "{message}");
        }
    }

    #[test]
    fn what_cannot_be_sent_is_refused_with_its_field() {
        let basic =
            |password: &str| Kind::BasicAuth(pb::BasicAuth { username: "me".into(), password: password.into() });
        let header =
            |name: &str| Kind::Header(pb::Header { name: name.into(), value: "0123456789".into(), sensitive: true });
        for (kind, wrong) in [
            (Kind::BearerToken("0123456789".into()), None),
            (Kind::BearerToken("0123456".into()), Some("value.bearer_token")),
            (Kind::BearerToken("01234567\n".into()), Some("value.bearer_token")),
            (Kind::BearerToken(" 01234567".into()), Some("value.bearer_token")),
            (Kind::BearerToken(REDACTED.into()), Some("value.bearer_token")),
            (basic("0123456789"), None),
            (basic("short"), Some("value.basic_auth.password")),
            (header("X-Api-Key"), None),
            (header("Host"), Some("value.header.name")),
            (header("Range"), Some("value.header.name")),
            (header("If-Match"), Some("value.header.name")),
            (header("a b"), Some("value.header.name")),
        ] {
            let mut v = Violations::default();
            read_value(kind.clone(), &mut v);
            let message = v.or(()).err().map(|status| status.message().to_owned()).unwrap_or_default();
            match wrong {
                Some(field) => assert!(message.starts_with(&format!("`{field}`")), "{kind:?}: {message}"),
                None => assert_eq!(message, "", "{kind:?}"),
            }
            assert!(!message.contains("0123456"), "{message}");
        }
    }
}
