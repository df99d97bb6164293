//! The routes of the API, as the `google.api.http` annotations of the contract say.

use std::sync::Arc;

use http::Method;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor};

use crate::rest::template::{SplitPath, Template};

/// What of a request is the body.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Body {
    /// None: all fields are in the path and the query.
    None,
    /// All fields that are not in the path.
    All,
    /// One field; the others are in the query.
    Field(FieldDescriptor),
}

/// One way to a method.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) method: Method,
    /// The path as the contract writes it.
    pub(crate) path: String,
    pub(crate) template: Template,
    pub(crate) body: Body,
    pub(crate) rpc: MethodDescriptor,
}

/// Where a request leads to.
#[derive(Debug)]
pub(crate) enum Found {
    /// A method, and the values of the variables of its path.
    Route(Arc<Route>, Vec<String>),
    /// The path has other methods: these.
    OtherMethods(String),
    /// Nowhere.
    Nothing,
}

/// Reads the routes of all methods of the contract, in its order.
pub(crate) fn routes(pool: &DescriptorPool) -> Vec<Arc<Route>> {
    let mut routes = Vec::new();
    let Some(extension) = pool.get_extension_by_name("google.api.http") else { return routes };
    for rpc in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
        let options = rpc.options();
        if !options.has_extension(&extension) {
            continue;
        }
        let rule = options.get_extension(&extension);
        let Some(rule) = rule.as_message() else { continue };
        routes.extend(route(&rpc, rule).map(Arc::new));
        let more = rule.get_field_by_name("additional_bindings");
        let more = more.as_ref().and_then(|it| it.as_list()).unwrap_or_default();
        routes.extend(more.iter().filter_map(|rule| route(&rpc, rule.as_message()?).map(Arc::new)));
    }
    routes
}

fn route(rpc: &MethodDescriptor, rule: &DynamicMessage) -> Option<Route> {
    let text = |name: &str| rule.get_field_by_name(name).and_then(|it| it.as_str().map(str::to_owned));
    let verbs = [
        ("get", Method::GET),
        ("put", Method::PUT),
        ("post", Method::POST),
        ("delete", Method::DELETE),
        ("patch", Method::PATCH),
    ];
    let (name, method) = verbs.into_iter().find(|(name, _)| rule.has_field_by_name(name))?;
    let path = text(name)?;
    let body = match text("body")?.as_str() {
        "" => Body::None,
        "*" => Body::All,
        field => Body::Field(rpc.input().get_field_by_name(field)?),
    };
    Some(Route { method, template: Template::parse(&path)?, path, body, rpc: rpc.clone() })
}

/// Returns a field by its name; parts of messages stand after a `.`.
pub(crate) fn field(message: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    let Some((first, rest)) = name.split_once('.') else { return message.get_field_by_name(name) };
    match message.get_field_by_name(first)?.kind() {
        Kind::Message(inside) => field(&inside, rest),
        _ => None,
    }
}

/// Looks for the route of a request. HEAD goes wherever GET goes.
pub(crate) fn find(routes: &[Arc<Route>], method: &Method, path: &str) -> Found {
    let Some(path) = SplitPath::of(path) else { return Found::Nothing };
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    let mut others = Vec::new();
    for route in routes {
        let Some(values) = route.template.matches(&path) else { continue };
        if route.method == *method {
            return Found::Route(route.clone(), values);
        }
        others.push(route.method.as_str());
        if route.method == Method::GET {
            others.push(Method::HEAD.as_str());
        }
    }
    if others.is_empty() {
        return Found::Nothing;
    }
    others.push(Method::OPTIONS.as_str());
    Found::OtherMethods(others.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rest::json::pool;

    #[test]
    fn every_method_but_the_feed_has_a_route_and_none_has_two_methods() {
        let routes = routes(pool());
        for name in ["JobService", "ContentService", "AdminService", "AccessService"] {
            let service = pool().get_service_by_name(&format!("haul.v1.{name}")).unwrap();
            for method in service.methods() {
                let has_route = routes.iter().any(|route| route.rpc == method);
                assert_eq!(has_route, !method.is_client_streaming(), "{}", method.full_name());
            }
        }
        let of_pages = crate::api::guard::ALLOWED_METHODS;
        let of_pages: Vec<&str> = of_pages.to_str().unwrap().split(", ").collect();
        for (at, route) in routes.iter().enumerate() {
            assert!(of_pages.contains(&route.method.as_str()), "a page of a listed origin may {}", route.method);
            assert!(!routes[..at].iter().any(|it| it.path == route.path && it.method == route.method));
            for name in route.template.variables() {
                assert!(field(&route.rpc.input(), name).is_some(), "{} {name}", route.path);
            }
        }
    }

    #[test]
    fn a_path_without_the_method_names_those_that_it_has() {
        let routes = routes(pool());
        assert!(matches!(find(&routes, &Method::HEAD, "/v1/jobs/a"), Found::Route(..)));
        match find(&routes, &Method::PUT, "/v1/jobs/a") {
            Found::OtherMethods(methods) => assert_eq!(methods, "GET, HEAD, PATCH, DELETE, OPTIONS"),
            other => panic!("{other:?}"),
        }
        assert!(matches!(find(&routes, &Method::GET, "/v1/jobs/a/b"), Found::Nothing));
    }
}
