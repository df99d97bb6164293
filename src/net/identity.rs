//! Who connections are made as: proxy, TLS options and the tenant. Connections are shared by those of one identity only: there
//! are ways to authenticate that belong to a connection.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, Mutex};

use rustls::ClientConfig;

use crate::model::failure::Failure;
use crate::model::secret::Secret;
use crate::model::spec::HttpOptions;
use crate::model::tenant::{DEFAULT_NO, TenantNo};
use crate::net::proxy::Proxy;
use crate::net::tls::Offer;
use crate::net::{Profile, lock, roots, tls};

/// How many are remembered while nobody uses them. Each may hold certificates and TLS sessions.
const KEPT_MAX: usize = 256;

/// One identity. Two of the same options are the same object, so that comparing them is comparing pointers.
pub(super) struct Identity {
    /// Nothing but what makes an identity; the rest is default.
    options: HttpOptions,
    tenant: TenantNo,
    proxy: Option<Proxy>,
    /// Whether the proxy is the operator's, whose certificate is not judged by what tasks say.
    is_egress: bool,
    /// Each made at the first connection that needs it: plain ones need no certificates. And again once the system trusts
    /// others.
    tls: Configuration,
    tls_http1: Configuration,
    tls_proxy: Configuration,
}

/// A configuration, with the number of the certificates that it was made with.
#[derive(Default)]
struct Configuration(Mutex<Option<(u64, Made)>>);

type Made = Result<Arc<ClientConfig>, Failure>;

impl Configuration {
    fn get(&self, make: impl FnOnce() -> Made) -> Made {
        let (_, generation) = roots::SYSTEM.get();
        let mut made = lock(&self.0);
        match &*made {
            Some((of, config)) if *of == generation => config.clone(),
            _ => made.insert((generation, make())).1.clone(),
        }
    }
}

impl Identity {
    fn new(options: HttpOptions, tenant: TenantNo, is_egress: bool) -> Result<Identity, Failure> {
        let proxy = options.proxy_url.as_ref().map(Proxy::parse).transpose()?;
        Ok(Identity { proxy, is_egress, ..Identity::direct(options, tenant) })
    }

    fn direct(options: HttpOptions, tenant: TenantNo) -> Identity {
        let (tls, tls_http1, tls_proxy) = Default::default();
        Identity { options, tenant, proxy: None, is_egress: false, tls, tls_http1, tls_proxy }
    }

    pub(super) fn tenant(&self) -> TenantNo {
        self.tenant
    }

    pub(super) fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref()
    }

    /// TLS with origins.
    pub(super) fn tls(&self) -> Result<Arc<ClientConfig>, Failure> {
        self.tls.get(|| tls::config(&self.options, Offer::AnyHttp))
    }

    /// TLS with origins that HTTP/2 is not offered to.
    pub(super) fn tls_http1(&self) -> Result<Arc<ClientConfig>, Failure> {
        self.tls_http1.get(|| tls::config(&self.options, Offer::Http1))
    }

    /// TLS with the proxy, which the client certificate is not for. That of the operator gets the operator's password: a task that
    /// trusts whom it likes must not have that sent to them.
    pub(super) fn tls_proxy(&self) -> Result<Arc<ClientConfig>, Failure> {
        let of_task = Some(&self.options).filter(|_| !self.is_egress);
        let options = || HttpOptions {
            ca_pem: of_task.and_then(|options| options.ca_pem.clone()),
            insecure_skip_verify: of_task.and_then(|options| options.insecure_skip_verify),
            ..HttpOptions::default()
        };
        self.tls_proxy.get(|| tls::config(&options(), Offer::Http1))
    }
}

/// All identities of a client.
pub(super) struct Identities {
    /// That of tasks of the tenant that always exists without any such option, which are nearly all.
    plain: Arc<Identity>,
    /// By the hash of what makes them, so that looking one up copies no certificates.
    known: Mutex<HashMap<u64, Vec<Arc<Identity>>>>,
    hasher: RandomState,
    /// Whether their proxy is the operator's.
    is_egress: bool,
}

impl Default for Identities {
    fn default() -> Self {
        let plain = Arc::new(Identity::direct(HttpOptions::default(), DEFAULT_NO));
        Identities { plain, known: Mutex::default(), hasher: RandomState::new(), is_egress: false }
    }
}

