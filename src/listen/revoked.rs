//! Lists of revoked certificates, as authorities publish them (RFC 5280, section 5).

use std::collections::HashSet;

use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject as _;
use webpki::{BorrowedCertRevocationList, CertRevocationList};

use crate::listen::validity::next_update;
use crate::model::time::Timestamp;

/// The lists of a file.
#[derive(Debug)]
pub(super) struct Lists {
    pub(super) lists: Vec<CertificateRevocationListDer<'static>>,
    /// When the first of them should have been replaced by a newer one.
    pub(super) next_update: Option<Timestamp>,
}

/// Reads a file: any number of lists in PEM, or one in DER. Returns what is wrong with it otherwise.
///
/// A file without a list is refused, since no list would mean that nobody is revoked. Several of one authority are refused too:
/// only the first one would be looked at, and so whoever is named by another would be let in.
pub(super) fn parse(bytes: Vec<u8>) -> Result<Lists, String> {
    let in_pem = CertificateRevocationListDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let mut lists = in_pem.map_err(|error| error.to_string())?;
    let is_der = lists.is_empty();
    if is_der {
        lists.push(CertificateRevocationListDer::from(bytes));
    }
    let mut known = HashSet::new();
    for list in &lists {
        let list = BorrowedCertRevocationList::from_der(list).map_err(|error| unreadable(is_der, &error))?;
        let list = CertRevocationList::from(list);
        // Also where each is for a part of its certificates: one that does not say of which it is, is looked for in the first alone.
        if !known.insert(list.issuer().to_vec()) {
            let why = "it has two lists of one authority, of which only the first would count; leave the newest one alone in it";
            return Err(why.to_owned());
        }
    }
    let next_update = lists.iter().filter_map(|list| next_update(list)).min();
    Ok(Lists { lists, next_update })
}

fn unreadable(is_der: bool, error: &webpki::Error) -> String {
    if is_der {
        format!("there is no list of revoked certificates in it, neither in PEM nor, as a whole file, in DER ({error})")
    } else {
        format!("a list of revoked certificates in it cannot be read ({error})")
    }
}
