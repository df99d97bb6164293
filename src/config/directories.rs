//! Where the database is and where downloads go: two directories, neither of them within the other.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use crate::config::raw::ServeArgs;
use crate::model::tenant::{DEFAULT_TENANT, name_objection};

/// Where the database is when nothing is said.
pub const DATA_DIR_DEFAULT: &str = "haul-data";
/// Where downloads go when nothing is said.
pub const DOWNLOAD_DIR_DEFAULT: &str = "downloads";

/// The data directory and the download directory, as absolute paths.
pub(super) fn directories(args: &ServeArgs, wrong: &mut Vec<String>) -> (PathBuf, PathBuf) {
    let data = absolute("data_dir", args.data_dir.as_deref().unwrap_or(Path::new(DATA_DIR_DEFAULT)), wrong);
    // SQLite takes its path as a text.
    let data = data.filter(|path| {
        let is_text = path.to_str().is_some();
        if !is_text {
            wrong.push(format!("`data_dir` is `{}`, which is not UTF-8; choose another directory", path.display()));
        }
        is_text
    });
    let download =
        absolute("download_dir", args.download_dir.as_deref().unwrap_or(Path::new(DOWNLOAD_DIR_DEFAULT)), wrong);
    // What is no path was refused above: one mistake, one message.
    if let (Some(data), Some(download)) = (&data, &download)
        && let Some((how, what)) = overlap(&resolved(data), &resolved(download))
    {
        wrong.push(format!(
            "`download_dir` (`{}`) {how} `data_dir` (`{}`), so {what}; choose another `download_dir`, beside it",
            download.display(),
            data.display()
        ));
    }
    (data.unwrap_or_default(), download.unwrap_or_default())
}

/// The directories of tenants, as absolute paths: none of them is, holds or is within another one, or those of the server.
pub(super) fn tenant_directories(
    args: &ServeArgs,
    data: &Path,
    download: &Path,
    wrong: &mut Vec<String>,
) -> BTreeMap<String, PathBuf> {
    let mut taken = vec![("data_dir".to_owned(), resolved(data)), ("download_dir".to_owned(), resolved(download))];
    let mut found = BTreeMap::new();
    for (name, tenant) in args.tenants.iter().flatten() {
        if name == DEFAULT_TENANT {
            wrong.push("`tenants.default` is the tenant of `download_dir`; set that".to_owned());
            continue;
        }
        if let Some(rule) = name_objection(name) {
            wrong.push(format!("`tenants.{name}` is not the name of a tenant: it {rule}"));
            continue;
        }
        let setting = format!("tenants.{name}.download_dir");
        let Some(path) = absolute(&setting, &tenant.download_dir, wrong) else { continue };
        let real = resolved(&path);
        for (other, there) in &taken {
            if real.starts_with(there) || there.starts_with(&real) {
                wrong.push(format!(
                    "`{setting}` (`{}`) and `{other}` lie in each other, so one could reach what is of the other; choose \
                     directories beside each other",
                    path.display()
                ));
            }
        }
        taken.push((setting, real));
        found.insert(name.clone(), path);
    }
    found
}

fn absolute(name: &str, path: &Path, wrong: &mut Vec<String>) -> Option<PathBuf> {
    std::path::absolute(path)
        .inspect_err(|error| {
            let path = path.display();
            wrong.push(format!("`{name}` is `{path}`, which is not a valid path ({error}); name a directory"));
        })
        .ok()
}

/// How the two lie in each other, if they do, and what would come of it.
fn overlap(data: &Path, download: &Path) -> Option<(&'static str, &'static str)> {
    if data == download {
        Some(("is", "a download could replace the database"))
    } else if data.starts_with(download) {
        Some(("holds", "a download could replace the database"))
    } else if download.starts_with(data) {
        Some(("is within", "downloads would be readable by this user alone, and lost with the database"))
    } else {
        None
    }
}

/// Follows the symbolic links of an absolute path as far as it exists, and takes `.` and `..` out of the rest.
fn resolved(path: &Path) -> PathBuf {
    let mut done = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                done.pop();
            }
            Component::CurDir => {}
            component => done.push(component),
        }
        // What does not exist, or cannot be looked at, stays as it is written.
        if let Ok(real) = done.canonicalize() {
            done = real;
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn refused(data: &Path, download: &Path) -> Option<String> {
        let args = ServeArgs {
            data_dir: Some(data.to_owned()),
            download_dir: Some(download.to_owned()),
            ..ServeArgs::default()
        };
        let mut wrong = Vec::new();
        let (found_data, found_download) = directories(&args, &mut wrong);
        assert!(found_data.is_absolute() && found_download.is_absolute());
        assert!(wrong.len() < 2, "{wrong:?}");
        wrong.pop()
    }

    #[test]
    fn neither_directory_is_within_the_other() {
        let place = tempfile::tempdir().unwrap();
        let at = |path: &str| place.path().join(path);
        std::fs::create_dir_all(at("data/deep")).unwrap();
        symlink(at("data"), at("link")).unwrap();
        symlink(at("data/deep"), at("jump")).unwrap();
        for (data, download, how) in [
            ("data", "data", " is `data_dir`"),
            ("data", "link", " is `data_dir`"),
            ("new", "link/../new", " is `data_dir`"),
            ("data", "", " holds `data_dir`"),
            ("data/deep", "link", " holds `data_dir`"),
            ("data", "data/downloads", " is within `data_dir`"),
            ("link", "data/deep/downloads", " is within `data_dir`"),
            ("data", "new/../link/./downloads", " is within `data_dir`"),
        ] {
            let message = refused(&at(data), &at(download)).unwrap_or_else(|| panic!("{data} and {download}"));
            assert!(message.replace(&format!(" (`{}`)", at(download).display()), "").contains(how), "{message}");
        }
        for (data, download) in [("data", "data2"), ("data", "data/../downloads"), ("data", "jump/../../downloads")] {
            assert_eq!(refused(&at(data), &at(download)), None, "{data} and {download}");
        }
    }

    #[test]
    fn directories_of_tenants_lie_beside_each_other() {
        let place = tempfile::tempdir().unwrap();
        let at = |path: &str| place.path().join(path);
        let refused = |tenants: &[(&str, &str)]| {
            let dir = |path: &str| crate::config::choices::TenantArgs { download_dir: at(path) };
            let tenants = tenants.iter().map(|(name, path)| ((*name).to_owned(), dir(path))).collect();
            let args = ServeArgs { tenants: Some(tenants), ..ServeArgs::default() };
            let mut wrong = Vec::new();
            tenant_directories(&args, &at("data"), &at("down"), &mut wrong);
            wrong.join("; ")
        };
        assert_eq!(refused(&[("a", "a"), ("b", "b")]), "");
        for bad in [
            &[("a", "down")][..],
            &[("a", "down/a")],
            &[("a", "data/a")],
            &[("a", "")],
            &[("a", "x"), ("b", "x")],
            &[("a", "x"), ("b", "x/y")],
            &[("a", "x/../down/y")],
        ] {
            assert!(refused(bad).contains("lie in each other"), "{bad:?}");
        }
        assert!(refused(&[("default", "d")]).contains("download_dir") && refused(&[("A", "d")]).contains("letters"));
    }

    #[test]
    fn what_is_no_path_is_refused_once() {
        let mut wrong = Vec::new();
        directories(&ServeArgs { data_dir: Some(PathBuf::new()), ..ServeArgs::default() }, &mut wrong);
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        assert!(wrong[0].starts_with("`data_dir` is ``"), "{wrong:?}");
    }
}
