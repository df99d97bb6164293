//! TLS of the server: its certificate, the certificates of clients that it accepts, and how both change while it runs.
//!
//! All files are read together, checked, and only then used, for the handshakes from then on. Files that do not fit
//! together change nothing, so a half-written set never serves.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::version::TLS13;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use webpki::EndEntityCert;

use crate::listen::revoked;
use crate::listen::validity::not_after;
use crate::model::identity::Shown;
use crate::model::time::Timestamp;
use crate::named_file;

/// How often the files are looked at: where secrets are mounted, what changes is a link, and no event tells of it.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

/// How often it is said that a list of revoked certificates is out of date.
const STALE_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// The largest file that is read: more than the list of an authority that revoked a million certificates.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// What the server does about certificates of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// It asks for none.
    Off,
    /// It takes one from who has one.
    Optional,
    /// A client without a certificate cannot connect.
    Required,
}

/// Where the certificates are.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsSettings {
    /// The certificate of the server with what leads to its authority, in PEM.
    pub cert: PathBuf,
    /// Its key, in PEM.
    pub key: PathBuf,
    /// The authorities of clients, in PEM.
    pub client_ca: Option<PathBuf>,
    /// The certificates of clients that were revoked: any number of lists in PEM, or one in DER.
    pub client_crl: Option<PathBuf>,
    /// What is asked of clients.
    pub client_auth: ClientAuth,
    /// Whether clients have to speak TLS 1.3; else 1.2 will do.
    pub is_modern: bool,
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
    /// When the server's certificate ends.
    not_after: Option<Timestamp>,
    /// What judges the certificates of clients.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// When a list of revoked certificates should have been replaced by a newer one.
    lists_end: Option<Timestamp>,
}

/// What an operator should know of the certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsState {
    /// When the server's certificate ends.
    pub not_after: Option<Timestamp>,
    /// When the files were last read, with or without success; `None`: at the start.
    pub reload_time: Option<Timestamp>,
    /// Why the files could not be used when they were last read; empty: they are in use.
    pub reload_error: String,
}

/// What a file is known by: it is another one when any of this changes.
type Stamp = Vec<Option<(SystemTime, u64)>>;

/// The TLS of a listener.
#[derive(Debug)]
pub struct Tls {
    settings: TlsSettings,
    /// The files as they were before they were read for the first time.
    first: Stamp,
    current: watch::Sender<Arc<Loaded>>,
    /// When the files were last read, and why they could not be used.
    reloaded: Mutex<(Option<Timestamp>, String)>,
}

/// A client that has shown a certificate.
#[derive(Debug)]
pub(super) struct Certified {
    /// What its certificate names.
    pub(super) shown: Shown,
    chain: Vec<CertificateDer<'static>>,
    not_after: Option<Timestamp>,
    later: LaterLoads,
}

/// Follows the files that are loaded after a handshake began.
#[derive(Debug)]
pub(super) struct LaterLoads(watch::Receiver<Arc<Loaded>>);

impl Certified {
    /// Returns what the client of a connection has shown; `None`: no certificate. `later` was taken before its handshake.
    pub(super) fn of(connection: &ServerConnection, later: LaterLoads) -> Option<Certified> {
        let chain: Vec<_> = connection.peer_certificates()?.iter().map(|it| it.clone().into_owned()).collect();
        let leaf = chain.first()?;
        let shown = match EndEntityCert::try_from(leaf) {
            Ok(leaf) => Shown::by_certificate(leaf.valid_uri_names(), leaf.valid_dns_names()),
            // What names nobody is nobody's.
            Err(_) => Shown::default(),
        };
        let not_after = not_after(leaf);
        Some(Certified { shown, chain, not_after, later })
    }

    /// Waits until the certificate has ended, was revoked, or is vouched for by nobody. Returns why it does not count.
    pub(super) async fn lost(&mut self) -> String {
        let ended = async {
            match self.not_after {
                Some(end) => tokio::time::sleep(end.since(now())).await,
                None => std::future::pending().await,
            }
        };
        let refused = async {
            loop {
                if self.later.0.changed().await.is_err() {
                    // The listener is gone, and ends its connections itself.
                    return std::future::pending().await;
                }
                let verifier = self.later.0.borrow_and_update().verifier.clone();
                let Some((leaf, others)) = self.chain.split_first() else { continue };
                let judged = verifier.map(|it| it.verify_client_cert(leaf, others, UnixTime::now()));
                if let Some(Err(error)) = judged {
                    return error.to_string();
                }
            }
        };
        tokio::select! {
            () = ended => "it has expired".to_owned(),
            why = refused => why,
        }
    }
}

fn now() -> Timestamp {
    Timestamp(0).plus(Duration::from_secs(UnixTime::now().as_secs()))
}

