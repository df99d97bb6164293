//! A credential while an attempt uses it.

use std::sync::Arc;

use http::Method;
use url::Url;

use crate::model::credential::Credential;
use crate::model::credential::echo::Echo;
use crate::net::{Attached, CredentialSource};

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
