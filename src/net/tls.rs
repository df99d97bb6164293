//! TLS: which roots, which identity, and the messages of handshakes that fail.
//!
//! One configuration per set of options, kept by its identity, so that sessions are resumed from connection to
//! connection.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::{AlertDescription, CertificateError, ClientConfig, Error, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use url::Host;

use crate::model::failure::{Failure, FailureReason};
use crate::model::spec::HttpOptions;
use crate::net::roots;
use crate::net::verify::{AcceptAny, Named, is_of_authority};

/// Which versions of HTTP are offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// HTTP/2, else HTTP/1.1.
    AnyHttp,
    /// HTTP/1.1 only.
    Http1,
}

/// The configuration that these options ask for.
pub(super) fn config(options: &HttpOptions, offer: Offer) -> Result<Arc<ClientConfig>, Failure> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| bad_option(&error.to_string()))?;
    let builder = if options.insecure_skip_verify == Some(true) {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAny(provider)))
    } else if let Some(pem) = &options.ca_pem {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(naming(pem, provider)?))
    } else {
        builder.with_root_certificates(RootCertStore::clone(&roots::SYSTEM.get().0))
    };
    let mut config = match (&options.client_certificate_pem, &options.client_key_pem) {
        (Some(chain), Some(key)) => {
            let chain = certificates(chain, "client_certificate_pem")?;
            let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes())
                .map_err(|_| bad_option("`client_key_pem` holds no private key"))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| bad_option(&format!("the client certificate and its key do not work: {error}")))?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => return Err(bad_option("`client_certificate_pem` and `client_key_pem` go together")),
    };
    config.alpn_protocols = match offer {
        Offer::AnyHttp => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        Offer::Http1 => vec![b"http/1.1".to_vec()],
    };
    Ok(Arc::new(config))
}

/// The verifier of what this machine trusts, and of the certificates in `pem`.
fn naming(pem: &str, provider: Arc<CryptoProvider>) -> Result<Named, Failure> {
    let mut roots = RootCertStore::clone(&roots::SYSTEM.get().0);
    let named = certificates(pem, "ca_pem")?;
    for certificate in &named {
        roots
            .add(certificate.clone())
            .map_err(|error| bad_option(&format!("`ca_pem` holds a bad certificate: {error}")))?;
    }
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    Ok(Named::new(inner.map_err(|error| bad_option(&error.to_string()))?, named))
}

fn certificates(pem: &str, option: &str) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let found = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    found.ok().filter(|found| !found.is_empty()).ok_or_else(|| bad_option(&format!("`{option}` holds no certificate")))
}

fn bad_option(message: &str) -> Failure {
    Failure::fatal(FailureReason::Tls, message)
}

/// Shakes hands over a connection.
pub(super) async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    config: Arc<ClientConfig>,
    stream: S,
    host: &Host<String>,
) -> Result<TlsStream<S>, Failure> {
    let name = match host {
        Host::Ipv4(ip) => ServerName::from(std::net::IpAddr::V4(*ip)),
        Host::Ipv6(ip) => ServerName::from(std::net::IpAddr::V6(*ip)),
        // Certificates name hosts without the dot that ends an absolute name.
        Host::Domain(name) => ServerName::try_from(name.strip_suffix('.').unwrap_or(name).to_owned())
            .map_err(|_| Failure::fatal(FailureReason::Tls, format!("`{name}` is not a name that TLS can check")))?,
    };
    // rustls's state is large, and rarely moved once it is behind a pointer.
    Box::pin(TlsConnector::from(config).connect(name, stream)).await.map_err(|error| failed(&host.to_string(), &error))
}

/// The failure of a handshake with `host`.
fn failed(host: &str, error: &io::Error) -> Failure {
    match inner(error) {
        Some(tls) => explain(host, tls),
        None => Failure::retryable(
            FailureReason::Tls,
            format!("the TLS handshake with `{host}` was cut off ({error}); does it speak TLS on this port"),
        ),
    }
}

/// The TLS error inside another, if there is one.
pub(super) fn inner<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<Error>() {
            return Some(tls);
        }
        // What an I/O error was made from is not its source but itself.
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// Returns what went wrong with `host`, for a person. Trying again does not change a certificate; it may help a
/// handshake that was broken off.
pub(super) fn explain(host: &str, error: &Error) -> Failure {
    let fatal = |message: String| Failure::fatal(FailureReason::Tls, message);
    match error {
        Error::InvalidCertificate(error) => fatal(bad_certificate(host, error)),
        Error::AlertReceived(alert) => refused(host, *alert),
        Error::PeerIncompatible(why) => {
            fatal(format!("`{host}` and haul have no TLS version or cipher in common ({why:?})"))
        }
        Error::InvalidMessage(_) => {
            fatal(format!("`{host}` answers on this port, but not with TLS; use `http://` or the port of its TLS"))
        }
        other => Failure::retryable(FailureReason::Tls, format!("the TLS handshake with `{host}` failed: {other}")),
    }
}

