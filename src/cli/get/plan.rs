//! What `haul get` is asked for, as the tasks and settings of one run.

use std::collections::{HashMap, HashSet};
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use tonic_types::StatusExt as _;
use url::Url;

use crate::cli::args::Usage;
use crate::cli::lists::{self, Entry, List};
use crate::config::sizes::parse_size;
use crate::model::checksum::Checksum;
use crate::model::header::{begins_header, is_header};
use crate::model::secret::is_secret_header;
use crate::model::spec::{DownloadSpec, OnConflict, TaskOptions, TaskSpec, Work};
use crate::named_file;
use crate::pb;
use crate::server::{self, EnvironmentProxies, Root, made_from, names, with_scheme};

/// The most bytes of a file that holds a token or certificates.
const SMALL_FILE_BYTES_MAX: u64 = 64 << 10;
/// Attempts of a task when nothing is said.
const ATTEMPTS_DEFAULT: u32 = 5;

/// What to get.
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// What to download
    #[arg(value_name = "URL")]
    urls: Vec<String>,
    /// A list of URLs, one a line, `#` begins a comment; `-` reads stdin
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// The directory that files go to
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    directory: PathBuf,
    /// The name of the file; for one URL
    #[arg(short = 'O', long, value_name = "NAME")]
    output_file: Option<PathBuf>,
    /// The checksum that the file must have, as `sha256:HEX`; for one URL
    #[arg(long, value_name = "ALGO:HEX")]
    checksum: Option<String>,

    /// A header of each request; may be repeated
    #[arg(long = "header", value_name = "NAME: VALUE", help_heading = "Requests")]
    headers: Vec<String>,
    /// The user name and password of each request (basic authentication)
    #[arg(long, value_name = "NAME:PASSWORD", conflicts_with = "bearer_from", help_heading = "Requests")]
    user: Option<String>,
    /// A file with the bearer token of each request
    #[arg(long, value_name = "FILE", help_heading = "Requests")]
    bearer_from: Option<PathBuf>,
    /// The proxy, as `http://HOST:PORT` or `socks5h://HOST:PORT`; empty for none [default: as the environment says]
    #[arg(long, value_name = "URL", help_heading = "Requests")]
    proxy: Option<String>,
    /// A file of certificates, in PEM, that are trusted beside the system's
    #[arg(long, value_name = "FILE", help_heading = "Requests")]
    cacert: Option<PathBuf>,
    /// Accept any certificate
    #[arg(long, help_heading = "Requests")]
    insecure: bool,

    /// The most files at once
    #[arg(short, long, value_name = "N", default_value_t = 4, help_heading = "Transfers",
          value_parser = clap::value_parser!(u32).range(1..=256))]
    jobs: u32,
    /// The most connections to one file at once [default: by its size]
    #[arg(long, value_name = "N", help_heading = "Transfers", value_parser = clap::value_parser!(u32).range(1..=64))]
    connections: Option<u32>,
    /// Bytes per second of all files together, as `500k` or `10MiB`
    #[arg(long, value_name = "BYTES", help_heading = "Transfers", value_parser = parse_size)]
    limit_rate: Option<u64>,
    /// Attempts at a file after the first one failed [default: 4]
    #[arg(long, value_name = "N", help_heading = "Transfers", value_parser = clap::value_parser!(u32).range(0..=999))]
    retries: Option<u32>,
}

/// One run.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Where files go.
    pub(crate) directory: PathBuf,
    /// One download each.
    pub(crate) tasks: Vec<TaskSpec>,
    /// Options of all of them.
    pub(crate) options: TaskOptions,
    /// Attempts that each of them has.
    pub(crate) attempts: u32,
    /// The most files at once.
    pub(crate) jobs: u32,
    /// The most connections to one file at once; 0: by its size.
    pub(crate) connections: u32,
    /// Of all files together; 0: no limit.
    pub(crate) bytes_per_second: u64,
    /// Those of the environment, unless a flag says otherwise.
    pub(crate) proxies: Option<Arc<EnvironmentProxies>>,
    /// The ports of the URLs and of the proxies, which may be asked though another protocol than HTTP has them.
    pub(crate) ports: Vec<u16>,
}

