//! Which changes of credentials are allowed, and what they make.
//!
//! Whoever may change a binding must not come to the value by it: a binding gets wider only together with a value that its
//! changer brings along.

use std::collections::BTreeSet;
use std::sync::Arc;

use url::Url;

use crate::model::access::{AccessAnswer, AccessError, AccessRow, Actor, LOCAL_NAME, Principal};
use crate::model::book::{Book, Decided};
use crate::model::credential::binding::Binding;
use crate::model::credential::put::PutCredential;
use crate::model::credential::{Credential, Value, name_objection};
use crate::model::failure::{Failure, FailureReason};
use crate::model::made_by::{LOCAL, MadeBy, PrincipalNo};
use crate::model::role::{Grant, Role, holds};
use crate::model::spec::Work;
use crate::model::tenant::TenantNo;
use crate::model::time::Timestamp;

/// The most credentials: all of them are in memory, with values of some KiB.
const CREDENTIALS_MAX: usize = 10_000;
/// The most of one tenant, which must leave some to the others, and the most bytes of their values.
const TENANT_CREDENTIALS_MAX: usize = 1_000;
const TENANT_BYTES_MAX: usize = 16 << 20;

impl Book {
    /// Decides over a credential that `by` sets at `now`.
    pub(super) fn put_credential(
        &self,
        put: &PutCredential,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Decided, AccessError> {
        manages(by)?;
        let there = self.credentials.get(put.tenant, &put.name);
        let request = MadeBy::of(&put.request_id, by.principal, put);
        if let Some(there) = there.filter(|it| it.request.repeats(&request)) {
            if there.request != request {
                return Err(AccessError::RequestIdTaken(request.id));
            }
            return Ok(Decided::new(Vec::new(), AccessAnswer::Credential(there.clone())));
        }
        if let Some(why) = name_objection(&put.name) {
            return Err(AccessError::Invalid("credential.name", why.to_owned()));
        }
        let Some(old) = there else {
            if !put.is_whole {
                return Err(AccessError::NoCredential(put.name.clone()));
            }
            if !put.etag.is_empty() {
                return Err(AccessError::StaleCredential(put.name.clone()));
            }
            if self.credentials.count() >= CREDENTIALS_MAX {
                return Err(AccessError::TooManyCredentials("the server keeps at most 10,000 credentials"));
            }
            let credential = Credential {
                binding: binding_of(put, &Binding::default(), self, by)?,
                value: Some(value_of(put)?),
                ca_pem: put.ca_pem.clone().unwrap_or_default(),
                version: 1,
                create_time: now,
                update_time: now,
                expire_time: put.expire_time.flatten(),
                request,
                ..Credential::lost(put.tenant, &put.name)
            };
            return self.with_room(credential);
        };
        check_etag(old, &put.etag)?;
        let binding = binding_of(put, &old.binding, self, by)?;
        let ca_pem = put.ca_pem.clone().unwrap_or_else(|| old.ca_pem.clone());
        if put.value.is_none() {
            // Another authority could vouch for whoever wants the value.
            let trusts = (!ca_pem.is_empty() && ca_pem != old.ca_pem).then_some("ca_pem");
            if let Some(field) = binding.wider_than(&old.binding).or(trusts) {
                return Err(AccessError::ValueRequired(field));
            }
            if old.value.is_none() {
                return Err(AccessError::ValueRequired("value"));
            }
        }
        let value = if put.is_whole { Some(value_of(put)?) } else { put.value.clone().or_else(|| old.value.clone()) };
        let credential = Credential {
            tenant: old.tenant,
            name: old.name.clone(),
            binding,
            value,
            ca_pem,
            version: old.version.wrapping_add(1).max(1),
            create_time: if old.version == 0 { now } else { old.create_time },
            update_time: now,
            expire_time: put.expire_time.unwrap_or(old.expire_time),
            last_use: old.last_use,
            request,
        };
        self.with_room(credential)
    }

    /// Decides over a credential that `by` deletes.
    pub(super) fn delete_credential(
        &self,
        tenant: TenantNo,
        name: &str,
        etag: &str,
        by: &Actor,
    ) -> Result<Decided, AccessError> {
        manages(by)?;
        let unknown = || AccessError::NoCredential(name.to_owned());
        check_etag(self.credentials.get(tenant, name).ok_or_else(unknown)?, etag)?;
        Ok(Decided::new(vec![AccessRow::NoCredential(tenant, name.to_owned())], AccessAnswer::Done))
    }

    /// Notes when credentials were used.
    pub(super) fn use_credentials(&self, used: &[(TenantNo, String, Timestamp)]) -> Decided {
        let mark = |(tenant, name, time): &(TenantNo, String, Timestamp)| {
            let credential = self.credentials.get(*tenant, name).filter(|it| it.value.is_some())?;
            let last_use = credential.last_use.max(Some(*time));
            Some(AccessRow::Credential(Arc::new(Credential { last_use, ..Credential::clone(credential) })))
        };
        Decided::new(used.iter().filter_map(mark).collect(), AccessAnswer::Done)
    }

    /// Returns the credential for an attempt of a job that `creator` made, or the failure of the attempt.
    pub fn credential_for(
        &self,
        tenant: TenantNo,
        name: &str,
        creator: PrincipalNo,
        work: &Work,
        now: Timestamp,
    ) -> Result<Arc<Credential>, Failure> {
        let fail = |why: String| Err(Failure::fatal(FailureReason::Credential, why));
        let submits = |principal: &Arc<Principal>| {
            !principal.disabled && holds(&principal.grants, &Grant::at(Role::Submit, self.tenant_name_of(tenant)))
        };
        if creator != LOCAL && !self.numbered(creator).is_some_and(submits) {
            return fail(format!(
                "the credential `{name}` cannot be used any more, since the principal that submitted the job may no longer submit"
            ));
        }
        let Some(credential) = self.credentials.usable(tenant, name, creator) else {
            return fail(format!(
                "there is no credential `{name}` that the principal of the job may use; ask an admin of the tenant"
            ));
        };
        if credential.value.is_none() {
            return fail(format!("the key of the credential `{name}` is lost; an admin has to set it again"));
        }
        if credential.is_expired(now) {
            return fail(format!("the credential `{name}` has expired; an admin has to set another `expire_time`"));
        }
        let fits = Url::parse(work.url()).is_ok_and(|url| credential.binding.fits(work.method(), &url));
        if !fits {
            return fail(format!("the credential `{name}` is not bound to the URL and method of the task"));
        }
        Ok(credential.clone())
    }

    /// Puts a credential in where its tenant has room for it.
    fn with_room(&self, credential: Credential) -> Result<Decided, AccessError> {
        let (count, bytes) = self.credentials.of_tenant(credential.tenant, &credential.name);
        if count >= TENANT_CREDENTIALS_MAX {
            return Err(AccessError::TooManyCredentials("the server keeps at most 1,000 credentials of a tenant"));
        }
        if bytes + credential.bytes() > TENANT_BYTES_MAX {
            return Err(AccessError::TooManyCredentials("the server keeps at most 16 MiB of credentials of a tenant"));
        }
        Ok(put(credential))
    }
}

fn put(credential: Credential) -> Decided {
    let credential = Arc::new(credential);
    Decided::new(vec![AccessRow::Credential(credential.clone())], AccessAnswer::Credential(credential))
}

/// The binding that a change makes of `old`.
fn binding_of(put: &PutCredential, old: &Binding, book: &Book, by: &Actor) -> Result<Binding, AccessError> {
    let mut users = old.users.clone();
    if let Some(names) = &put.users {
        users = BTreeSet::new();
        for name in names {
            users.insert(number_of(name, book, by)?);
        }
    }
    Ok(Binding {
        hosts: put.hosts.clone().unwrap_or_else(|| old.hosts.clone()),
        path_prefixes: put.path_prefixes.clone().unwrap_or_else(|| old.path_prefixes.clone()),
        methods: put.methods.clone().unwrap_or_else(|| old.methods.clone()),
        allow_http: put.allow_http.unwrap_or(old.allow_http),
        users,
        skip_echo_scan: put.skip_echo_scan.unwrap_or(old.skip_echo_scan),
    })
}

/// The number of a user. A name that is given again later is another one's.
fn number_of(name: &str, book: &Book, by: &Actor) -> Result<u64, AccessError> {
    if name == LOCAL_NAME {
        return Ok(LOCAL);
    }
    let known = book.principal(name).filter(|principal| by.sees(principal));
    let unknown = || AccessError::Invalid("credential.users", format!("names `{name}`, which is not a principal"));
    known.map(|principal| principal.no).ok_or_else(unknown)
}

fn value_of(put: &PutCredential) -> Result<Value, AccessError> {
    let missing =
        || AccessError::Invalid("value", "must be set; name what is to change in `update_mask` to keep it".into());
    put.value.clone().ok_or_else(missing)
}

fn check_etag(there: &Credential, etag: &str) -> Result<(), AccessError> {
    if etag.is_empty() || etag == there.etag() {
        return Ok(());
    }
    Err(AccessError::StaleCredential(there.name.clone()))
}

/// Refuses whoever is no admin: an operator runs the server, and has no business with what its tenants send.
fn manages(by: &Actor) -> Result<(), AccessError> {
    if by.may_here(Role::Admin) {
        return Ok(());
    }
    Err(AccessError::MissingRole(Role::Admin, by.scope.name().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::access::AccessChange;
    use crate::model::secret::Secret;
    use crate::model::tenant::DEFAULT_NO;

    fn whole() -> PutCredential {
        PutCredential {
            tenant: DEFAULT_NO,
            name: "api".into(),
            is_whole: true,
            hosts: Some(vec!["*.example.com".parse().unwrap()]),
            path_prefixes: Some(Vec::new()),
            methods: Some(Vec::new()),
            allow_http: Some(false),
            users: Some(Vec::new()),
            skip_echo_scan: Some(false),
            expire_time: Some(None),
            value: Some(Value::Bearer(Secret::new("0123456789"))),
            ca_pem: Some(String::new()),
            ..PutCredential::default()
        }
    }

    fn patch() -> PutCredential {
        PutCredential { tenant: DEFAULT_NO, name: "api".into(), ..PutCredential::default() }
    }

    fn apply(book: &Book, put: &PutCredential) -> Result<Book, AccessError> {
        let change = AccessChange::PutCredential(Box::new(put.clone()));
        book.apply(&change, &Actor::local(), Timestamp(7)).map(|applied| applied.book)
    }

    #[test]
    fn the_value_is_needed_for_whatever_widens_and_for_nothing_else() {
        let book = apply(&Book::default(), &whole()).unwrap();
        let host = |text: &str| Some(vec![text.parse().unwrap()]);
        let narrow = PutCredential { hosts: host("a.example.com"), ..patch() };
        let narrowed = apply(&book, &narrow).unwrap();
        let kept = narrowed.credentials.get(DEFAULT_NO, "api").unwrap();
        assert_eq!((kept.version, kept.value.as_ref().map(Value::kind)), (2, Some("BEARER")));
        for (wider, field) in [
            (PutCredential { hosts: host("*.example.com"), ..patch() }, "hosts"),
            (PutCredential { methods: Some(vec!["POST".into()]), ..patch() }, "methods"),
            (PutCredential { allow_http: Some(true), ..patch() }, "allow_http"),
            (PutCredential { skip_echo_scan: Some(true), ..patch() }, "skip_echo_scan"),
            (PutCredential { ca_pem: Some("pem".into()), ..patch() }, "ca_pem"),
        ] {
            assert_eq!(apply(&narrowed, &wider).unwrap_err(), AccessError::ValueRequired(field));
            let with = PutCredential { value: Some(Value::Bearer(Secret::new("9876543210"))), ..wider };
            assert!(apply(&narrowed, &with).is_ok(), "{field}");
        }
        let later = PutCredential { expire_time: Some(Some(Timestamp(9))), ..patch() };
        assert!(apply(&narrowed, &later).is_ok());
        let without = PutCredential { value: None, ..whole() };
        assert!(matches!(apply(&narrowed, &without).unwrap_err(), AccessError::ValueRequired("hosts")));
        assert!(matches!(apply(&book, &without).unwrap_err(), AccessError::Invalid("value", _)));
    }

    #[test]
    fn who_changes_what_has_changed_is_told_and_a_repetition_answers_the_same() {
        let once = PutCredential { request_id: "r".into(), ..whole() };
        let book = apply(&Book::default(), &once).unwrap();
        let again = book.apply(&AccessChange::PutCredential(Box::new(once.clone())), &Actor::local(), Timestamp(8));
        let again = again.unwrap();
        assert!(again.rows.is_empty() && matches!(again.answer, AccessAnswer::Credential(_)));
        let other = PutCredential { value: Some(Value::Bearer(Secret::new("another one"))), ..once };
        assert_eq!(apply(&book, &other).unwrap_err(), AccessError::RequestIdTaken("r".into()));
        let stale = PutCredential { etag: "x".into(), ..patch() };
        assert_eq!(apply(&book, &stale).unwrap_err(), AccessError::StaleCredential("api".into()));
        assert_eq!(apply(&Book::default(), &patch()).unwrap_err(), AccessError::NoCredential("api".into()));
        let delete = |etag: &str| AccessChange::DeleteCredential {
            tenant: DEFAULT_NO,
            name: "api".into(),
            etag: etag.into(),
            force: false,
        };
        let stale = book.apply(&delete("x"), &Actor::local(), Timestamp(9));
        assert_eq!(stale.unwrap_err(), AccessError::StaleCredential("api".into()));
        let gone = book.apply(&delete(""), &Actor::local(), Timestamp(9)).unwrap().book;
        assert!(gone.credentials.get(DEFAULT_NO, "api").is_none());
        assert!(gone.apply(&delete(""), &Actor::local(), Timestamp(9)).is_err());
    }

    #[test]
    fn a_tenant_leaves_room_to_the_others() {
        let large = PutCredential { ca_pem: Some("a".repeat(1 << 20)), ..whole() };
        let mut book = Book::default();
        let mut fitting = 0;
        let refusal = loop {
            match apply(&book, &PutCredential { name: format!("c{fitting}"), ..large.clone() }) {
                Ok(next) => (book, fitting) = (next, fitting + 1),
                Err(refusal) => break refusal,
            }
        };
        assert!(fitting == 15 && matches!(refusal, AccessError::TooManyCredentials(_)), "{fitting} {refusal}");
        assert!(apply(&book, &PutCredential { name: "c0".into(), ..large.clone() }).is_ok(), "one is replaced");
        assert!(apply(&book, &PutCredential { tenant: DEFAULT_NO + 1, ..large }).is_ok());
    }

    #[test]
    fn only_admins_change_credentials_and_users_are_principals_that_are_there() {
        let operator = Actor { grants: ["operator".parse().unwrap()].into(), ..Actor::local() };
        let change = AccessChange::PutCredential(Box::new(whole()));
        let refused = Book::default().apply(&change, &operator, Timestamp(1)).unwrap_err();
        assert_eq!(refused, AccessError::MissingRole(Role::Admin, "default".into()));
        let users = |name: &str| PutCredential { users: Some(vec![name.to_owned()]), ..whole() };
        assert!(matches!(
            apply(&Book::default(), &users("ci")).unwrap_err(),
            AccessError::Invalid("credential.users", _)
        ));
        let book = apply(&Book::default(), &users("local")).unwrap();
        assert!(book.credentials.usable(DEFAULT_NO, "api", LOCAL).is_some());
        assert!(book.credentials.usable(DEFAULT_NO, "api", 16).is_none());
    }
}
