//! The certificates of authorities that the system trusts: read once, since some hundred of them cost milliseconds, and
//! again when their files have changed, as a package of them does that is brought up to date under a running server.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use rustls::RootCertStore;
use tokio::time::Instant;

use crate::net::lock;

/// How often the files are looked at, at most: when a connection is about to be made.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// The system's.
pub(super) static SYSTEM: LazyLock<Roots> = LazyLock::new(|| Roots::new(places(), load));

/// Certificates, and the files that they are read from.
pub(super) struct Roots {
    places: Vec<PathBuf>,
    load: fn() -> RootCertStore,
    read: Mutex<Option<Read>>,
}

/// What was read.
struct Read {
    store: Arc<RootCertStore>,
    generation: u64,
    stamps: Vec<Option<Stamp>>,
    looked: Instant,
}

/// Tells a file, or a directory, from what it was: its number, its size, and when it was changed.
type Stamp = (u64, u64, i64, i64);

impl Roots {
    fn new(places: Vec<PathBuf>, load: fn() -> RootCertStore) -> Roots {
        Roots { places, load, read: Mutex::default() }
    }

    /// The certificates, and a number that changes with them.
    pub(super) fn get(&self) -> (Arc<RootCertStore>, u64) {
        let mut read = lock(&self.read);
        let now = Instant::now();
        if let Some(read) = &mut *read
            && (now < read.looked + LOOK_INTERVAL || self.stamps() == read.stamps)
        {
            read.looked = if now < read.looked + LOOK_INTERVAL { read.looked } else { now };
            return (Arc::clone(&read.store), read.generation);
        }
        // Looked at before they are read: a change in between is seen the next time.
        let stamps = self.stamps();
        let generation = read.as_ref().map_or(0, |read| read.generation + 1);
        let store = Arc::new((self.load)());
        *read = Some(Read { store: Arc::clone(&store), generation, stamps, looked: now });
        (store, generation)
    }

    fn stamps(&self) -> Vec<Option<Stamp>> {
        let stamp = |place: &PathBuf| {
            let metadata = std::fs::metadata(place).ok()?;
            Some((metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
        };
        self.places.iter().map(stamp).collect()
    }
}

/// Where the certificates are, by the environment or by what is usual.
fn places() -> Vec<PathBuf> {
    let file = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let directories = std::env::var_os("SSL_CERT_DIR");
    let directories = directories.iter().flat_map(|all| std::env::split_paths(all).collect::<Vec<_>>());
    let named: Vec<PathBuf> = file.into_iter().chain(directories).collect();
    if !named.is_empty() {
        return named;
    }
    let usual = openssl_probe::probe();
    usual.cert_file.into_iter().chain(usual.cert_dir).collect()
}

fn load() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    // What cannot be read is left out: a server whose root is missing is then reported as of an unknown issuer.
    for error in &found.errors {
        tracing::warn!(%error, "cannot read some of the system's certificates of authorities");
    }
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        tracing::warn!("this machine has no certificates of authorities; https needs `ca_pem` or a package of them");
    }
    roots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn they_are_read_again_once_their_files_have_changed() {
        let at = tempfile::tempdir().unwrap();
        let (file, directory) = (at.path().join("bundle"), at.path().join("certs"));
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(&file, "one").unwrap();
        let roots = Roots::new(vec![file.clone(), directory.clone(), at.path().join("missing")], RootCertStore::empty);
        let generation = || roots.get().1;
        assert_eq!((generation(), generation()), (0, 0));
        std::fs::write(&file, "another").unwrap();
        assert_eq!(generation(), 0, "not looked at each time");
        tokio::time::advance(LOOK_INTERVAL).await;
        assert_eq!((generation(), generation()), (1, 1));
        tokio::time::advance(LOOK_INTERVAL).await;
        assert_eq!(generation(), 1, "nothing has changed");
        std::fs::write(directory.join("ca.pem"), "x").unwrap();
        tokio::time::advance(LOOK_INTERVAL).await;
        assert_eq!(generation(), 2);
    }
}
