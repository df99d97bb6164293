//! Import circles between files, found in their text. Pure: files come in as pairs of a module path and its code.

use std::collections::{BTreeMap, BTreeSet};

use crate::is_word;

/// Who imports whom: for each file the files that its code names.
pub(crate) fn imports(files: &[(String, String)]) -> BTreeMap<String, BTreeSet<String>> {
    let is_file = |path: &str| files.iter().any(|(module, _)| module == path);
    // The deepest file on the way: what follows is an item of it.
    let file_of = |path: &str| {
        let ends = path.match_indices("::").map(|(end, _)| end).chain([path.len()]);
        ends.map(|end| &path[..end]).filter(|way| is_file(way)).last().map(str::to_owned)
    };
    files
        .iter()
        .map(|(module, code)| {
            let named = paths(module, code).into_iter().filter_map(|path| file_of(&path)).filter(|file| file != module);
            (module.clone(), named.collect())
        })
        .collect()
}

/// The paths of this crate that `code` of `module` names, from the crate's root: behind `crate::`, `super::` and `self::`.
/// Paths from a `mod.rs` to its own children do not count: the face of a module passes on what they make of its words.
fn paths(module: &str, code: &str) -> BTreeSet<String> {
    let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
    let mut found = BTreeSet::new();
    for (mark, base) in [("crate::", ""), ("super::", parent), ("self::", module)] {
        for (at, _) in code.match_indices(mark) {
            if !code[..at].ends_with(|before| is_word(before) || before == ':') {
                follow(base, &code[at + mark.len()..], &mut found);
            }
        }
    }
    found
}

/// Collects the paths that `rest` continues `base` with, and returns what stands behind them: a word, a word and more, or
/// several in braces.
fn follow<'a>(base: &str, rest: &'a str, found: &mut BTreeSet<String>) -> &'a str {
    let rest = rest.trim_start();
    if let Some(mut rest) = rest.strip_prefix('{') {
        while !rest.is_empty() {
            rest = follow(base, rest, found);
            // Over `as NAME`, which is no path.
            let at = rest.find([',', '}']).unwrap_or(rest.len());
            let is_last = !rest[at..].starts_with(',');
            rest = rest.get(at + 1..).unwrap_or("");
            if is_last {
                break;
            }
        }
        return rest;
    }
    let end = rest.find(|letter| !is_word(letter)).unwrap_or(rest.len());
    let (word, rest) = rest.split_at(end);
    let path = match (base, word) {
        (_, "" | "self") => base.to_owned(),
        ("", _) => word.to_owned(),
        _ => format!("{base}::{word}"),
    };
    if let Some(more) = rest.strip_prefix("::").filter(|more| more.starts_with(|next| is_word(next) || next == '{')) {
        return follow(&path, more, found);
    }
    if !path.is_empty() {
        found.insert(path);
    }
    rest
}

/// One way round through each group of files that reach each other, and then the rest of the group.
pub(crate) fn find(imports: &BTreeMap<String, BTreeSet<String>>) -> Vec<Vec<String>> {
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        imports.keys().map(|file| (file.as_str(), reached_from(file, imports))).collect();
    let mut seen = BTreeSet::new();
    let mut circles = Vec::new();
    for file in imports.keys().map(String::as_str).filter(|file| reached[file].contains(file)) {
        if seen.contains(file) {
            continue;
        }
        let group: BTreeSet<&str> =
            reached[file].iter().copied().filter(|other| reached[other].contains(file)).collect();
        let mut way = vec![file];
        // Always on to the first that is new: it ends where only known ones are left.
        while let Some(next) = imports[way[way.len() - 1]]
            .iter()
            .find(|next| group.contains(next.as_str()) && !way.contains(&next.as_str()))
        {
            way.push(next);
        }
        let others = group.iter().copied().filter(|other| !way.contains(other)).collect::<Vec<_>>();
        way.extend(others);
        seen.extend(group);
        circles.push(way.into_iter().map(str::to_owned).collect());
    }
    circles
}

/// Every file that `start` imports, itself or through others; with `start` when it is on a circle.
fn reached_from<'a>(start: &str, imports: &'a BTreeMap<String, BTreeSet<String>>) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&str> = imports[start].iter().map(String::as_str).collect();
    while let Some(file) = open.pop() {
        if reached.insert(file) {
            open.extend(imports[file].iter().map(String::as_str));
        }
    }
    reached
}

/// What is wrong with `circles` when those `known` are allowed, in part or as a whole, and nothing but those.
pub(crate) fn judge(circles: &[Vec<String>], known: &[&[&str]]) -> Vec<String> {
    let is_known =
        |circle: &Vec<String>| known.iter().any(|allowed| circle.iter().all(|file| allowed.contains(&file.as_str())));
    let new = circles
        .iter()
        .filter(|circle| !is_known(circle))
        .map(|circle| format!("{} import each other; move what they share into a file of its own", circle.join(", ")));
    let names = known.iter().copied().flatten();
    let stale = names
        .filter(|name| !circles.iter().flatten().any(|file| file == *name))
        .map(|name| format!("tests/tidy.rs: `{name}` is on no circle any more; delete it from CIRCLES"));
    new.chain(stale).collect()
}

#[test]
fn paths_are_found_in_every_form() {
    let found = |module: &str, code: &str| paths(module, code).into_iter().collect::<Vec<_>>().join(" ");
    let tree = "use crate::a::{self, b::{c,\n d as e}, f::*};\nuse crate::g as h;\nuse std::i;";
    assert_eq!(found("x", tree), "a a::b::c a::b::d a::f g");
    assert_eq!(found("x", "pub(in crate::a) fn f(_: crate::b::C<crate::d::E>) { crate::g::h!() }"), "a b::C d::E g::h");
    assert_eq!(
        found("x::y", "use super::a::B; self::c::d(); use super::{e, f::G};"),
        "x::a::B x::e x::f::G x::y::c::d"
    );
    assert_eq!(found("x", "mod y;\npub use y::Z;\nfn f() { y::g(); my_crate::i(); a::self::j() }"), "", "a face");
}

#[test]
fn circles_are_found_and_allowed_by_name() {
    let files: Vec<_> = [
        ("a", "use crate::b::c::D;"),
        ("b", "use crate::a::E;"),
        ("b::c", "use crate::b::F; use crate::g;"),
        ("g", "use crate::h; use crate::g::I;"),
        ("h", "use crate::unknown::J;"),
    ]
    .map(|(module, code)| (module.to_owned(), code.to_owned()))
    .into();
    let circles = find(&imports(&files));
    assert_eq!(circles, [["a", "b::c", "b"]], "the way round, from its first name");
    assert!(judge(&circles, &[&["a", "b", "b::c"]]).is_empty());
    assert_eq!(judge(&circles, &[]).len(), 1, "unknown");
    assert_eq!(judge(&circles, &[&["a", "b"], &["b::c"]]).len(), 1, "larger than each that is known");
    assert_eq!(judge(&circles, &[&["a", "b", "b::c", "g"]]).len(), 1, "`g` is in none any more");
}
