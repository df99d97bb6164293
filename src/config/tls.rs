//! The settings of TLS: which certificate the server shows, and which it takes.

use std::path::{Path, PathBuf};

use crate::config::choices::{IdentityArgs, TlsClientAuth, TlsVersion};
use crate::config::raw::ServeArgs;
use crate::model::access::name_objection;
use crate::model::identity::{Identities, Identity};

/// The settings of TLS.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsConfig {
    /// The server's certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authorities of clients.
    pub client_ca: Option<PathBuf>,
    /// Revoked certificates of clients.
    pub client_crl: Option<PathBuf>,
    /// What is asked of clients.
    pub client_auth: TlsClientAuth,
    /// The oldest version that clients may use.
    pub min_version: TlsVersion,
}

impl TlsConfig {
    /// Reads the settings, and adds what is wrong with them to `wrong`; `None`: nothing is encrypted.
    pub(super) fn resolve(merged: &ServeArgs, wrong: &mut Vec<String>) -> Option<TlsConfig> {
        let default = if merged.tls_client_ca.is_some() { TlsClientAuth::Required } else { TlsClientAuth::Off };
        let client_auth = merged.tls_client_auth.unwrap_or(default);
        let needs = [
            ("tls_cert", merged.tls_cert.is_some(), "tls_key", merged.tls_key.is_some()),
            ("tls_key", merged.tls_key.is_some(), "tls_cert", merged.tls_cert.is_some()),
            ("tls_client_ca", merged.tls_client_ca.is_some(), "tls_cert", merged.tls_cert.is_some()),
            ("tls_client_auth", client_auth != TlsClientAuth::Off, "tls_client_ca", merged.tls_client_ca.is_some()),
            ("tls_min_version", merged.tls_min_version.is_some(), "tls_cert", merged.tls_cert.is_some()),
            ("tls_client_crl", merged.tls_client_crl.is_some(), "tls_client_ca", merged.tls_client_ca.is_some()),
        ];
        for (name, is_set, needed, is_there) in needs {
            if is_set && !is_there {
                wrong.push(format!("`{name}` is set and `{needed}` is not; set both"));
            }
        }
        if merged.tls_client_ca.is_some() && client_auth == TlsClientAuth::Off {
            wrong.push("`tls_client_ca` is set and `tls_client_auth` is `off`; leave out one of them".to_owned());
        }
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Some(TlsConfig {
            cert: absolute(merged.tls_cert.as_deref()?),
            key: absolute(merged.tls_key.as_deref()?),
            client_ca: merged.tls_client_ca.as_deref().map(absolute),
            client_crl: merged.tls_client_crl.as_deref().map(absolute),
            client_auth,
            min_version: merged.tls_min_version.unwrap_or_default(),
        })
    }
}

/// Reads which principal is known by what, and adds what is wrong with that to `wrong`.
pub(super) fn identities(merged: &ServeArgs, wrong: &mut Vec<String>) -> Identities {
    let mut identities = Identities::new();
    for args in merged.identity.as_deref().unwrap_or_default() {
        let Some(identity) = identity(args, wrong) else { continue };
        let is_of_certificate = matches!(identity, Identity::CertificateUri(_) | Identity::CertificateDns(_));
        if is_of_certificate && merged.tls_client_ca.is_none() {
            wrong.push("`identity` is set and `tls_client_ca` is not; set both".to_owned());
        }
        if let Some(other) = identities.insert(identity, args.principal.clone())
            && other != args.principal
        {
            wrong.push(format!("`identity` of `{}` is that of `{other}` too; leave out one of them", args.principal));
        }
    }
    identities
}

fn identity(args: &IdentityArgs, wrong: &mut Vec<String>) -> Option<Identity> {
    let principal = &args.principal;
    let named = [
        args.certificate_uri.clone().map(Identity::CertificateUri),
        args.certificate_dns.as_deref().map(|dns| Identity::CertificateDns(dns.to_ascii_lowercase())),
        args.unix_uid.map(Identity::UnixUid),
        args.unix_gid.map(Identity::UnixGid),
    ];
    let mut named = named.into_iter().flatten();
    let (Some(identity), None) = (named.next(), named.next()) else {
        wrong.push(format!(
            "`identity` of `{principal}` needs one of `certificate_uri`, `certificate_dns`, `unix_uid` and `unix_gid`"
        ));
        return None;
    };
    if let Some(why) = name_objection(principal).or_else(|| identity.objection().map(str::to_owned)) {
        wrong.push(format!("`identity` of `{principal}`: its name {why}"));
        return None;
    }
    Some(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_together_is_set_together() {
        let path = || Some(PathBuf::from("/x"));
        let whole = ServeArgs { tls_cert: path(), tls_key: path(), tls_client_ca: path(), ..ServeArgs::default() };
        let mut wrong = Vec::new();
        let tls = TlsConfig::resolve(&whole, &mut wrong).unwrap();
        assert_eq!((wrong.len(), tls.client_auth), (0, TlsClientAuth::Required));
        let identity = |uri: &str| {
            Some(vec![IdentityArgs { principal: "ci".into(), certificate_uri: Some(uri.into()), ..Default::default() }])
        };
        for bad in [
            ServeArgs { tls_key: None, ..whole.clone() },
            ServeArgs { tls_cert: None, ..whole.clone() },
            ServeArgs { tls_client_auth: Some(TlsClientAuth::Off), ..whole.clone() },
            ServeArgs { tls_client_auth: Some(TlsClientAuth::Optional), tls_client_ca: None, ..whole.clone() },
            ServeArgs { tls_client_crl: path(), tls_client_ca: None, ..whole.clone() },
            ServeArgs { tls_min_version: Some(TlsVersion::V13), ..ServeArgs::default() },
            ServeArgs { identity: identity("spiffe://a/b"), tls_client_ca: None, ..whole.clone() },
            ServeArgs { identity: identity("spiffe://*"), ..whole.clone() },
            ServeArgs { identity: Some(vec![IdentityArgs::default()]), ..whole.clone() },
        ] {
            wrong.clear();
            TlsConfig::resolve(&bad, &mut wrong);
            identities(&bad, &mut wrong);
            assert!(!wrong.is_empty(), "{bad:?}");
        }
    }
}
