//! A certificate authority of our own, and servers and clients that it vouches for, well or badly.
//!
//! ```ignore
//! let authority = Authority::new();
//! let origin = Origin::start_tls(authority.server(Leaf::good()));
//! // … `ca_pem: authority.pem()`, and `origin.url("/")` is `https://localhost:…`
//! ```

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// What is right or wrong with a server.
#[derive(Clone)]
pub struct Leaf {
    pub names: Vec<String>,
    pub is_expired: bool,
    pub requires_client: bool,
    pub alpn: Vec<Vec<u8>>,
    pub versions: Vec<&'static SupportedProtocolVersion>,
}

impl Leaf {
    /// For `localhost` and 127.0.0.1, HTTP/1.1 only.
    pub fn good() -> Leaf {
        Leaf {
            names: vec!["localhost".into(), "127.0.0.1".into()],
            is_expired: false,
            requires_client: false,
            alpn: vec![b"http/1.1".to_vec()],
            versions: rustls::ALL_VERSIONS.to_vec(),
        }
    }
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, "Test Authority");
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// For `ca_pem`.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    pub fn server(&self, leaf: Leaf) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(leaf.names).unwrap();
        params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ServerAuth);
        if leaf.is_expired {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        }
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&leaf.versions).unwrap();
        let builder = if leaf.requires_client {
            let mut roots = RootCertStore::empty();
            roots.add(self.0.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let mut config = builder.with_single_cert(vec![CertificateDer::from(certificate)], key).unwrap();
        config.alpn_protocols = leaf.alpn;
        Arc::new(config)
    }

    /// A client's certificate and key, in PEM.
    pub fn client(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["client.example".into()]).unwrap();
        params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ClientAuth);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// A server that shows the certificate of an authority as its own, as one that was made by hand; and the certificate, in PEM.
pub fn itself(names: &[&str], is_expired: bool) -> (Arc<ServerConfig>, String) {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    if is_expired {
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2002, 1, 1);
    }
    let certificate = params.self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let pem = certificate.pem();
    let config = builder.with_no_client_auth().with_single_cert(vec![CertificateDer::from(certificate)], key);
    (Arc::new(config.unwrap()), pem)
}
