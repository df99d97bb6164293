//! Both sides of the match in one table: what goes with a credential, and every trick that must not.

use proptest::prelude::*;

use super::*;

fn binding(hosts: &str, paths: &str, methods: &str) -> Binding {
    Binding {
        hosts: hosts.split_whitespace().map(|text| text.parse().unwrap()).collect(),
        path_prefixes: paths.split_whitespace().map(|text| text.parse().unwrap()).collect(),
        methods: methods.split_whitespace().map(str::to_owned).collect(),
        ..Binding::default()
    }
}

#[rustfmt::skip]
#[allow(clippy::too_many_lines)] // A table: one row after the other.
#[test]
fn it_goes_where_it_is_bound_to_and_nowhere_else() {
    let exact = binding("api.example.com", "", "");
    let port = binding("api.example.com:8443", "", "");
    let below = binding("*.example.com", "", "");
    let paths = binding("api.example.com", "/v1 /files/", "");
    let posts = binding("api.example.com", "", "POST");
    let plain = Binding { allow_http: true, ..binding("api.example.com", "", "") };
    let address = binding("192.0.2.1 [2001:db8::1]", "", "");
    let umlaut = binding("bücher.example", "", "");
    for (rule, method, url, goes) in [
        (&exact, "GET", "https://api.example.com/", true),
        (&exact, "HEAD", "https://API.Example.COM/x?q=1#f", true),
        (&exact, "GET", "https://api.example.com:443/", true),
        (&exact, "GET", "https://api.example.com", true),
        // Hosts that look alike.
        (&exact, "GET", "https://api.example.com.evil/", false),
        (&exact, "GET", "https://evil-api.example.com/", false),
        (&exact, "GET", "https://xapi.example.com/", false),
        (&exact, "GET", "https://sub.api.example.com/", false),
        (&exact, "GET", "https://example.com/", false),
        (&exact, "GET", "https://api.example.org/", false),
        (&exact, "GET", "https://api.exam\u{440}le.com/", false),
        (&exact, "GET", "https://evil/api.example.com", false),
        (&exact, "GET", "https://evil\\@api.example.com/", false),
        (&exact, "GET", "https://evil#@api.example.com/", false),
        (&exact, "GET", "https://evil?@api.example.com/", false),
        // Ports and schemes.
        (&exact, "GET", "https://api.example.com:444/", false),
        (&exact, "GET", "https://api.example.com:80/", false),
        (&exact, "GET", "http://api.example.com/", false),
        (&exact, "GET", "http://api.example.com:443/", false),
        (&port, "GET", "https://api.example.com:8443/", true),
        (&port, "GET", "https://api.example.com/", false),
        (&plain, "GET", "http://api.example.com/", true),
        (&plain, "GET", "http://api.example.com:80/", true),
        (&plain, "GET", "https://api.example.com/", true),
        (&plain, "GET", "http://api.example.com:443/", false),
        (&plain, "GET", "ftp://api.example.com/", false),
        // The dot at the end, user parts.
        (&exact, "GET", "https://api.example.com./", false),
        (&below, "GET", "https://api.example.com./", false),
        (&exact, "GET", "https://me@api.example.com/", false),
        (&exact, "GET", "https://me:pw@api.example.com/", false),
        (&exact, "GET", "https://:pw@api.example.com/", false),
        (&exact, "GET", "https://api.example.com@evil/", false),
        // Spellings of one host.
        (&exact, "GET", "https://api%2eexample.com/", true),
        (&exact, "GET", "https://\u{ff41}pi.example.com/", true),
        (&umlaut, "GET", "https://xn--bcher-kva.example/", true),
        (&umlaut, "GET", "https://B\u{dc}CHER.example/", true),
        (&umlaut, "GET", "https://bucher.example/", false),
        (&address, "GET", "https://192.0.2.1/", true),
        (&address, "GET", "https://0xc0000201/", true),
        (&address, "GET", "https://[2001:db8:0::1]/", true),
        (&address, "GET", "https://192.0.2.11/", false),
        // Names below a suffix.
        (&below, "GET", "https://api.example.com/", true),
        (&below, "GET", "https://a.b.example.com/", true),
        (&below, "GET", "https://example.com/", false),
        (&below, "GET", "https://.example.com/", false),
        (&below, "GET", "https://notexample.com/", false),
        (&below, "GET", "https://example.com.evil/", false),
        // Paths.
        (&paths, "GET", "https://api.example.com/v1", true),
        (&paths, "GET", "https://api.example.com/v1/", true),
        (&paths, "GET", "https://api.example.com/v1/x?y=/../..", true),
        (&paths, "GET", "https://api.example.com/files/a%20b", true),
        (&paths, "GET", "https://api.example.com/v12", false),
        (&paths, "GET", "https://api.example.com/V1", false),
        (&paths, "GET", "https://api.example.com/", false),
        (&paths, "GET", "https://api.example.com/x/v1", false),
        (&paths, "GET", "https://api.example.com/v1/../admin", false),
        (&paths, "GET", "https://api.example.com/v1/%2e%2e/admin", false),
        (&paths, "GET", "https://api.example.com/v1/.%2E/admin", false),
        (&paths, "GET", "https://api.example.com/x/../v1/y", true),
        (&paths, "GET", "https://api.example.com/v1/..%2fadmin", false),
        (&paths, "GET", "https://api.example.com/v1/%2E%2E%2Fadmin", false),
        (&paths, "GET", "https://api.example.com/v1/..%5cadmin", false),
        (&paths, "GET", "https://api.example.com/v1/..;/admin", false),
        (&paths, "GET", "https://api.example.com/v1//admin", false),
        (&paths, "GET", "https://api.example.com//v1", false),
        (&paths, "GET", "https://api.example.com/v1\\..\\admin", false),
        (&paths, "GET", "https://api.example.com/v1/x%2ey", false),
        (&paths, "GET", "https://api.example.com/v1/%252E%252e/admin", false),
        (&paths, "GET", "https://api.example.com/v1/..%252fadmin", false),
        (&paths, "GET", "https://api.example.com/v1/%c0%ae%c0%ae/admin", false),
        (&paths, "GET", "https://api.example.com/v1/%e0%80%ae%e0%80%ae%e0%80%afadmin", false),
        (&paths, "GET", "https://api.example.com/v1/%u002e%u002e/admin", false),
        (&paths, "GET", "https://api.example.com/v1/admin%00.png", false),
        (&paths, "GET", "https://api.example.com/v1/100%", false),
        (&paths, "GET", "https://api.example.com/v1/%25%32%65%25%32%65/admin", false),
        (&paths, "GET", "https://api.example.com/v1/.%0a./admin", false),
        (&paths, "GET", "https://api.example.com/v1/a?b=100%25%0a", true),
        (&paths, "GET", "https://api.example.com/v1/caf%C3%A9", true),
        (&exact, "GET", "https://api.example.com/a;b", false),
        (&exact, "GET", "https://api.example.com/a//b", false),
        (&exact, "GET", "https://api.example.com/a%2Fb", false),
        (&exact, "GET", "https://api.example.com/a?b=//;%2f", true),
        // Methods.
        (&exact, "POST", "https://api.example.com/", false),
        (&exact, "get", "https://api.example.com/", false),
        (&exact, "CONNECT", "https://api.example.com/", false),
        (&posts, "POST", "https://api.example.com/", true),
        (&posts, "GET", "https://api.example.com/", false),
        (&Binding::default(), "GET", "https://api.example.com/", false),
    ] {
        let fits = Url::parse(url).is_ok_and(|url| rule.fits(method, &url));
        assert_eq!(fits, goes, "{method} {url}");
    }
}

