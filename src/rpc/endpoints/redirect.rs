//! Paths with dots and doubled slashes are sent to their short form, as Go's library does before it looks for an answer.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};

use super::respond;
use crate::rpc::http::Body;

/// The way to a request's short path. None: it has one already.
pub fn to_clean_path(request: &Request<Bytes>) -> Option<Response<Body>> {
    let path = request.uri().path();
    let clean = clean(path);
    if clean == path || request.method() == Method::CONNECT {
        return None;
    }
    // What was escaped is a part of the path now, percent sign and all.
    let path = clean.replace('%', "%25");
    let location = match request.uri().query() {
        None | Some("") => path,
        Some(query) => format!("{path}?{query}"),
    };
    let (content_type, body) = match *request.method() {
        Method::GET | Method::HEAD => (Some("text/html; charset=utf-8"), link_to(&location)),
        _ => (None, String::new()),
    };
    let mut response = respond(StatusCode::TEMPORARY_REDIRECT, content_type, body);
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_str(&location).ok()?);
    Some(response)
}

fn link_to(location: &str) -> String {
    let mut escaped = String::new();
    for letter in location.chars() {
        match letter {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&#34;",
            '\'' => escaped += "&#39;",
            letter => escaped.push(letter),
        }
    }
    format!("<a href=\"{escaped}\">Temporary Redirect</a>.\n\n")
}

/// Without empty parts, `.` and `..`; a slash at the end stays.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let end = if path.ends_with('/') && !parts.is_empty() { "/" } else { "" };
    format!("/{}{end}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_cleaned_as_gos_library_cleans_it() {
        for (path, is) in [
            ("/", "/"),
            ("", "/"),
            ("//", "/"),
            ("//health", "/health"),
            ("/./health", "/health"),
            ("/x/../health", "/health"),
            ("/../../health", "/health"),
            ("/health//", "/health/"),
            ("/health/.", "/health"),
            ("/health/..", "/"),
            ("/...", "/..."),
        ] {
            assert_eq!(clean(path), is, "{path:?}");
        }
    }

    #[test]
    fn only_get_is_given_a_page() {
        let ask = |method: &str, uri: &str| {
            let request = Request::builder().method(method).uri(uri).body(Bytes::new()).unwrap();
            to_clean_path(&request).map(|response| {
                let Body::Whole(body) = response.body() else { panic!("a page comes whole") };
                let location = response.headers()[header::LOCATION].to_str().unwrap().to_owned();
                (response.status().as_u16(), location, String::from_utf8(body.to_vec()).unwrap())
            })
        };
        assert_eq!(ask("GET", "/health?a=1"), None);
        let page = "<a href=\"/health?a=1&amp;b\">Temporary Redirect</a>.\n\n".to_owned();
        assert_eq!(ask("GET", "/x/../health?a=1&b"), Some((307, "/health?a=1&b".to_owned(), page)));
        assert_eq!(ask("POST", "//health?"), Some((307, "/health".to_owned(), String::new())));
    }
}