impl Tls {
    /// Reads all files. Fails where any of them cannot be read, or does not fit the others.
    pub fn load(settings: TlsSettings) -> Result<Tls, TlsError> {
        // First, so that what changes while they are read is read again.
        let first = stamp(&settings);
        let loaded = load(&settings)?;
        Ok(Tls { settings, first, current: watch::Sender::new(Arc::new(loaded)), reloaded: Mutex::default() })
    }

    /// Returns what an operator should know.
    pub fn state(&self) -> TlsState {
        let (reload_time, reload_error) = self.reloaded.lock().unwrap_or_else(PoisonError::into_inner).clone();
        TlsState { not_after: self.current().not_after, reload_time, reload_error }
    }

    fn current(&self) -> Arc<Loaded> {
        self.current.borrow().clone()
    }

    /// Returns what the next handshake uses, and what follows all that is loaded after it. The two are taken together, so that
    /// what is loaded during a handshake is not missed.
    pub(super) fn begin(&self) -> (Arc<Loaded>, LaterLoads) {
        let mut later = self.current.subscribe();
        let loaded = later.borrow_and_update().clone();
        (loaded, LaterLoads(later))
    }

    /// Reads the files anew when one has changed, and when `asked` says so, until `closing`.
    pub async fn follow(self: Arc<Self>, mut asked: watch::Receiver<()>, closing: CancellationToken) {
        let mut seen = self.first.clone();
        let mut told = None;
        loop {
            self.warn_of_old_list(&mut told);
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
            // A file system that hangs does not hold up the end of the server.
            let read = tokio::select! { read = read => read, () = closing.cancelled() => return };
            match read {
                Ok(Some((now, Ok(loaded)))) => {
                    seen = now;
                    self.current.send_replace(Arc::new(loaded));
                    self.note(String::new());
                    tracing::info!("the certificates were read again");
                }
                // A set that is half written is looked at again, whether or not it changes once more.
                Ok(Some((_, Err(error)))) => {
                    self.note(error.to_string());
                    tracing::error!("{error}; the certificates stay as they were");
                }
                Ok(None) => {}
                Err(error) => tracing::error!("the certificates could not be read: {error}"),
            }
        }
    }
}

impl Tls {
    /// Says that a list of revoked certificates is out of date, once a day. It counts as before: nobody should be kept out
    /// because whoever publishes the list, or fetches it, is late.
    fn warn_of_old_list(&self, told: &mut Option<(Timestamp, Timestamp)>) {
        let Some(end) = self.current().lists_end.filter(|end| *end <= now()) else { return };
        if told.is_some_and(|(of, at)| of == end && now() < at.plus(STALE_INTERVAL)) {
            return;
        }
        *told = Some((end, now()));
        let end = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + end.since(Timestamp(0)));
        let path = self.settings.client_crl.as_deref().unwrap_or(Path::new(""));
        tracing::warn!(
            "a list of revoked certificates in `{}` should have been replaced by {end}; whoever was revoked since then is let \
             in until there is a newer one",
            path.display()
        );
    }

    fn note(&self, error: String) {
        *self.reloaded.lock().unwrap_or_else(PoisonError::into_inner) = (Some(now()), error);
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
    let ends = chain.first().and_then(|leaf| not_after(leaf));
    if ends.is_some_and(|end| end <= now()) {
        return Err(wrong(&settings.cert, "it has expired; put a new one in its place".to_owned()));
    }
    let builder = if settings.is_modern {
        ServerConfig::builder_with_protocol_versions(&[&TLS13])
    } else {
        ServerConfig::builder()
    };
    let (mut judge, mut lists_end) = (None, None);
    let builder = match (&settings.client_ca, settings.client_auth) {
        (Some(path), ClientAuth::Optional | ClientAuth::Required) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(path)? {
                roots.add(authority).map_err(|error| wrong(path, error.to_string()))?;
            }
            let mut verifier = WebPkiClientVerifier::builder(Arc::new(roots));
            if let Some(path) = &settings.client_crl {
                // Who issued certificates revokes them; authorities are left out of the file instead.
                let found = revoked::parse(read(path)?).map_err(|why| wrong(path, why))?;
                lists_end = found.next_update;
                verifier = verifier.with_crls(found.lists).only_check_end_entity_revocation();
            }
            if settings.client_auth == ClientAuth::Optional {
                verifier = verifier.allow_unauthenticated();
            }
            let verifier = verifier.build().map_err(|error| wrong(path, error.to_string()))?;
            judge = Some(verifier.clone());
            builder.with_client_cert_verifier(verifier)
        }
        _ => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| {
        wrong(&settings.key, format!("it does not fit the certificate `{}` ({error})", settings.cert.display()))
    })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Loaded { config: Arc::new(config), names: names.into(), not_after: ends, verifier: judge, lists_end })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    let read = named_file::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
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