#[test]
fn patterns_are_read_and_written_in_one_form() {
    for (text, read) in [
        ("API.Example.com", Some("api.example.com")),
        ("api.example.com:8443", Some("api.example.com:8443")),
        ("*.Example.com:444", Some("*.example.com:444")),
        ("[2001:DB8:0::1]:8443", Some("[2001:db8::1]:8443")),
        ("b\u{fc}cher.example", Some("xn--bcher-kva.example")),
        ("localhost", Some("localhost")),
        ("", None),
        ("*", None),
        ("*.com", None),
        ("*.example.com.", None),
        ("*.*.example.com", None),
        ("a.*.example.com", None),
        ("*.192.0.2.1", None),
        ("example.com.", None),
        ("a..example.com", None),
        ("https://example.com", None),
        ("example.com/x", None),
        ("me@example.com", None),
        ("exa%6dple.com", None),
        ("example.com:", None),
        ("example.com:0", None),
        ("example.com:+80", None),
        ("example.com:65536", None),
        ("example.com:80:81", None),
        ("exa mple.com", None),
        ("example.com?x", None),
    ] {
        let pattern = text.parse::<HostPattern>().ok().map(|it| it.to_string());
        assert_eq!(pattern.as_deref(), read, "{text}");
    }
    for (text, read) in [
        ("/", Some("/")),
        ("/v1/", Some("/v1")),
        ("/a b/\u{e9}", Some("/a%20b/%C3%A9")),
        ("v1", None),
        ("", None),
        ("/v1?x", None),
        ("/v1#x", None),
        ("/v1/../x", None),
        ("/v1/./x", None),
        ("/v1//x", None),
        ("/v1;x", None),
        ("/v1%2Fx", None),
        ("/v1\\x", None),
    ] {
        let prefix = text.parse::<PathPrefix>().ok().map(|it| it.to_string());
        assert_eq!(prefix.as_deref(), read, "{text}");
    }
    assert!(method_objection("GET").is_none());
    for bad in ["", "A B", "CONNECT", "TRACE", "GET\r\n"] {
        assert!(method_objection(bad).is_some(), "{bad}");
    }
}

