//! Digests as the contract writes them: `algorithm:hex`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A digest algorithm that downloads can be checked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// SHA-256 (FIPS 180-4).
    Sha256,
    /// SHA-512 (FIPS 180-4).
    Sha512,
    /// SHA-1 (FIPS 180-4); against accidents only.
    Sha1,
    /// MD5 (RFC 1321); against accidents only.
    Md5,
    /// BLAKE3, 256 bits.
    Blake3,
    /// CRC-32C (Castagnoli, RFC 3720), big endian; against accidents only.
    Crc32c,
}

impl Algorithm {
    /// All of them, in the order in which the contract names them.
    pub const ALL: [Algorithm; 6] = [Self::Sha256, Self::Sha512, Self::Sha1, Self::Md5, Self::Blake3, Self::Crc32c];

    /// Its name in the contract.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
            Self::Sha1 => "sha1",
            Self::Md5 => "md5",
            Self::Blake3 => "blake3",
            Self::Crc32c => "crc32c",
        }
    }

    /// The length of its digests in bytes.
    pub const fn digest_bytes(self) -> usize {
        match self {
            Self::Sha256 | Self::Blake3 => 32,
            Self::Sha512 => 64,
            Self::Sha1 => 20,
            Self::Md5 => 16,
            Self::Crc32c => 4,
        }
    }
}

/// Bytes as text of two digits each.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    digits.map(char::from).collect()
}

impl FromStr for Algorithm {
    type Err = BadChecksum;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
            .ok_or_else(|| BadChecksum::Algorithm(name.to_owned()))
    }
}

/// One digest of a known algorithm.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Checksum {
    /// How it was computed.
    pub algorithm: Algorithm,
    /// Its bytes, [`Algorithm::digest_bytes`] of them.
    pub digest: Vec<u8>,
}

/// Why a text is no checksum.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadChecksum {
    /// No colon.
    #[error("a checksum reads `algorithm:hex`, as in `sha256:9f86…`")]
    Form,
    /// An algorithm that haul does not have.
    #[error("`{0}` is not a known algorithm; use one of sha256, sha512, sha1, md5, blake3, crc32c")]
    Algorithm(String),
    /// Not hexadecimal, or of the wrong length.
    #[error("a {0} digest has {1} hexadecimal digits")]
    Digest(&'static str, usize),
}

impl FromStr for Checksum {
    type Err = BadChecksum;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, hex) = text.split_once(':').ok_or(BadChecksum::Form)?;
        let algorithm: Algorithm = name.parse()?;
        let bad = || BadChecksum::Digest(algorithm.name(), algorithm.digest_bytes() * 2);
        if hex.len() != algorithm.digest_bytes() * 2 {
            return Err(bad());
        }
        let nibble = |byte: u8| char::from(byte).to_digit(16);
        let digest = hex
            .as_bytes()
            .chunks_exact(2)
            .map(|pair| Some((nibble(pair[0])? * 16 + nibble(pair[1])?) as u8))
            .collect::<Option<Vec<u8>>>()
            .ok_or_else(bad)?;
        Ok(Checksum { algorithm, digest })
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.algorithm.name())?;
        self.digest.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for Checksum {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Checksum {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for algorithm in Algorithm::ALL {
            let checksum = Checksum { algorithm, digest: vec![0xa5; algorithm.digest_bytes()] };
            assert_eq!(checksum.to_string().parse(), Ok(checksum));
        }
    }

    #[test]
    fn refuses_what_is_none() {
        assert_eq!("abcd".parse::<Checksum>(), Err(BadChecksum::Form));
        assert_eq!("sha3:00".parse::<Checksum>(), Err(BadChecksum::Algorithm("sha3".into())));
        assert_eq!("crc32c:0g000000".parse::<Checksum>(), Err(BadChecksum::Digest("crc32c", 8)));
        assert_eq!("md5:00".parse::<Checksum>(), Err(BadChecksum::Digest("md5", 32)));
    }
}