/// What makes an identity.
#[derive(PartialEq, Eq, Hash)]
struct Essence<'a> {
    proxy_url: Option<&'a Secret>,
    ca_pem: Option<&'a str>,
    client_certificate_pem: Option<&'a str>,
    client_key_pem: Option<&'a Secret>,
    skips_verify: bool,
    tenant: TenantNo,
}

impl Essence<'_> {
    fn of(http: &HttpOptions, tenant: TenantNo) -> Essence<'_> {
        Essence {
            proxy_url: http.proxy_url.as_ref(),
            ca_pem: http.ca_pem.as_deref(),
            client_certificate_pem: http.client_certificate_pem.as_deref(),
            client_key_pem: http.client_key_pem.as_ref(),
            skips_verify: http.insecure_skip_verify == Some(true),
            tenant,
        }
    }
}

impl Identities {
    /// Those of a client all of whose requests go through the operator's proxy.
    pub(super) fn of_egress() -> Identities {
        Identities { is_egress: true, ..Identities::default() }
    }

    /// The identity of a profile.
    pub(super) fn of(&self, profile: &Profile) -> Result<Arc<Identity>, Failure> {
        let essence = Essence::of(&profile.http, profile.tenant);
        if essence == Essence::of(&self.plain.options, self.plain.tenant) {
            return Ok(Arc::clone(&self.plain));
        }
        let hash = self.hasher.hash_one(&essence);
        let mut known = lock(&self.known);
        let same = |own: &&Arc<Identity>| Essence::of(&own.options, own.tenant) == essence;
        if let Some(identity) = known.get(&hash).and_then(|list| list.iter().find(same)) {
            return Ok(Arc::clone(identity));
        }
        let identity = Arc::new(Identity::new(options(&profile.http), profile.tenant, self.is_egress)?);
        if known.len() >= KEPT_MAX {
            known.retain(|_, list| {
                list.retain(|identity| Arc::strong_count(identity) > 1);
                !list.is_empty()
            });
        }
        known.entry(hash).or_default().push(Arc::clone(&identity));
        Ok(identity)
    }
}

fn options(http: &HttpOptions) -> HttpOptions {
    HttpOptions {
        proxy_url: http.proxy_url.clone(),
        ca_pem: http.ca_pem.clone(),
        client_certificate_pem: http.client_certificate_pem.clone(),
        client_key_pem: http.client_key_pem.clone(),
        insecure_skip_verify: http.insecure_skip_verify.filter(|skip| *skip),
        ..HttpOptions::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::secret::Secret;

    #[test]
    fn the_same_options_are_the_same_identity() {
        let identities = Identities::default();
        let profile = |set: &dyn Fn(&mut HttpOptions)| {
            let mut profile = Profile::default();
            set(&mut profile.http);
            Arc::new(profile)
        };
        let of = |profile: &Arc<Profile>| identities.of(profile).ok().unwrap();
        let plain = of(&profile(&|_| {}));
        let plain_too = of(&profile(&|http| http.user_agent = Some("x".into())));
        let proxied = of(&profile(&|http| http.proxy_url = Some(Secret::new("http://p:1"))));
        let proxied_too = of(&profile(&|http| {
            http.proxy_url = Some(Secret::new("http://p:1"));
            http.bearer_token = Some(Secret::new("t"));
        }));
        let skipping = of(&profile(&|http| http.insecure_skip_verify = Some(true)));
        assert!(Arc::ptr_eq(&plain, &plain_too) && Arc::ptr_eq(&proxied, &proxied_too));
        assert!(!Arc::ptr_eq(&plain, &proxied) && !Arc::ptr_eq(&plain, &skipping));
        let foreign = of(&Arc::new(Profile { tenant: 16, ..Profile::default() }));
        let foreign_too = of(&Arc::new(Profile { tenant: 16, ..Profile::default() }));
        assert!(!Arc::ptr_eq(&plain, &foreign) && Arc::ptr_eq(&foreign, &foreign_too), "a tenant has its own");
        assert!(identities.of(&profile(&|http| http.proxy_url = Some(Secret::new("x")))).is_err());
    }
}