fn bad_certificate(host: &str, error: &CertificateError) -> String {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("the certificate of `{host}` has expired; its operator has to renew it")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("the certificate of `{host}` is not valid yet; is the clock of this machine right")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("the certificate of `{host}` is for another host name; check the URL")
        }
        CertificateError::UnknownIssuer if roots::SYSTEM.get().0.is_empty() => format!(
            "the certificate of `{host}` cannot be checked: this machine has no certificates of authorities; install them \
             (often a package called `ca-certificates`), or put the one that you trust into `ca_pem`"
        ),
        CertificateError::UnknownIssuer => format!(
            "the certificate of `{host}` is from an authority that this machine does not know; if you trust it, put its \
             certificate into `ca_pem`"
        ),
        error if is_of_authority(error) => format!(
            "`{host}` shows the certificate of an authority as its own, which no server may have; its operator has to make one \
             for a server (`CA:FALSE`), or, if you trust it, put this very certificate into `ca_pem`"
        ),
        CertificateError::Revoked => format!("the certificate of `{host}` has been revoked"),
        other => {
            // What the library has no text for it writes with all its fields; the kind is its first word.
            let text = other.to_string();
            let kind = if text.contains('{') { text.split([' ', '{', '(']).next().unwrap_or_default() } else { &text };
            format!("the certificate of `{host}` is not valid ({kind})")
        }
    }
}

fn refused(host: &str, alert: AlertDescription) -> Failure {
    let message = match alert {
        AlertDescription::CertificateRequired => {
            format!("`{host}` requires a client certificate; set `client_certificate_pem` and `client_key_pem`")
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError => {
            format!("`{host}` does not accept the client certificate ({alert:?})")
        }
        AlertDescription::ProtocolVersion => {
            format!("`{host}` speaks only versions of TLS that are too old or too new for haul (1.2 and 1.3)")
        }
        AlertDescription::HandshakeFailure => format!(
            "`{host}` ended the TLS handshake: it may want a client certificate, or has no cipher in common with haul"
        ),
        AlertDescription::UnrecognisedName => format!("`{host}` does not serve this name over TLS; check the URL"),
        other => {
            return Failure::retryable(FailureReason::Tls, format!("`{host}` ended the TLS connection ({other:?})"));
        }
    };
    Failure::fatal(FailureReason::Tls, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::secret::Secret;

    #[test]
    fn an_authority_that_shows_itself_is_told_apart() {
        let why = rustls::OtherError(Arc::new(io::Error::other("CaUsedAsEndEntity")));
        let message = bad_certificate("h", &CertificateError::Other(why));
        assert!(message.contains("the certificate of an authority as its own"), "{message}");
    }

    #[test]
    fn bad_options_say_which() {
        let pem = |set: &dyn Fn(&mut HttpOptions)| {
            let mut options = HttpOptions::default();
            set(&mut options);
            config(&options, Offer::AnyHttp).unwrap_err().message
        };
        assert_eq!(pem(&|o| o.ca_pem = Some("nothing".into())), "`ca_pem` holds no certificate");
        let alone = pem(&|o| o.client_key_pem = Some(Secret::new("k")));
        assert_eq!(alone, "`client_certificate_pem` and `client_key_pem` go together");
    }

    #[test]
    fn the_messages() {
        let errors = [
            Error::InvalidCertificate(CertificateError::Expired),
            Error::InvalidCertificate(CertificateError::NotValidYet),
            Error::InvalidCertificate(CertificateError::NotValidForName),
            Error::InvalidCertificate(CertificateError::UnknownIssuer),
            Error::InvalidCertificate(CertificateError::BadSignature),
            Error::AlertReceived(AlertDescription::CertificateRequired),
            Error::AlertReceived(AlertDescription::UnknownCA),
            Error::AlertReceived(AlertDescription::ProtocolVersion),
            Error::AlertReceived(AlertDescription::HandshakeFailure),
            Error::AlertReceived(AlertDescription::InternalError),
            Error::HandshakeNotComplete,
        ];
        let said = errors
            .iter()
            .map(|error| explain("a.example", error))
            .map(|failure| format!("{} (retryable: {})\n", failure.message, failure.retryable))
            .collect::<Vec<String>>()
            .concat();
        insta::assert_snapshot!(said);
    }
}
