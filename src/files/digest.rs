//! Digests of every algorithm of the contract, computed together over one stream of bytes, and a look for a secret in it.

use sha2::Digest as _;

use crate::model::checksum::{Algorithm, Checksum};
use crate::model::credential::echo::EchoScan;

/// Computes any number of digests over one stream of bytes.
#[derive(Default)]
pub struct Hasher {
    states: Vec<State>,
    scan: Option<EchoScan>,
    has_secret: bool,
}

enum State {
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
    Sha1(sha1::Sha1),
    Md5(md5::Md5),
    // Boxed, because its state is much larger than those of the others.
    Blake3(Box<blake3::Hasher>),
    Crc32c(u32),
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hasher of {}", self.states.len())
    }
}

impl Hasher {
    /// Creates a hasher for these algorithms; one that is named twice is computed once.
    pub fn new(algorithms: impl IntoIterator<Item = Algorithm>) -> Hasher {
        let mut wanted: Vec<Algorithm> = algorithms.into_iter().collect();
        wanted.sort_unstable();
        wanted.dedup();
        Hasher { states: wanted.into_iter().map(State::new).collect(), scan: None, has_secret: false }
    }

    /// Looks for a secret, too.
    pub fn look_for(&mut self, scan: EchoScan) {
        self.scan = Some(scan);
    }

    /// Returns whether the secret was found so far.
    pub fn has_secret(&self) -> bool {
        self.has_secret
    }

    /// Returns whether there is no digest to compute, and nothing to look for.
    pub fn is_idle(&self) -> bool {
        self.states.is_empty() && self.scan.is_none()
    }

    /// Adds the next bytes of the stream.
    pub fn update(&mut self, bytes: &[u8]) {
        for state in &mut self.states {
            state.update(bytes);
        }
        self.has_secret |= self.scan.as_mut().is_some_and(|scan| scan.finds(bytes));
    }

    /// Returns the digests, in the order of the algorithms in the contract.
    pub fn finish(self) -> Vec<Checksum> {
        self.states.into_iter().map(State::finish).collect()
    }
}

impl State {
    fn new(algorithm: Algorithm) -> State {
        match algorithm {
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => State::Sha512(sha2::Sha512::new()),
            Algorithm::Sha1 => State::Sha1(sha1::Sha1::new()),
            Algorithm::Md5 => State::Md5(md5::Md5::new()),
            Algorithm::Blake3 => State::Blake3(Box::default()),
            Algorithm::Crc32c => State::Crc32c(0),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
            State::Sha1(state) => state.update(bytes),
            State::Md5(state) => state.update(bytes),
            State::Blake3(state) => {
                state.update(bytes);
            }
            State::Crc32c(crc) => *crc = crc32c::crc32c_append(*crc, bytes),
        }
    }

    fn finish(self) -> Checksum {
        let (algorithm, digest) = match self {
            State::Sha256(state) => (Algorithm::Sha256, state.finalize().to_vec()),
            State::Sha512(state) => (Algorithm::Sha512, state.finalize().to_vec()),
            State::Sha1(state) => (Algorithm::Sha1, state.finalize().to_vec()),
            State::Md5(state) => (Algorithm::Md5, state.finalize().to_vec()),
            State::Blake3(state) => (Algorithm::Blake3, state.finalize().as_bytes().to_vec()),
            State::Crc32c(crc) => (Algorithm::Crc32c, crc.to_be_bytes().to_vec()),
        };
        Checksum { algorithm, digest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_digests_whatever_the_pieces() {
        let mut whole = Hasher::new(Algorithm::ALL.into_iter().chain([Algorithm::Md5]));
        whole.update(b"123456789");
        let mut pieces = Hasher::new(Algorithm::ALL);
        b"123456789".iter().for_each(|byte| pieces.update(&[*byte]));
        let digests = whole.finish();
        assert_eq!(digests, pieces.finish());
        let shown: Vec<String> = digests.iter().map(ToString::to_string).collect();
        insta::assert_snapshot!(shown.join("\n"));
    }
}