#[test]
fn what_is_wider_is_named() {
    let of = |hosts: &str, paths: &str, methods: &str, users: &[u64]| Binding {
        users: users.iter().copied().collect(),
        ..binding(hosts, paths, methods)
    };
    let old = of("*.example.com api.test", "/v1", "GET POST", &[16, 17]);
    for (new, wider) in [
        (old.clone(), None),
        (of("a.example.com", "/v1/x", "GET", &[16]), None),
        (of("*.b.example.com", "/v1", "POST", &[17]), None),
        (of("example.com", "/v1", "GET", &[16]), Some("hosts")),
        (of("a.example.com:444", "/v1", "GET", &[16]), Some("hosts")),
        (of("*.api.test", "/v1", "GET", &[16]), Some("hosts")),
        (of("api.test", "", "GET", &[16]), Some("path_prefixes")),
        (of("api.test", "/v12", "GET", &[16]), Some("path_prefixes")),
        (of("api.test", "/", "GET", &[16]), Some("path_prefixes")),
        (of("api.test", "/v1", "", &[16]), Some("methods")),
        (of("api.test", "/v1", "PUT", &[16]), Some("methods")),
        (of("api.test", "/v1", "GET", &[]), Some("users")),
        (of("api.test", "/v1", "GET", &[18]), Some("users")),
        (Binding { allow_http: true, ..old.clone() }, Some("allow_http")),
        (Binding { skip_echo_scan: true, ..old.clone() }, Some("skip_echo_scan")),
    ] {
        assert_eq!(new.wider_than(&old), wider, "{new:?}");
    }
    let open = of("api.test", "", "", &[]);
    assert_eq!(of("api.test", "/x", "HEAD", &[16]).wider_than(&open), None);
    assert_eq!(old.users.len(), 2);
    assert!(old.serves(16) && !old.serves(18) && open.serves(18));
}

proptest! {
    /// Whatever the text of a URL, what fits goes to the host that the parser says.
    #[test]
    fn what_fits_is_of_the_host(text in "https?://[a-z@:.\\\\/%#?;*0-9]{0,24}(api\\.example\\.com)[a-z@:.\\\\/%#?;0-9]{0,24}") {
        let rule = Binding { allow_http: true, ..binding("api.example.com", "/v1", "") };
        if let Ok(url) = Url::parse(&text) && rule.fits("GET", &url) {
            prop_assert_eq!(url.host_str(), Some("api.example.com"));
            prop_assert!(url.path() == "/v1" || url.path().starts_with("/v1/"));
            prop_assert!(url.port().is_none());
        }
    }

    /// A binding that is not wider goes with nothing that the other did not go with.
    #[test]
    fn what_is_not_wider_adds_nothing(
        (new, old) in (0..6usize, 0..6usize),
        (host, path) in (0..5usize, 0..5usize),
        method in 0..3usize,
    ) {
        let rules = [
            binding("*.example.com", "", ""),
            binding("a.example.com", "/v1", "GET"),
            binding("a.example.com b.example.com:444", "/v1/x", ""),
            binding("*.b.example.com", "/", "POST"),
            binding("example.com", "/v1 /v2", "GET POST"),
            binding("a.example.com", "/v12", "HEAD"),
        ];
        let host = ["a.example.com", "b.example.com:444", "example.com", "x.b.example.com", "evil"][host];
        let path = ["/", "/v1", "/v1/x/y", "/v12", "/v2"][path];
        let url = Url::parse(&format!("https://{host}{path}")).unwrap();
        let method = ["GET", "POST", "HEAD"][method];
        if rules[new].wider_than(&rules[old]).is_none() && rules[new].fits(method, &url) {
            prop_assert!(rules[old].fits(method, &url));
        }
    }
}
