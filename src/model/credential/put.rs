//! A credential to be made or changed: plain data.

use serde::Serialize;

use crate::model::credential::Value;
use crate::model::credential::binding::{HostPattern, PathPrefix};
use crate::model::tenant::TenantNo;
use crate::model::time::Timestamp;

/// A credential to be made or changed. What is `None` stays as it is.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PutCredential {
    /// The tenant whose it is.
    pub tenant: TenantNo,
    /// Its name there.
    pub name: String,
    /// Whether everything is set, so that it may be made.
    pub is_whole: bool,
    /// Where it may go.
    pub hosts: Option<Vec<HostPattern>>,
    /// Below which paths.
    pub path_prefixes: Option<Vec<PathPrefix>>,
    /// With which methods.
    pub methods: Option<Vec<String>>,
    /// Whether it may go unencrypted.
    pub allow_http: Option<bool>,
    /// The names of principals whose jobs may use it.
    pub users: Option<Vec<String>>,
    /// Whether answers are taken that hold it.
    pub skip_echo_scan: Option<bool>,
    /// When it ends.
    pub expire_time: Option<Option<Timestamp>>,
    /// What is sent.
    pub value: Option<Value>,
    /// Authorities to trust; empty: the system's alone.
    pub ca_pem: Option<String>,
    /// The version to change; empty: any.
    #[serde(skip)]
    pub etag: String,
    /// The request that this is.
    #[serde(skip)]
    pub request_id: String,
}

impl PutCredential {
    /// Returns the names of the fields that are set.
    pub fn named(&self) -> Vec<String> {
        if self.is_whole {
            return Vec::new();
        }
        let named = [
            ("hosts", self.hosts.is_some()),
            ("path_prefixes", self.path_prefixes.is_some()),
            ("methods", self.methods.is_some()),
            ("allow_http", self.allow_http.is_some()),
            ("users", self.users.is_some()),
            ("skip_echo_scan", self.skip_echo_scan.is_some()),
            ("expire_time", self.expire_time.is_some()),
            ("value", self.value.is_some()),
            ("ca_pem", self.ca_pem.is_some()),
        ];
        named.iter().filter(|(_, is_set)| *is_set).map(|(field, _)| (*field).to_owned()).collect()
    }
}
