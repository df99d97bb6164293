//! The file of the settings: read within bounds, and what is wrong with it told with its line.

use std::io::Read as _;
use std::path::Path;

use crate::config::raw::ServeArgs;
use crate::model::misfit;
use crate::model::text::shown;
use crate::named_file;

/// No settings are as long; a device never ends.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads a settings file.
pub fn read_file(path: &Path) -> Result<ServeArgs, String> {
    let mut bytes = Vec::new();
    let read = named_file::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    read.map_err(|error| {
        format!("the settings file `{}` cannot be read ({error}); correct `--config` or its rights", path.display())
    })?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("the settings file `{}` is longer than 1 MiB; correct `--config`", path.display()));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let read = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = String::from_utf8_lossy(read).matches('\n').count() + 1;
        format!("the settings file `{}` is not UTF-8, in line {line}; save it as UTF-8", path.display())
    })?;
    // Editors of other systems begin a file with a byte order mark.
    parse_file(text.strip_prefix('\u{feff}').unwrap_or(&text), path)
}

/// Reads the text of the settings file `path`.
pub fn parse_file(text: &str, path: &Path) -> Result<ServeArgs, String> {
    toml::from_str(text).map_err(|error| {
        let before = error.span().map_or("", |span| text.get(..span.start).unwrap_or_default());
        let line = before.matches('\n').count() + 1;
        let key = before.lines().last().and_then(|line| line.split_once('=')).map(|(key, _)| key.trim());
        let what = said(error.message(), key);
        format!("the settings file `{}` is invalid in line {line}: {what}", path.display())
    })
}

/// Says what the parser found wrong with the value of a key.
fn said(message: &str, key: Option<&str>) -> String {
    let value = key.map_or_else(|| "the value".to_owned(), |key| format!("`{}`", shown(key)));
    if let Some(wanted) = misfit::wanted(message) {
        return format!("{value} must be {wanted}");
    }
    if let Some(rest) = message.strip_prefix("unknown field `") {
        let name = rest.split('`').next().unwrap_or_default();
        return format!(
            "there is no setting `{}`; `haul serve --help` has them all, `_` stands for `-` in the file",
            shown(name)
        );
    }
    if let Some((given, choices)) =
        message.strip_prefix("unknown variant `").and_then(|it| it.split_once("`, expected "))
    {
        return format!("{value} is `{}`; it must be {}", shown(given), choices.trim_start_matches("one of "));
    }
    message.to_owned()
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command};

    use super::*;

    #[test]
    fn flag_environment_and_file_name_the_same() {
        let command = ServeArgs::augment_args(Command::new("haul"));
        for arg in command.get_arguments().filter(|arg| arg.get_env().is_some()) {
            let name = arg.get_long().unwrap().replace('-', "_");
            assert_eq!(arg.get_env().unwrap().to_str().unwrap(), format!("HAUL_{}", name.to_uppercase()));
            assert_eq!(arg.get_id().as_str(), name);
            if name == "config" {
                continue;
            }
            // The file knows the key: what it says about it, if anything, is about the value.
            let error = parse_file(&format!("{name} = {{}}"), Path::new("f")).unwrap_err();
            assert!(!error.contains("there is no setting"), "{error}");
        }
    }

    #[test]
    fn unknown_keys_and_wrong_types_are_told_with_their_line() {
        let messages: Vec<_> = [
            "listen = 'x'\nlisten_on = 'y'",
            "max_per_host = 'many'",
            "= 1",
            "config = 'x'",
            "max_per_host = 99999999999999999999",
            "max_per_host = -1",
            "allow_ports = '80,443'",
            "shutdown_grace = true",
            "disk_reserve = '1 furlong'",
            "disk_reserve = -1",
            "auth = 'x'",
            "log_format = 5",
            "trace_ratio = 'x'",
            "grpc_web = 'yes'",
            "[[identity]]\nprincipal = 'a'\nunix_uid = 'x'",
            "[tenants]\nacme = 5",
        ]
        .iter()
        .map(|text| parse_file(text, Path::new("haul.toml")).unwrap_err())
        .collect();
        insta::assert_snapshot!(messages.join("\n---\n"));
    }

    #[test]
    fn a_file_is_read_as_editors_write_it_and_within_bounds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("haul.toml");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            read_file(&path).map_err(|message| message.replace(&path.display().to_string(), "FILE"))
        };
        let expected = ServeArgs { max_per_host: Some(3), ..ServeArgs::default() };
        assert_eq!(read(b"max_per_host = 3\n"), Ok(expected.clone()));
        assert_eq!(read(b"\xef\xbb\xbf# settings\r\nmax_per_host = 3\r\n"), Ok(expected));
        assert_eq!(read(b""), Ok(ServeArgs::default()));
        let messages = [
            read(b"# settings\nlisten = '\xe9'\n").unwrap_err(),
            read(b"\xff\xfel\0i\0").unwrap_err(),
            read(&vec![b'\n'; 2 << 20]).unwrap_err(),
            read_file(Path::new("/dev/zero")).unwrap_err(),
            read_file(Path::new("/")).unwrap_err(),
            read_file(Path::new("/does/not/exist")).unwrap_err(),
        ];
        insta::assert_snapshot!(messages.join("\n"));
    }
}
