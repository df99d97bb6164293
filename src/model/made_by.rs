//! The request that made something, by which a repetition of it is told from another request.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The number of a principal. It is never given twice.
pub type PrincipalNo = u64;

/// Every caller on this machine, while none has to authenticate; and the server's own user.
pub const LOCAL: PrincipalNo = 0;

/// The request that made something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeBy {
    /// Its name, which is the caller's; empty: it cannot be repeated.
    pub id: String,
    /// The number of the caller.
    pub principal: PrincipalNo,
    /// The SHA-256 of what was asked for, in hexadecimal digits.
    pub digest: String,
}

impl MadeBy {
    /// Names a request of `principal` that asks for `what`.
    pub(crate) fn of(id: &str, principal: PrincipalNo, what: &impl Serialize) -> MadeBy {
        if id.is_empty() {
            return MadeBy::default();
        }
        // Plain data with string keys: it cannot fail to be written.
        let digest = Sha256::digest(serde_json::to_vec(what).unwrap_or_default());
        let digest = digest.iter().fold(String::with_capacity(64), |text, byte| text + &format!("{byte:02x}"));
        MadeBy { id: id.to_owned(), principal, digest }
    }

    /// Returns whether both are requests of one name and one caller.
    pub(crate) fn repeats(&self, other: &MadeBy) -> bool {
        !self.id.is_empty() && self.id == other.id && self.principal == other.principal
    }
}
