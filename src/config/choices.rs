//! What settings may be where few words are allowed, and the tables that only the file has.

use std::path::PathBuf;

use clap::ValueEnum;
use serde::Deserialize;

/// Whether a finished download survives a power cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileDurability {
    /// A download is synced to the disk before it counts as finished.
    #[default]
    Full,
    /// The kernel decides when it is written to the disk; for scratch data.
    None,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// A line for people, coloured on a terminal
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

/// Who has to authenticate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Auth {
    /// Everybody, once there is a token or an identity; before, nobody on this machine
    #[default]
    Auto,
    /// Everybody
    Required,
    /// Nobody: every client that reaches the server may call it
    None,
}

/// What a server gives up that can be reached from other machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InsecureListen {
    /// Something in front of it encrypts; callers still need a token
    Plaintext,
    /// Every client that reaches it may call it, and nothing is encrypted
    Open,
}

/// Whether something is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// The dashboard is served
    On,
    /// The dashboard is not served
    Off,
}

/// What is asked of clients that connect over TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsClientAuth {
    /// No certificate
    Off,
    /// A certificate from who has one
    Optional,
    /// A certificate from everybody
    Required,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
pub enum TlsVersion {
    /// TLS 1.2
    #[default]
    #[value(name = "1.2")]
    #[serde(rename = "1.2")]
    V12,
    /// TLS 1.3
    #[value(name = "1.3")]
    #[serde(rename = "1.3")]
    V13,
}

/// Who may call what a server tells of itself without a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Exposed {
    /// Every client
    Open,
    /// Callers that are known
    #[default]
    Authenticated,
    /// Nobody
    Off,
}

/// Who may ask whether the server is well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthFor {
    /// Every client
    #[default]
    Open,
    /// Callers that are known
    Authenticated,
}

/// By what a principal is known without a token: one identity, and the principal. Only the file has these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityArgs {
    /// The principal.
    pub principal: String,
    /// A URI among its subject alternative names; a last segment `*` stands for any.
    pub certificate_uri: Option<String>,
    /// A DNS name among its subject alternative names.
    pub certificate_dns: Option<String>,
    /// A user of this machine that calls by a Unix socket.
    pub unix_uid: Option<u32>,
    /// A group of such users.
    pub unix_gid: Option<u32>,
}

/// What the file says of a tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantArgs {
    /// Where its downloads go; in `.haul-tenants/NAME` of the download directory when nothing is said.
    pub download_dir: PathBuf,
}
