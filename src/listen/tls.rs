//! TLS of the server: its certificate, whose certificates of clients it takes, and how both change while it runs.
//!
//! All files are read together, checked, and only then used, for the handshakes from then on. Files that do not fit
//! together change nothing, so a half-written set never serves.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use webpki::EndEntityCert;

use crate::model::principal::{Identity, principal_of};

/// How often the files are looked at: where secrets are mounted, what changes is a link, and no event tells of it.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

/// The largest file that is read: more than the list of an authority that revoked a million certificates.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// What the server does about certificates of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// It asks for none.
    Off,
    /// It takes one from who has one.
    Optional,
    /// Whoever has none cannot connect.
    Required,
}

/// Where the certificates are, and who has which.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsSettings {
    /// The certificate of the server with what leads to its authority, in PEM.
    pub cert: PathBuf,
    /// Its key, in PEM.
    pub key: PathBuf,
    /// The authorities of clients, in PEM.
    pub client_ca: Option<PathBuf>,
    /// The certificates of clients that were revoked, in PEM.
    pub client_crl: Option<PathBuf>,
    /// What is asked of clients.
    pub client_auth: ClientAuth,
    /// Whose certificates may call; empty: any of the authorities.
    pub identities: Vec<Identity>,
}

/// A file of certificates cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("`{}` cannot be used for TLS: {why}", path.display())]
pub struct TlsError {
    path: PathBuf,
    why: String,
}

/// What handshakes use.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) config: Arc<ServerConfig>,
    /// The DNS names of the server's certificate, in lower case.
    pub(super) names: Arc<[String]>,
}

/// What a file is known by: it is another one when any of this changes.
type Stamp = Vec<Option<(SystemTime, u64)>>;

/// The TLS of a listener.
#[derive(Debug)]
pub struct Tls {
    settings: TlsSettings,
    current: watch::Sender<Arc<Loaded>>,
}

/// Whose a connection is, by the certificate of the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Client {
    /// It has shown none.
    Unnamed,
    /// It has shown one that is good, and nothing says whose certificates may call.
    Vouched,
    /// The operator says that this principal has it.
    Named(String),
    /// It has shown one that is good, and nobody said whose it is.
    Stranger,
}

impl Tls {
    /// Reads all files. Fails where any of them cannot be read, or does not fit the others.
    pub fn load(settings: TlsSettings) -> Result<Tls, TlsError> {
        let loaded = load(&settings)?;
        Ok(Tls { settings, current: watch::Sender::new(Arc::new(loaded)) })
    }

    pub(super) fn current(&self) -> Arc<Loaded> {
        self.current.borrow().clone()
    }

    /// Returns whose a connection is.
    pub(super) fn client(&self, connection: &ServerConnection) -> Client {
        let Some(leaf) = connection.peer_certificates().and_then(<[_]>::first) else { return Client::Unnamed };
        if self.settings.identities.is_empty() {
            return Client::Vouched;
        }
        let Ok(leaf) = EndEntityCert::try_from(leaf) else { return Client::Stranger };
        let (uris, dns): (Vec<_>, Vec<_>) = (leaf.valid_uri_names().collect(), leaf.valid_dns_names().collect());
        principal_of(&self.settings.identities, &uris, &dns)
            .map_or(Client::Stranger, |principal| Client::Named(principal.to_owned()))
    }

    /// Reads the files anew when one has changed, and when `asked` says so, until `closing`.
    pub async fn follow(self: Arc<Self>, mut asked: watch::Receiver<()>, closing: CancellationToken) {
        let mut seen = stamp(&self.settings);
        loop {
            let is_asked = tokio::select! {
                () = tokio::time::sleep(LOOK_INTERVAL) => false,
                Ok(()) = asked.changed() => true,
                () = closing.cancelled() => return,
            };
            let this = self.clone();
            let known = seen.clone();
            let read = tokio::task::spawn_blocking(move || {
                let now = stamp(&this.settings);
                (is_asked || now != known).then(|| (now, load(&this.settings)))
            });
            match read.await {
                Ok(Some((now, Ok(loaded)))) => {
                    seen = now;
                    self.current.send_replace(Arc::new(loaded));
                    tracing::info!("the certificates were read anew");
                }
                // A set that is half written is looked at again, whether or not it changes once more.
                Ok(Some((_, Err(error)))) => tracing::error!("{error}; the certificates stay as they were"),
                Ok(None) => {}
                Err(error) => tracing::error!("the certificates could not be read: {error}"),
            }
        }
    }
}

fn stamp(settings: &TlsSettings) -> Stamp {
    let paths = [Some(&settings.cert), Some(&settings.key), settings.client_ca.as_ref(), settings.client_crl.as_ref()];
    let of = |path: &PathBuf| std::fs::metadata(path).and_then(|file| Ok((file.modified()?, file.len()))).ok();
    paths.into_iter().flatten().map(of).collect()
}

fn load(settings: &TlsSettings) -> Result<Loaded, TlsError> {
    let wrong = |path: &Path, why: String| TlsError { path: path.to_owned(), why };
    let chain = certificates(&settings.cert)?;
    let key = PrivateKeyDer::from_pem_slice(&read(&settings.key)?)
        .map_err(|error| wrong(&settings.key, format!("there is no key in it ({error})")))?;
    let names = chain
        .first()
        .and_then(|leaf| EndEntityCert::try_from(leaf).ok())
        .map_or_else(Vec::new, |leaf| leaf.valid_dns_names().map(str::to_ascii_lowercase).collect());
    let builder = ServerConfig::builder();
    let builder = match (&settings.client_ca, settings.client_auth) {
        (Some(path), ClientAuth::Optional | ClientAuth::Required) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(path)? {
                roots.add(authority).map_err(|error| wrong(path, error.to_string()))?;
            }
            let mut verifier = WebPkiClientVerifier::builder(Arc::new(roots));
            if let Some(path) = &settings.client_crl {
                // Who issued certificates revokes them; authorities are left out of the file instead.
                verifier = verifier.with_crls(revoked(path)?).only_check_end_entity_revocation();
            }
            if settings.client_auth == ClientAuth::Optional {
                verifier = verifier.allow_unauthenticated();
            }
            builder.with_client_cert_verifier(verifier.build().map_err(|error| wrong(path, error.to_string()))?)
        }
        _ => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| {
        wrong(&settings.key, format!("it does not fit the certificate `{}` ({error})", settings.cert.display()))
    })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Loaded { config: Arc::new(config), names: names.into() })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    match read {
        Ok(_) if bytes.len() as u64 <= FILE_BYTES_MAX => Ok(bytes),
        Ok(_) => Err(TlsError { path: path.to_owned(), why: "it is larger than 64 MiB".to_owned() }),
        Err(error) => Err(TlsError { path: path.to_owned(), why: error.to_string() }),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |why: String| TlsError { path: path.to_owned(), why };
    match CertificateDer::pem_slice_iter(&read(path)?).collect::<Result<Vec<_>, _>>() {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(wrong("there is no certificate in it".to_owned())),
        Err(error) => Err(wrong(error.to_string())),
    }
}

fn revoked(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let lists = CertificateRevocationListDer::pem_slice_iter(&read(path)?).collect::<Result<Vec<_>, _>>();
    lists.map_err(|error| TlsError { path: path.to_owned(), why: error.to_string() })
}