impl Plan {
    /// Reads the arguments. The error says everything that is wrong with the URLs, or the first thing that is with the rest.
    pub(crate) fn of(args: &GetArgs) -> Result<Plan, Usage> {
        let entries = entries(args)?;
        let options = options(args)?;
        let (mut directory, mut path) = (args.directory.clone(), String::new());
        let one = |flag: &str| Usage(format!("`{flag}` is for one URL, and there are {}", entries.len()));
        if let Some(file) = &args.output_file {
            if entries.len() > 1 {
                return Err(one("--output-file"));
            }
            (directory, path) = place(&args.directory, file)?;
        }
        let mut checksums = Vec::new();
        if let Some(text) = &args.checksum {
            if entries.len() > 1 {
                return Err(one("--checksum"));
            }
            let read = text.parse::<Checksum>();
            checksums
                .push(read.map_err(|error| Usage(format!("`--checksum` is `{text}`, which is invalid: {error}")))?);
        }
        let connections = args.connections.unwrap_or(0);
        // Chosen anew for each request, since a redirect may lead to where another one is for, or none.
        let from_environment = || EnvironmentProxies::read(|name| std::env::var(name).ok());
        let proxies = args.proxy.is_none().then(|| Arc::new(from_environment()));
        let proxy = args.proxy.as_deref().and_then(|text| url::Url::parse(&proxy_url(text)).ok());
        let named = entries.iter().map(|entry| &entry.url).chain(&proxy).filter_map(url::Url::port);
        let ports = named.chain(proxies.iter().flat_map(|proxies| proxies.ports())).collect();
        // A directory that is not there has none of them.
        let root = directory.is_dir().then(|| Root::open(&directory).ok()).flatten();
        let made = |name: &str, url: &Url| root.as_ref().and_then(|root| made_from(root, name, url));
        let tasks = downloads(&entries, made)
            .into_iter()
            .map(|(entry, name)| {
                let download = DownloadSpec {
                    url: entry.text.clone(),
                    path: if path.is_empty() { name } else { path.clone() },
                    checksums: checksums.clone(),
                    on_conflict: Some(OnConflict::Skip),
                    max_connections: connections,
                    ..DownloadSpec::default()
                };
                TaskSpec { key: String::new(), work: Work::Download(download), options: TaskOptions::default().into() }
            })
            .collect();
        Ok(Plan {
            directory,
            tasks,
            attempts: options.retry.max_attempts.unwrap_or(ATTEMPTS_DEFAULT),
            options,
            jobs: args.jobs,
            connections,
            bytes_per_second: args.limit_rate.unwrap_or(0),
            proxies,
            ports,
        })
    }
}

/// The URLs of the command line, then those of the list.
fn entries(args: &GetArgs) -> Result<Vec<Entry>, Usage> {
    let typed = args.urls.iter().map(|text| Entry::typed(text).map_err(lists::ListError::Line));
    let list = args.input.as_deref().map(List::open).transpose()?;
    let entries = lists::collected(typed.chain(list.into_iter().flatten()))?;
    if entries.is_empty() {
        return Err(Usage("nothing to get; name a URL, or a list of them with `-i FILE`".to_owned()));
    }
    Ok(entries)
}

/// The options of all tasks, checked as those of a submitted job are.
fn options(args: &GetArgs) -> Result<TaskOptions, Usage> {
    let basic_auth = args.user.as_deref().map(|user| {
        let (username, password) = user
            .split_once(':')
            .ok_or_else(|| Usage("`--user` has no password; write it like `--user NAME:PASSWORD`".to_owned()))?;
        Ok(pb::BasicAuth { username: username.to_owned(), password: password.to_owned() })
    });
    let bearer_token = match &args.bearer_from {
        None => String::new(),
        Some(path) => {
            let token = small_file("--bearer-from", path)?.trim().to_owned();
            if token.is_empty() {
                return Err(Usage(format!("`--bearer-from`: `{}` holds no token", path.display())));
            }
            token
        }
    };
    let http = pb::HttpOptions {
        headers: args.headers.iter().map(|text| header(text)).collect::<Result<_, Usage>>()?,
        basic_auth: basic_auth.transpose()?,
        bearer_token,
        proxy_url: args.proxy.as_deref().map(proxy_url).unwrap_or_default(),
        ca_pem: args.cacert.as_deref().map(|path| small_file("--cacert", path)).transpose()?.unwrap_or_default(),
        insecure_skip_verify: args.insecure.then_some(true),
        ..Default::default()
    };
    let retry = pb::RetryPolicy { max_attempts: args.retries.map(|retries| retries + 1), ..Default::default() };
    server::task_options(pb::TaskOptions { http: Some(http), retry: Some(retry), ..Default::default() })
        .map_err(|status| invalid(&status))
}

