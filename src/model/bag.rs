//! Takes the secrets out of what a client asked for, so that they can be kept apart from the rest, and puts them back.
//!
//! What is left has `$s` and a number in the place of each secret. The secrets are one run of bytes, the bag, each behind its
//! length. Secret are the values of all headers (who did not mark `X-Api-Key` must not pay for it), passwords, tokens, keys,
//! proxies, bodies of requests, and URLs with a user part or a secret in their query.

use url::Url;
use zeroize::Zeroizing;

use crate::model::secret::{REDACTED, Secret, holds_secret, is_redacted, is_secret_header, redacted_text};
use crate::model::spec::{HeaderSpec, HttpOptions, JobSpec, TaskOptions, TaskSpec, Work};

/// What stands in the place of a secret, before its number.
const MARK: &str = "$s";
/// Bytes of the length of a secret.
const LENGTH_BYTES: usize = 4;
/// Room for the secrets of most tasks, whose bag then does not grow. All of it is wiped in the end.
const BAG_BYTES: usize = 128;

/// A bag that does not fit what it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its bag does not have the secrets that it names")]
pub struct BadBag;

/// A place that a secret may have.
pub enum Slot<'a> {
    /// A secret by its type.
    Secret(&'a mut Secret),
    /// A URL, which need not hold a secret.
    Url(&'a mut String),
    /// The body of a request.
    Body(&'a mut Vec<u8>),
}

/// What has places for secrets.
pub trait Bagged: Clone {
    /// Returns whether there is any secret, without a copy of anything.
    fn has_secrets(&self) -> bool;
    /// Returns whether a mark stands in any place, without a copy of anything: what has one needs its bag.
    fn has_marks(&self) -> bool;
    /// Shows every place, in any order.
    fn slots(&mut self, visit: &mut dyn FnMut(Slot<'_>));
    /// Returns what goes with its requests, if that has secrets.
    fn http(&mut self) -> Option<&mut HttpOptions>;
}

/// Returns what is left of `whole` without its secrets, and the bag; `None` where there are none.
pub fn pack<T: Bagged>(whole: &T) -> Option<(T, Zeroizing<Vec<u8>>)> {
    if !whole.has_secrets() {
        return None;
    }
    let (mut left, mut bag, mut count) = (whole.clone(), Zeroizing::new(Vec::with_capacity(BAG_BYTES)), 0_u32);
    left.slots(&mut |slot| {
        let mark = mark(count);
        match slot {
            Slot::Secret(secret) => {
                add(&mut bag, secret.expose().as_bytes());
                *secret = Secret::new(mark);
            }
            Slot::Url(url) if holds_secret(url) => add(&mut bag, std::mem::replace(url, mark).as_bytes()),
            Slot::Body(body) if !body.is_empty() => add(&mut bag, &std::mem::replace(body, mark.into_bytes())),
            Slot::Url(_) | Slot::Body(_) => return,
        }
        count += 1;
    });
    Some((left, bag))
}

/// Puts the secrets of a bag back into what [`pack`] left.
pub fn unpack<T: Bagged>(left: &mut T, bag: &[u8]) -> Result<(), BadBag> {
    let secrets = secrets(bag)?;
    let (mut is_good, mut count) = (true, 0);
    left.slots(&mut |slot| {
        let marked = match &slot {
            Slot::Secret(secret) => place(secret.expose().as_bytes()),
            Slot::Url(url) => place(url.as_bytes()),
            Slot::Body(body) => place(body),
        };
        let found = marked.and_then(|place| secrets.get(place));
        let text = found.and_then(|secret| std::str::from_utf8(secret).ok());
        count += usize::from(found.is_some());
        match (slot, found, text) {
            (Slot::Secret(secret), _, Some(text)) => *secret = Secret::new(text),
            (Slot::Url(url), _, Some(text)) => text.clone_into(url),
            (Slot::Body(body), Some(bytes), _) => *body = bytes.to_vec(),
            // A URL without a secret stays as it is, and so does a body that is not there.
            (Slot::Url(_) | Slot::Body(_), None, _) => {}
            (Slot::Secret(_), None, _) | (_, Some(_), None) => is_good = false,
        }
    });
    if is_good && count == secrets.len() { Ok(()) } else { Err(BadBag) }
}

/// Puts [`REDACTED`] in the place of every secret. Returns whether there was one. Bodies and headers that are not marked stay.
pub fn erase<T: Bagged>(spec: &mut T) -> bool {
    let mut is_erased = false;
    if let Some(http) = spec.http() {
        let HttpOptions { headers, basic_auth, bearer_token, proxy_url, client_key_pem, .. } = http;
        let is_secret = |header: &&mut HeaderSpec| header.sensitive || is_secret_header(&header.name);
        let headers = headers.iter_mut().filter(is_secret).map(|header| &mut header.value);
        let password = basic_auth.as_mut().map(|(_, password)| password);
        let proxy = proxy_url.as_mut().filter(|proxy| holds_secret(proxy.expose()));
        let others = [password, bearer_token.as_mut(), proxy, client_key_pem.as_mut()];
        for secret in headers.chain(others.into_iter().flatten()).filter(|secret| secret.expose() != REDACTED) {
            *secret = Secret::new(REDACTED);
            is_erased = true;
        }
    }
    spec.slots(&mut |slot| {
        if let Slot::Url(url) = slot
            && holds_secret(url)
        {
            let seen = redacted_text(url);
            is_erased |= seen != *url;
            *url = seen;
        }
    });
    is_erased
}

/// Puts [`REDACTED`] in the place of every secret of what [`pack`] left, where its bag is lost.
pub fn forget<T: Bagged>(left: &mut T) {
    left.slots(&mut |slot| match slot {
        Slot::Secret(secret) if place(secret.expose().as_bytes()).is_some() => *secret = Secret::new(REDACTED),
        Slot::Url(url) if place(url.as_bytes()).is_some() => REDACTED.clone_into(url),
        Slot::Body(body) if place(body).is_some() => *body = REDACTED.as_bytes().to_vec(),
        Slot::Secret(_) | Slot::Url(_) | Slot::Body(_) => {}
    });
}

/// Returns whether something that the requests of a task need was erased, and reads [`REDACTED`]: no client can submit that in
/// the place of a secret. `is_gone`: the job says so of itself, and then bodies and plain headers may be erased too.
pub fn is_erased(job: &JobSpec, task: &TaskSpec, is_gone: bool) -> bool {
    let in_work = match &task.work {
        Work::Fetch(fetch) => url_is_erased(&fetch.url) || (is_gone && fetch.body == REDACTED.as_bytes()),
        Work::Download(download) => {
            url_is_erased(&download.url) || download.mirrors.iter().any(|url| url_is_erased(url))
        }
    };
    in_work || http_is_erased(&job.defaults.http, is_gone) || http_is_erased(&task.options.http, is_gone)
}

/// As [`is_erased`], of what goes with requests alone.
pub fn http_is_erased(http: &HttpOptions, is_gone: bool) -> bool {
    let HttpOptions { headers, basic_auth, bearer_token, proxy_url, client_key_pem, .. } = http;
    let is = |secret: &Secret| secret.expose() == REDACTED;
    let is_secret = |header: &&HeaderSpec| is_gone || header.sensitive || is_secret_header(&header.name);
    headers.iter().filter(is_secret).any(|header| is(&header.value))
        || basic_auth.as_ref().is_some_and(|(_, password)| is(password))
        || [bearer_token, proxy_url, client_key_pem].into_iter().flatten().any(is)
}

fn url_is_erased(url: &str) -> bool {
    // Few have the word, and only those are parsed.
    url.contains(REDACTED) && (url == REDACTED || Url::parse(url).is_ok_and(|url| is_redacted(&url)))
}

/// What stands in the place of a secret.
fn mark(number: u32) -> String {
    let mut mark = String::with_capacity(MARK.len() + 2);
    mark.push_str(MARK);
    // Few have more than ten secrets.
    match char::from_digit(number, 10) {
        Some(digit) => mark.push(digit),
        None => mark.push_str(&number.to_string()),
    }
    mark
}

fn add(bag: &mut Zeroizing<Vec<u8>>, secret: &[u8]) {
    let needed = bag.len() + LENGTH_BYTES + secret.len();
    if needed > bag.capacity() {
        let mut larger = Vec::with_capacity(needed.max(2 * bag.capacity()));
        larger.extend_from_slice(bag);
        // The old one is wiped.
        *bag = Zeroizing::new(larger);
    }
    bag.extend_from_slice(&(secret.len() as u32).to_be_bytes());
    bag.extend_from_slice(secret);
}

fn secrets(mut bag: &[u8]) -> Result<Vec<&[u8]>, BadBag> {
    let mut all = Vec::new();
    while let Some((length, rest)) = bag.split_first_chunk::<LENGTH_BYTES>() {
        let (secret, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or(BadBag)?;
        all.push(secret);
        bag = rest;
    }
    if bag.is_empty() { Ok(all) } else { Err(BadBag) }
}

/// Whether a text is the mark of a secret.
pub fn is_mark(text: &[u8]) -> bool {
    place(text).is_some()
}

/// The number behind the mark.
fn place(text: &[u8]) -> Option<usize> {
    std::str::from_utf8(text.strip_prefix(MARK.as_bytes())?).ok()?.parse().ok()
}

fn http_has_secrets(http: &HttpOptions) -> bool {
    let HttpOptions { headers, basic_auth, bearer_token, proxy_url, client_key_pem, .. } = http;
    !headers.is_empty()
        || basic_auth.is_some()
        || bearer_token.is_some()
        || proxy_url.is_some()
        || client_key_pem.is_some()
}

fn http_has_marks(http: &HttpOptions) -> bool {
    let HttpOptions { headers, basic_auth, bearer_token, proxy_url, client_key_pem, .. } = http;
    let headers = headers.iter().map(|header| &header.value);
    let password = basic_auth.as_ref().map(|(_, password)| password);
    let others = [password, bearer_token.as_ref(), proxy_url.as_ref(), client_key_pem.as_ref()];
    headers.chain(others.into_iter().flatten()).any(|secret| is_mark(secret.expose().as_bytes()))
}

fn http_slots(options: &mut TaskOptions, visit: &mut dyn FnMut(Slot<'_>)) {
    let HttpOptions { headers, basic_auth, bearer_token, proxy_url, client_key_pem, .. } = &mut options.http;
    let headers = headers.iter_mut().map(|header| &mut header.value);
    let password = basic_auth.as_mut().map(|(_, password)| password);
    let others = [password, bearer_token.as_mut(), proxy_url.as_mut(), client_key_pem.as_mut()];
    headers.chain(others.into_iter().flatten()).for_each(|secret| visit(Slot::Secret(secret)));
}

impl Bagged for JobSpec {
    fn has_secrets(&self) -> bool {
        http_has_secrets(&self.defaults.http)
    }

    fn has_marks(&self) -> bool {
        http_has_marks(&self.defaults.http)
    }

    fn slots(&mut self, visit: &mut dyn FnMut(Slot<'_>)) {
        http_slots(&mut self.defaults, visit);
    }

    fn http(&mut self) -> Option<&mut HttpOptions> {
        http_has_secrets(&self.defaults.http).then(|| &mut self.defaults.http)
    }
}

impl Bagged for TaskSpec {
    fn has_secrets(&self) -> bool {
        let in_work = match &self.work {
            Work::Fetch(fetch) => !fetch.body.is_empty() || holds_secret(&fetch.url),
            Work::Download(download) => {
                holds_secret(&download.url) || download.mirrors.iter().any(|url| holds_secret(url))
            }
        };
        in_work || http_has_secrets(&self.options.http)
    }

    fn has_marks(&self) -> bool {
        let in_work = match &self.work {
            Work::Fetch(fetch) => is_mark(fetch.url.as_bytes()) || is_mark(&fetch.body),
            Work::Download(download) => {
                is_mark(download.url.as_bytes()) || download.mirrors.iter().any(|url| is_mark(url.as_bytes()))
            }
        };
        in_work || http_has_marks(&self.options.http)
    }

    fn slots(&mut self, visit: &mut dyn FnMut(Slot<'_>)) {
        match &mut self.work {
            Work::Fetch(fetch) => {
                visit(Slot::Url(&mut fetch.url));
                visit(Slot::Body(&mut fetch.body));
            }
            Work::Download(download) => {
                visit(Slot::Url(&mut download.url));
                download.mirrors.iter_mut().for_each(|url| visit(Slot::Url(url)));
            }
        }
        http_slots(&mut self.options, visit);
    }

    fn http(&mut self) -> Option<&mut HttpOptions> {
        http_has_secrets(&self.options.http).then(|| &mut self.options.http)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::spec::{DownloadSpec, FetchSpec, HeaderSpec};

    fn task(work: Work, http: HttpOptions) -> TaskSpec {
        TaskSpec { key: "k".into(), work, options: TaskOptions { http, ..TaskOptions::default() }.into() }
    }

    fn full_options() -> HttpOptions {
        let header = |name: &str| HeaderSpec { name: name.into(), value: Secret::new("SESAME"), sensitive: false };
        HttpOptions {
            headers: vec![header("x-one"), header("x-two")],
            basic_auth: Some(("me".into(), Secret::new("SESAME"))),
            bearer_token: Some(Secret::new("SESAME")),
            proxy_url: Some(Secret::new("http://me:SESAME@proxy/")),
            client_key_pem: Some(Secret::new("SESAME")),
            user_agent: Some("agent".into()),
            ..HttpOptions::default()
        }
    }

    #[test]
    fn every_secret_goes_and_comes_back() {
        let url = "http://a/x?token=SESAME".to_owned();
        let fetch = FetchSpec { url: url.clone(), body: b"SESAME\xff".to_vec(), ..FetchSpec::default() };
        let mirrors = vec!["http://b/".to_owned(), "http://me:SESAME@c/".to_owned()];
        let download = DownloadSpec { url, mirrors, path: "p".into(), ..DownloadSpec::default() };
        for work in [Work::Fetch(fetch), Work::Download(download)] {
            let whole = task(work, full_options());
            let (mut lost, _) = pack(&whole).unwrap();
            forget(&mut lost);
            assert!(is_erased(&JobSpec::default(), &lost, true) && !format!("{lost:?}").contains(MARK));
            let (mut left, bag) = pack(&whole).unwrap();
            assert!(left.has_marks() && !whole.has_marks() && !lost.has_marks());
            let json = serde_json::to_string(&left).unwrap();
            // In base64 it would read otherwise.
            assert!(!json.contains("SESAME") && !json.contains("U0VTQU1F"), "{json}");
            assert!(json.contains("agent"));
            unpack(&mut left, &bag).unwrap();
            assert_eq!(left, whole);
            // Bytes of another bag are not taken.
            let (mut left, _) = pack(&whole).unwrap();
            assert_eq!(unpack(&mut left, &bag[..bag.len() - 1]), Err(BadBag));
            assert_eq!(unpack(&mut left, &[]), Err(BadBag));
        }
        let job = JobSpec {
            defaults: TaskOptions { http: full_options(), ..TaskOptions::default() }.into(),
            ..JobSpec::default()
        };
        let (mut left, bag) = pack(&job).unwrap();
        assert!(!serde_json::to_string(&left).unwrap().contains("SESAME"));
        unpack(&mut left, &bag).unwrap();
        assert_eq!(left, job);
    }

    #[test]
    fn what_was_erased_is_known() {
        let of = |url: &str, http: HttpOptions| {
            let fetch = FetchSpec { url: url.into(), body: b"SESAME".to_vec(), ..FetchSpec::default() };
            task(Work::Fetch(fetch), http)
        };
        for mut spec in [
            of("http://a/x?token=SESAME", HttpOptions::default()),
            of("http://me:SESAME@a/x", HttpOptions::default()),
            of("http://a/x", HttpOptions { bearer_token: Some(Secret::new("SESAME")), ..HttpOptions::default() }),
            of(
                "http://a/x",
                HttpOptions { basic_auth: Some(("me".into(), Secret::new("S"))), ..HttpOptions::default() },
            ),
        ] {
            assert!(!is_erased(&JobSpec::default(), &spec, false));
            assert!(erase(&mut spec));
            assert!(is_erased(&JobSpec::default(), &spec, false), "{spec:?}");
        }
        let plain = of("http://a/REDACTED?x=REDACTED", HttpOptions::default());
        assert!(!is_erased(&JobSpec::default(), &plain, true));
        let mut job = JobSpec {
            defaults: TaskOptions { http: full_options(), ..TaskOptions::default() }.into(),
            ..JobSpec::default()
        };
        assert!(erase(&mut job) && is_erased(&job, &plain, false));
    }

    #[test]
    fn what_has_no_secret_stays_whole() {
        let fetch = FetchSpec { url: "http://a/x?page=1".into(), ..FetchSpec::default() };
        assert_eq!(pack(&task(Work::Fetch(fetch), HttpOptions::default())), None);
        assert_eq!(pack(&JobSpec::default()), None);
    }
}
