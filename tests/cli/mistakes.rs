//! Command lines that cannot be: what is said, and how it begins.

use std::process::Command;

use crate::support::server::haul;

/// The exit code, and what is said.
fn refused(args: &[&str]) -> (i32, String) {
    let output = haul(args);
    assert!(output.stdout.is_empty(), "{args:?}");
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn each_says_who_speaks_and_what_to_do() {
    for (args, parts) in [
        (&["lst"][..], &["`haul` has no command `lst`", "did you mean `list`?"][..]),
        (&["get", "-o", "json", "http://a/"], &["`haul get` does not take `-o`", "see `haul get --help`"]),
        (&["list", "--limit", "-1"], &["`--limit` is `-1`; it must be at least 0"]),
        (&["get", "--jobs", "0", "http://a/"], &["`--jobs` is `0`; it must be from 1 to 256"]),
        (&["cat", "--length", "0", "a", "b"], &["`--length` is `0`; it must be at least 1"]),
        (&["submit", "--mode", "x", "http://a/"], &["`--mode` is `x`", "`fail-fast`, `collect` or `first-success`"]),
        (&["submit", "-f", "job.json", "--fetch"], &["a job file says of each task what it does; leave out `--fetch`"]),
        (&["limits", "--max-concurrent", "3"], &["name it with `--host`", "`--max-concurrent-tasks`"]),
        (&["show"], &["`haul show` needs `JOB`", "see `haul show --help`"]),
        (&["token", "bogus"], &["`haul token` has no command `bogus`"]),
        (&["seal", "a", "b"], &["`haul seal` does not take `b`"]),
        (&["list", "--output=json", "--output=text"], &["`--output` is given twice"]),
    ] {
        let (code, said) = refused(args);
        assert_eq!(code, 2, "{args:?}: {said}");
        assert!(said.starts_with("haul: ") && said.lines().count() == 1, "{args:?}: {said}");
        for part in parts {
            assert!(said.contains(part), "{args:?}: {part} in {said}");
        }
        for words in ["tip:", "Usage:", "error:", "..=", "digit", "try '--help'"] {
            assert!(!said.contains(words), "{args:?}: {words} in {said}");
        }
    }
    for args in [&[][..], &["token"]] {
        let (code, said) = refused(args);
        assert!(code == 2 && said.lines().last().unwrap().starts_with("haul: name one of"), "{said}");
    }
}

#[test]
fn a_variable_that_is_wrong_is_named_and_not_its_flag() {
    let mut serve = Command::new(env!("CARGO_BIN_EXE_haul"));
    let output = serve.args(["serve", "--check"]).env("HAUL_MAX_PER_HOST", "abc").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.starts_with("haul: `HAUL_MAX_PER_HOST` is `abc`; it must be a whole number"), "{said}");
}
