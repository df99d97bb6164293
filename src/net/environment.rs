//! The proxies that the environment names, as curl reads them. Pure.
//!
//! Only the user's own command line obeys them. The server never does: what its tasks may reach is for its operator and
//! the tasks to say, and not for whatever its process inherited.

use std::fmt;

use hyper_util::client::proxy::matcher::Matcher;
use url::Url;

use crate::model::secret::Secret;

/// The proxies of an environment: `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`.
///
/// As for curl, a name in lower case goes before the same name in upper case, and `HTTP_PROXY` is never read: where a
/// program runs as a CGI script, that variable is a header of whoever asks. An empty variable names no proxy.
pub struct EnvironmentProxies {
    http: Option<Secret>,
    https: Option<Secret>,
    all: Option<Secret>,
    /// Intercepts every URL but those that `no_proxy` exempts; `None`: it exempts all.
    exemptions: Option<Matcher>,
}

impl EnvironmentProxies {
    /// Reads the variables by `variable`, which returns the value of an environment variable.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> EnvironmentProxies {
        let first = |names: &[&str]| names.iter().find_map(|name| variable(name).filter(|value| !value.is_empty()));
        let proxy = |names: &[&str]| first(names).map(|text| Secret::new(with_scheme(&text)));
        // curl takes spaces between the exempt hosts too, and names that end with the dot of the root.
        let exempt = first(&["no_proxy", "NO_PROXY"]).unwrap_or_default();
        let hosts = exempt.split([',', ' ', '\t', '\r', '\n']).map(|host| host.strip_suffix('.').unwrap_or(host));
        let is_all = hosts.clone().any(|host| host == "*");
        let hosts: Vec<&str> = hosts.collect();
        EnvironmentProxies {
            http: proxy(&["http_proxy"]),
            https: proxy(&["https_proxy", "HTTPS_PROXY"]),
            all: proxy(&["all_proxy", "ALL_PROXY"]),
            exemptions: (!is_all).then(|| Matcher::builder().all("http://any").no(hosts.join(",")).build()),
        }
    }

    /// The URL of the proxy that requests to `url` go through, fit for [`HttpOptions::proxy_url`]; `None`: they go
    /// directly. The value is what the user wrote: whether it is the URL of a proxy is judged where it is used.
    ///
    /// [`HttpOptions::proxy_url`]: crate::model::spec::HttpOptions::proxy_url
    pub fn proxy_for(&self, url: &Url) -> Option<Secret> {
        let own = match url.scheme() {
            "http" => &self.http,
            "https" => &self.https,
            _ => return None,
        };
        let proxy = own.as_ref().or(self.all.as_ref())?;
        let exemptions = self.exemptions.as_ref()?;
        let host = url.host_str()?.trim_end_matches('.');
        let asked = http::Uri::builder().scheme("http").authority(host).path_and_query("/").build().ok()?;
        exemptions.intercept(&asked).map(|_| proxy.clone())
    }

    /// The ports of the proxies, where they are not those of their schemes.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        let proxies = [&self.http, &self.https, &self.all].into_iter().flatten();
        proxies.filter_map(|proxy| Url::parse(proxy.expose()).ok()?.port())
    }
}

/// Without the proxies' texts, which may hold passwords.
impl fmt::Debug for EnvironmentProxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnvironmentProxies").finish_non_exhaustive()
    }
}

/// The URL of a proxy: `proxy:3128` is one of HTTP, as it is for curl. Nothing at all is none.
pub fn with_scheme(text: &str) -> String {
    if text.is_empty() || text.contains("://") { text.to_owned() } else { format!("http://{text}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(variables: &[(&str, &str)], url: &str) -> Option<String> {
        let variable =
            |name: &str| variables.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned());
        let proxies = EnvironmentProxies::read(variable);
        proxies.proxy_for(&Url::parse(url).unwrap()).map(|proxy| proxy.expose().to_owned())
    }

    #[test]
    fn each_scheme_has_its_proxy_and_lower_case_goes_first() {
        let both = [("https_proxy", "http://low:1"), ("HTTPS_PROXY", "http://up:1"), ("ALL_PROXY", "socks5h://all")];
        assert_eq!(proxy(&both, "https://a.example/").as_deref(), Some("http://low:1"));
        assert_eq!(proxy(&both[1..], "https://a.example/").as_deref(), Some("http://up:1"));
        assert_eq!(proxy(&both[1..], "http://a.example/").as_deref(), Some("socks5h://all"));
        assert_eq!(proxy(&[("http_proxy", "me:p%40w@p:3128")], "http://a/").as_deref(), Some("http://me:p%40w@p:3128"));
        assert_eq!(proxy(&[("http_proxy", "http://p")], "https://a/"), None);
        assert_eq!(proxy(&[], "http://a/"), None);
    }

    #[test]
    fn upper_case_http_proxy_is_a_header_of_cgi_and_never_read() {
        assert_eq!(proxy(&[("HTTP_PROXY", "http://p:1")], "http://a/"), None);
    }

    #[test]
    fn an_empty_variable_names_no_proxy() {
        assert_eq!(
            proxy(&[("https_proxy", ""), ("all_proxy", "http://p:1")], "https://a/").as_deref(),
            Some("http://p:1")
        );
        assert_eq!(proxy(&[("all_proxy", "")], "https://a/"), None);
    }

    #[test]
    fn exempt_hosts_are_asked_directly() {
        let is_direct =
            |exempt: &str, url: &str| proxy(&[("all_proxy", "http://p:1"), ("NO_PROXY", exempt)], url).is_none();
        for (exempt, url) in [
            ("a.example", "http://a.example:8080/x"),
            ("a.example", "https://b.a.example/"),
            (".a.example", "https://a.example./"),
            ("b,  A.Example c", "http://a.example/"),
            ("10.0.0.0/8", "http://10.1.2.3/"),
            ("::1", "http://[::1]:80/"),
            ("192.168.1.9", "http://192.168.1.9/"),
            ("*", "http://anything/"),
            ("*", "http://127.0.0.1:8080/"),
            ("b, *", "http://[::1]/"),
            ("a.example.", "http://a.example/"),
        ] {
            assert!(is_direct(exempt, url), "{exempt} and {url}");
        }
        for (exempt, url) in [
            ("", "http://a/"),
            ("a.example", "http://ba.example/"),
            ("10.0.0.0/8", "http://11.1.2.3/"),
            ("b", "http://a/"),
        ] {
            assert!(!is_direct(exempt, url), "{exempt} and {url}");
        }
    }
}