/// The URL of a proxy that may have been written as `HOST:PORT`.
fn proxy_url(text: &str) -> String {
    let is_number = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let has_port = text.rsplit_once(':').is_some_and(|(_, port)| is_number(port));
    if has_port { with_scheme(text) } else { text.to_owned() }
}

/// Says what is wrong by the names of flags.
fn invalid(status: &tonic::Status) -> Usage {
    const FLAGS: [(&str, &str); 6] = [
        ("http.headers", "--header"),
        ("http.basic_auth", "--user"),
        ("http.bearer_token", "--bearer-from"),
        ("http.proxy_url", "--proxy"),
        ("http.ca_pem", "--cacert"),
        ("retry.max_attempts", "--retries"),
    ];
    let violations = status.get_details_bad_request().map(|request| request.field_violations).unwrap_or_default();
    let line = |violation: &tonic_types::FieldViolation| {
        let flag = FLAGS.iter().find(|(field, _)| violation.field.contains(field)).map(|(_, flag)| *flag);
        format!("`{}` {}", flag.unwrap_or(&violation.field), violation.description)
    };
    let lines: Vec<String> = violations.iter().map(line).collect();
    Usage(if lines.is_empty() { status.message().to_owned() } else { lines.join("\n") })
}

/// A header as curl writes it.
fn header(text: &str) -> Result<pb::Header, Usage> {
    let (name, value) = text.split_once(':').ok_or_else(|| {
        Usage("a `--header` has no colon; write it like `--header 'Accept: application/json'`".to_owned())
    })?;
    if is_header(name.trim(), "range") || begins_header(name.trim(), "if-") {
        return Err(Usage(format!(
            "`--header`: `{}` is set by haul, which decides what a download asks for",
            name.trim()
        )));
    }
    let sensitive = is_secret_header(name.trim());
    Ok(pb::Header { name: name.trim().to_owned(), value: value.trim().to_owned(), sensitive })
}

fn small_file(flag: &str, path: &Path) -> Result<String, Usage> {
    let wrong = |why: String| Usage(format!("`{flag}`: cannot read `{}`: {why}", path.display()));
    let mut text = String::new();
    let file = named_file::open(path).map_err(|error| wrong(error.to_string()))?;
    let read = file.take(SMALL_FILE_BYTES_MAX + 1).read_to_string(&mut text);
    read.map_err(|error| wrong(error.to_string()))?;
    if text.len() as u64 > SMALL_FILE_BYTES_MAX { Err(wrong("it is larger than 64 KiB".to_owned())) } else { Ok(text) }
}

/// The directory and the name that an output file stands for, below `directory` unless it is absolute.
fn place(directory: &Path, file: &Path) -> Result<(PathBuf, String), Usage> {
    let wrong = |why: &str| Usage(format!("`--output-file` is `{}`, which {why}", file.display()));
    if file == Path::new("-") {
        return Err(wrong("cannot be stdout, since a download is resumed and verified in a file; name one"));
    }
    let is_name = !file.to_string_lossy().ends_with('/');
    let name = file.file_name().filter(|_| is_name).ok_or_else(|| wrong("does not name a file"))?;
    let name = name.to_str().ok_or_else(|| wrong("is not UTF-8"))?;
    names::check(name).map_err(|failure| Usage(format!("`--output-file`: {}", failure.message)))?;
    let folder = file.parent().unwrap_or(Path::new(""));
    let directory = walked(&directory.join(folder));
    // A file of somebody else is left alone, and has a sibling; what is no file has none that anybody would look for.
    match directory.join(name).symlink_metadata() {
        Ok(there) if !there.is_file() => Err(wrong("is there already and is not a file")),
        _ => Ok((directory, name.to_owned())),
    }
}

