//! Who connections are made as: proxy and TLS options. Connections are shared by those of one identity only.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use rustls::ClientConfig;

use crate::model::failure::Failure;
use crate::model::spec::HttpOptions;
use crate::net::proxy::Proxy;
use crate::net::{Profile, lock, tls};

/// How many are remembered while nobody uses them. Each may hold certificates and TLS sessions.
const KEPT_MAX: usize = 256;

/// One identity. Two of the same options are the same object, so that comparing them is comparing pointers.
pub(super) struct Identity {
    /// Nothing but what makes an identity; the rest is default.
    options: HttpOptions,
    tls: OnceLock<Result<Arc<ClientConfig>, Failure>>,
    proxy: Option<Proxy>,
}

impl Identity {
    fn new(options: HttpOptions) -> Result<Identity, Failure> {
        let proxy = options.proxy_url.as_ref().map(Proxy::parse).transpose()?;
        Ok(Identity { options, tls: OnceLock::new(), proxy })
    }

    pub(super) fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref()
    }

    /// Made at the first https connection: plain ones need no certificates.
    pub(super) fn tls(&self) -> Result<Arc<ClientConfig>, Failure> {
        self.tls.get_or_init(|| tls::config(&self.options)).clone()
    }
}

/// All identities of a client.
pub(super) struct Identities {
    /// That of tasks without any such option, which are nearly all.
    plain: Arc<Identity>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    all: HashMap<HttpOptions, Arc<Identity>>,
    /// Tasks of one job come together and share their profile, and hashing certificates for each request is dear.
    last: Option<(Arc<Profile>, Arc<Identity>)>,
}

impl Default for Identities {
    fn default() -> Self {
        let plain = Identity { options: HttpOptions::default(), tls: OnceLock::new(), proxy: None };
        Identities { plain: Arc::new(plain), known: Mutex::default() }
    }
}

impl Identities {
    /// The identity of a profile.
    pub(super) fn of(&self, profile: &Arc<Profile>) -> Result<Arc<Identity>, Failure> {
        let http = &profile.http;
        let is_plain = http.proxy_url.is_none()
            && http.ca_pem.is_none()
            && http.client_certificate_pem.is_none()
            && http.client_key_pem.is_none()
            && http.insecure_skip_verify != Some(true);
        if is_plain {
            return Ok(Arc::clone(&self.plain));
        }
        let mut known = lock(&self.known);
        if let Some((_, identity)) = known.last.as_ref().filter(|(last, _)| Arc::ptr_eq(last, profile)) {
            return Ok(Arc::clone(identity));
        }
        let identity = known.find(essence(http))?;
        known.last = Some((Arc::clone(profile), Arc::clone(&identity)));
        Ok(identity)
    }
}

impl Known {
    fn find(&mut self, options: HttpOptions) -> Result<Arc<Identity>, Failure> {
        if let Some(identity) = self.all.get(&options) {
            return Ok(Arc::clone(identity));
        }
        if self.all.len() >= KEPT_MAX {
            self.all.retain(|_, identity| Arc::strong_count(identity) > 1);
        }
        let identity = Arc::new(Identity::new(options.clone())?);
        self.all.insert(options, Arc::clone(&identity));
        Ok(identity)
    }
}

fn essence(http: &HttpOptions) -> HttpOptions {
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
        assert!(identities.of(&profile(&|http| http.proxy_url = Some(Secret::new("x")))).is_err());
    }
}
