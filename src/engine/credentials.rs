//! A credential while an attempt uses it, and what is noted of that.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use url::Url;

use crate::model::credential::Credential;
use crate::model::credential::echo::Echo;
use crate::model::tenant::TenantNo;
use crate::model::time::Timestamp;
use crate::net::{Attached, CredentialSource};

/// How often uses are stored, all that were meanwhile at once: each time is a new book.
const USES_GATHERED: Duration = Duration::from_secs(1);

/// A credential as it was when the attempt began.
#[derive(Debug)]
pub(crate) struct InUse {
    credential: Arc<Credential>,
    echo: Option<Arc<Echo>>,
}

impl InUse {
    pub(crate) fn new(credential: Arc<Credential>) -> InUse {
        let value = credential.value.as_ref().filter(|_| !credential.binding.skip_echo_scan);
        let echo = value.and_then(Echo::of).map(Arc::new);
        InUse { credential, echo }
    }
}

impl CredentialSource for InUse {
    fn attached(&self, method: &Method, url: &Url) -> Option<Attached<'_>> {
        let Credential { binding, value, ca_pem, .. } = &*self.credential;
        let value = value.as_ref().filter(|_| binding.fits(method.as_str(), url))?;
        Some(Attached { value, ca_pem })
    }

    fn echo(&self) -> Option<&Arc<Echo>> {
        self.echo.as_ref()
    }
}

/// Uses of credentials that are not in the book yet.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    uses: BTreeMap<TenantNo, BTreeMap<String, Timestamp>>,
    /// When they may be stored.
    next: Timestamp,
}

impl Uses {
    /// Notes that a credential of a tenant is used.
    pub(crate) fn note(&mut self, tenant: TenantNo, name: &str, now: Timestamp) {
        let of_tenant = self.uses.entry(tenant).or_default();
        if !of_tenant.contains_key(name) {
            of_tenant.insert(name.to_owned(), now);
        }
    }

    /// Takes out what is to be stored now: all of it, unless some was a moment ago. At the end nothing is put off.
    pub(crate) fn take(&mut self, now: Timestamp, is_end: bool) -> Vec<(TenantNo, String, Timestamp)> {
        if self.uses.is_empty() || (now < self.next && !is_end) {
            return Vec::new();
        }
        self.next = now.plus(USES_GATHERED);
        let all = std::mem::take(&mut self.uses).into_iter();
        all.flat_map(|(tenant, uses)| uses.into_iter().map(move |(name, at)| (tenant, name, at))).collect()
    }
}