/// A path without the steps that lead into a directory that is not there and back out of it, which would be made for them.
fn walked(path: &Path) -> PathBuf {
    let mut walked = PathBuf::new();
    for step in path.components() {
        let leads_back =
            step == Component::ParentDir && matches!(walked.components().next_back(), Some(Component::Normal(_)));
        if leads_back && !walked.exists() {
            walked.pop();
        } else {
            walked.push(step);
        }
    }
    walked
}

/// Each URL once, with the name of its file where that is not left to the origin: a URL that is named twice would write the
/// same part, and of two files whose URLs end alike the second gets a name of its own. That is the one which it has from an
/// earlier run, as `made` says, in whichever order that had them.
fn downloads(entries: &[Entry], made: impl Fn(&str, &Url) -> Option<String>) -> Vec<(&Entry, String)> {
    let mut seen = HashSet::new();
    let mut alike = HashMap::<String, u32>::new();
    let mut downloads = Vec::new();
    for entry in entries {
        // The fragment is not sent, and not part of what is got.
        let mut place = entry.url.clone();
        place.set_fragment(None);
        if seen.insert(place) {
            let name = names::from_url(&entry.url).unwrap_or_else(|| names::FALLBACK.to_owned());
            *alike.entry(name.to_lowercase()).or_default() += 1;
            downloads.push((entry, name));
        }
    }
    let has_namesake = |name: &str| alike.get(&name.to_lowercase()).is_some_and(|count| *count > 1);
    let own = |(entry, name): &(&Entry, String)| made(name, &entry.url);
    let own: Vec<Option<String>> = downloads.iter().map(|it| has_namesake(&it.1).then(|| own(it)).flatten()).collect();
    let owned: HashSet<String> = own.iter().flatten().map(|name| name.to_lowercase()).collect();
    let mut numbers = HashMap::<String, u32>::new();
    for ((_, name), own) in downloads.iter_mut().zip(own) {
        let key = name.to_lowercase();
        let Some(number) = numbers.get_mut(&key) else {
            numbers.insert(key, 0);
            name.clear();
            continue;
        };
        *name = own.unwrap_or_else(|| {
            loop {
                *number += 1;
                let candidate = names::candidate(name, *number);
                if !owned.contains(&candidate.to_lowercase()) {
                    return candidate;
                }
            }
        });
    }
    downloads
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::model::secret::Secret;

    #[derive(Parser)]
    struct GetLine {
        #[command(flatten)]
        args: GetArgs,
    }

    fn plan(args: &[&str]) -> Result<Plan, Usage> {
        Plan::of(&GetLine::try_parse_from(std::iter::once(&"get").chain(args)).unwrap().args)
    }

    #[test]
    fn each_url_once_and_each_file_under_a_name_of_its_own() {
        let urls =
            ["http://a/f.bin", "http://a/f.bin#part", "http://b/F.bin?x=1", "http://c/", "http://d/", "http://a/g"];
        let plan = plan(&urls).unwrap();
        let got = plan.tasks.iter().map(|task| match &task.work {
            Work::Download(download) => (download.url.as_str(), download.path.as_str()),
            Work::Fetch(_) => ("", ""),
        });
        let expected = [
            ("http://a/f.bin", ""),
            ("http://b/F.bin?x=1", "F (1).bin"),
            ("http://c/", ""),
            ("http://d/", "download (1)"),
            ("http://a/g", ""),
        ];
        assert_eq!(got.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_file_keeps_its_name_in_whichever_order_it_is_got() {
        let names = |urls: &[&str]| -> Vec<String> {
            let entries: Vec<Entry> = urls.iter().map(|url| Entry::typed(url).unwrap()).collect();
            let made = |_: &str, url: &Url| match url.path() {
                "/a/n" => Some("n".to_owned()),
                "/b/n" => Some("n (1)".to_owned()),
                _ => None,
            };
            downloads(&entries, made).into_iter().map(|(_, name)| name).collect()
        };
        assert_eq!(names(&["http://h/a/n", "http://h/b/n"]), ["", "n (1)"]);
        assert_eq!(names(&["http://h/b/n", "http://h/a/n"]), ["", "n"]);
        assert_eq!(
            names(&["http://h/c/n", "http://h/d/n", "http://h/b/n", "http://h/e/n"]),
            ["", "n (2)", "n (1)", "n (3)"]
        );
    }

    #[test]
    fn options_reach_the_tasks() {
        let plan = plan(&[
            "http://a:6000/f",
            "-O",
            "sub/x.bin",
            "--proxy",
            "http://p:25",
            "-d",
            "to",
            "--header",
            "X-A: b",
            "--user",
            "me:p:w",
            "--retries",
            "0",
            "--limit-rate",
            "1k",
            "--connections",
            "3",
        ])
        .unwrap();
        assert_eq!(plan.directory, Path::new("to/sub"));
        assert_eq!((plan.attempts, plan.bytes_per_second, plan.connections), (1, 1024, 3));
        assert_eq!(plan.ports, [6000, 25], "another protocol has them, and the user named them");
        let http = &plan.options.http;
        assert_eq!((http.headers[0].name.as_str(), http.headers[0].value.expose()), ("X-A", "b"));
        let (user, password) = http.basic_auth.as_ref().unwrap();
        assert_eq!((user.as_str(), password.expose()), ("me", "p:w"));
        assert!(matches!(&plan.tasks[0].work, Work::Download(download) if download.path == "x.bin"));
    }

    #[test]
    fn a_directory_that_is_left_again_is_not_made() {
        let here = tempfile::tempdir().unwrap();
        std::fs::create_dir(here.path().join("is")).unwrap();
        let under = |file: &str| {
            let plan = plan(&["http://a/f", "-d", here.path().to_str().unwrap(), "-O", file]).unwrap();
            plan.directory.strip_prefix(here.path()).unwrap().to_owned()
        };
        assert_eq!(under("no/../x"), Path::new(""));
        assert_eq!(under("no/../y/no/../../is/x"), Path::new("is"));
        assert_eq!(under("is/../y/x"), Path::new("is/../y"), "it may be a link");
    }

    #[test]
    fn a_proxy_needs_no_scheme() {
        let plan = plan(&["http://a/f", "--proxy", "proxy:25"]).unwrap();
        let url = plan.options.http.proxy_url.as_ref().map(Secret::expose);
        assert_eq!(url, Some("http://proxy:25"));
        assert_eq!(plan.ports, [25]);
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_flag() {
        for (args, part) in [
            (&["http://a/", "--header", "nonsense"][..], "--header"),
            (&["http://a/", "--header", "Host: b"], "`--header` "),
            (&["http://a/", "--user", "me"], "--user"),
            (&["http://a/", "--bearer-from", "/nowhere"], "--bearer-from"),
            (&["http://a/", "--cacert", "/nowhere"], "--cacert"),
            (&["http://a/", "--proxy", "ftp://p"], "`--proxy` "),
            (&["http://a/", "--proxy", "nonsense"], "`--proxy` "),
            (&["http://a/", "--proxy", "p:99999"], "`--proxy` has an invalid port"),
            (&["http://a/", "-O", "-"], "stdout"),
            (&["http://a/", "-O", "x/"], "does not name a file"),
            (&["http://a/", "-O", "/dev/null"], "is not a file"),
            (&["http://a/", "-d", "/", "-O", "dev"], "is not a file"),
            (&["http://a/", "http://b/", "-O", "x"], "for one URL"),
            (&["http://a/", "--checksum", "sha256:1"], "--checksum"),
            (&["a.example/x"], "did you mean"),
            (&[], "nothing to get"),
        ] {
            let error = plan(args).unwrap_err().to_string();
            assert!(error.contains(part), "{args:?}: {error}");
        }
    }
}
