//! The download roots of all tenants: each has one of its own, and no path of one leads into another.
//!
//! The tenant that always exists has the download directory itself. The others have directories below it that no client can
//! name, since no part of a path may begin with `.haul-`, or those that the settings name.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::files::error::failure;
use crate::files::root::Root;
use crate::model::failure::Failure;
use crate::model::tenant::{DEFAULT_NO, Owner, TenantNo};

/// The directory of the tenants' own, in the download directory.
const TENANTS_DIR: &str = ".haul-tenants";
/// What begins the name of what a deleted tenant left. No tenant is called so.
const GONE_PREFIX: &str = ".gone-";

/// The roots of all tenants. Each is opened when it is needed first.
#[derive(Debug)]
pub struct Roots {
    own: Arc<Root>,
    /// The directories of tenants that the settings name.
    named: BTreeMap<String, PathBuf>,
    open: Mutex<HashMap<TenantNo, Arc<Root>>>,
}

impl Roots {
    /// Makes the roots of a download directory, of which `own` is the root. `named`: other directories of tenants.
    pub fn new(own: Root, named: BTreeMap<String, PathBuf>) -> Roots {
        Roots { own: Arc::new(own), named, open: Mutex::default() }
    }

    /// Returns the root of the tenant that always exists.
    pub fn own(&self) -> &Arc<Root> {
        &self.own
    }

    /// Returns the root of a tenant, which is made when it is missing.
    pub fn of(&self, tenant: &Owner) -> Result<Arc<Root>, Failure> {
        if tenant.no == DEFAULT_NO {
            return Ok(self.own.clone());
        }
        let mut open = self.lock();
        if let Some(root) = open.get(&tenant.no) {
            return Ok(root.clone());
        }
        let root = match self.named.get(&*tenant.name) {
            Some(place) => self.own.beside(place)?,
            None => self.own.within(TENANTS_DIR, &tenant.name)?,
        };
        let root = Arc::new(root);
        open.insert(tenant.no, root.clone());
        Ok(root)
    }

    /// Puts aside what a deleted tenant left, so that a new one of its name has none of it. A directory that the settings
    /// name is the operator's, and its files are moved into a directory of their own within it.
    pub fn put_aside(&self, tenant: &Owner) -> Result<(), Failure> {
        self.lock().remove(&tenant.no);
        let gone = format!("{GONE_PREFIX}{}", tenant.no);
        let (place, moved) = if let Some(place) = self.named.get(&*tenant.name) {
            (place.display().to_string(), move_within(place, &gone))
        } else {
            let moved = self.own.rename_within(TENANTS_DIR, &tenant.name, &gone);
            (format!("{TENANTS_DIR}/{}", tenant.name), moved)
        };
        moved.map_err(|error| failure("put aside", &place, &error))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantNo, Arc<Root>>> {
        // An entry is whole or not there.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Moves what is in a directory into one within it.
fn move_within(place: &Path, gone: &str) -> std::io::Result<()> {
    let entries = match fs::read_dir(place) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?.collect::<Result<Vec<_>, _>>()?,
    };
    let left: Vec<_> =
        entries.iter().filter(|it| !it.file_name().to_string_lossy().starts_with(".haul-gone-")).collect();
    if left.is_empty() {
        return Ok(());
    }
    // A client cannot name it.
    let aside = place.join(format!(".haul{}", gone.replacen('.', "-", 1)));
    fs::create_dir_all(&aside)?;
    left.iter().try_for_each(|entry| fs::rename(entry.path(), aside.join(entry.file_name())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(no: TenantNo, name: &str) -> Owner {
        Owner { no, name: name.into() }
    }

    #[test]
    fn each_tenant_has_a_root_and_what_one_left_is_nobodys() {
        let dir = tempfile::tempdir().unwrap();
        let named = BTreeMap::from([("b".to_owned(), dir.path().join("of-b"))]);
        let downloads = dir.path().join("downloads");
        let roots = Roots::new(Root::open(&downloads).unwrap(), named);
        assert!(Arc::ptr_eq(&roots.of(&Owner::default()).unwrap(), roots.own()));
        let (a, b) = (roots.of(&owner(16, "a")).unwrap(), roots.of(&owner(17, "b")).unwrap());
        assert!(Arc::ptr_eq(&a, &roots.of(&owner(16, "a")).unwrap()) && !Arc::ptr_eq(&a, &b));
        fs::write(downloads.join(".haul-tenants/a/x"), "a").unwrap();
        fs::write(dir.path().join("of-b/x"), "b").unwrap();
        assert!(roots.own().find_folder(".haul-tenants/a").is_err(), "no path leads there");
        for tenant in [owner(16, "a"), owner(17, "b")] {
            roots.put_aside(&tenant).unwrap();
            roots.put_aside(&tenant).unwrap();
        }
        assert_eq!(fs::read(downloads.join(".haul-tenants/.gone-16/x")).unwrap(), b"a");
        assert_eq!(fs::read(dir.path().join("of-b/.haul-gone-17/x")).unwrap(), b"b");
        roots.of(&owner(18, "a")).unwrap();
        assert_eq!(fs::read_dir(downloads.join(".haul-tenants/a")).unwrap().count(), 0);
    }

    /// Whoever may write in the download directory leads no tenant out of it, nor into another one's files.
    #[test]
    fn links_in_the_place_of_roots_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let roots = |downloads: &Path| Roots::new(Root::open(downloads).unwrap(), BTreeMap::new());
        let downloads = dir.path().join("downloads");
        let known = roots(&downloads);
        known.of(&owner(16, "a")).unwrap();
        let tenants = downloads.join(".haul-tenants");
        std::os::unix::fs::symlink("a", tenants.join("b")).unwrap();
        std::os::unix::fs::symlink("..", tenants.join("c")).unwrap();
        for (no, name) in [(17, "b"), (18, "c")] {
            let refused = known.of(&owner(no, name)).unwrap_err().message;
            assert!(refused.contains(&format!(".haul-tenants/{name}")), "{refused}");
        }
        let (other, elsewhere) = (dir.path().join("other"), dir.path().join("elsewhere"));
        fs::create_dir_all(elsewhere.join("a")).unwrap();
        let known = roots(&other);
        std::os::unix::fs::symlink(&elsewhere, other.join(".haul-tenants")).unwrap();
        known.of(&owner(16, "a")).unwrap_err();
        known.put_aside(&owner(16, "a")).unwrap_err();
        assert!(elsewhere.join("a").exists(), "nothing is moved elsewhere");
    }
}
