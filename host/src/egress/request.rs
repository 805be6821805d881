//! From what a caller asks for to what goes on the wire: everything that can be refused is refused here, before a
//! connection is made.

use bytes::Bytes;
use bytesize::ByteSize;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Uri};
use http_body_util::Full;
use ipnet::IpNet;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::IpAddr;
use url::{Host, Url};

use super::address::{self, DeniedAddress};
use super::{EgressRequest, Grant, Origin, Secret, placeholder};
use crate::domain::bounds::{HTTP_HEADER_BYTES, HTTP_HEADERS, HTTP_METHODS, HTTP_OWN_HEADERS, HTTP_URL};

/// Headers of an answer that concern the connection only.
pub(super) const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::TRAILER,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Puts a request together. Returns with it the names of the secrets that are in it.
///
/// # Errors
/// A sentence: what is not granted or not acceptable, and where it can be granted the line to add.
pub(super) fn prepare(
    grant: &Grant,
    request: EgressRequest,
    max_body: ByteSize,
) -> Result<(http::Request<Full<Bytes>>, BTreeSet<String>), String> {
    let used = Used { grant, names: RefCell::default() };
    let method = method(&request.method)?;
    let url = vetted_url(&request.url, grant.networks())
        .map_err(|problem| problem.sentence(&request.url, grant.table()))?;
    let origin = Origin::of(&url);
    if !grant.reaches(&origin) {
        let table = grant.table();
        return Err(format!(
            "the origin {origin} is not granted: add `origins = [\"{origin}\"]` to [{table}] in plugway.toml"
        ));
    }
    if u64::try_from(request.body.len()).unwrap_or(u64::MAX) > max_body.as_u64() {
        return Err(format!("the request's body has {} bytes, {max_body} is the limit", request.body.len()));
    }
    let headers = headers(&used, &request.headers)?;
    let mut target = placeholder::fill_path(url.path(), &|name| used.secret(name))
        .map_err(|name| missing_secret(grant, &name))?;
    if let Some(query) = url.query() {
        target.push('?');
        target.push_str(query);
    }
    let uri: Uri = format!("{origin}{target}").parse().map_err(|_| "the URL is not acceptable".to_owned())?;
    let mut out = http::Request::new(Full::new(request.body));
    (*out.method_mut(), *out.uri_mut(), *out.headers_mut()) = (method, uri, headers);
    Ok((out, used.names.into_inner()))
}

/// A grant that remembers which of its secrets were asked for.
struct Used<'a> {
    grant: &'a Grant,
    names: RefCell<BTreeSet<String>>,
}

impl<'a> Used<'a> {
    fn secret(&self, name: &str) -> Option<&'a Secret> {
        let secret = self.grant.secret(name)?;
        self.names.borrow_mut().insert(name.to_owned());
        Some(secret)
    }
}

fn method(name: &str) -> Result<Method, String> {
    let name = name.to_ascii_uppercase();
    let known = HTTP_METHODS.contains(&name.as_str()).then(|| name.parse().ok()).flatten();
    known.ok_or_else(|| format!("the method must be one of {}", HTTP_METHODS.join(", ")))
}

/// What is wrong with a URL.
#[derive(Debug)]
pub(super) enum BadUrl {
    /// It can't be used, whatever is granted.
    Unacceptable(&'static str),
    /// It names an address that is not allowed.
    Address(DeniedAddress),
}

impl BadUrl {
    /// For the one who asked. Says nothing of the URL beyond its origin, since its path may be confidential.
    pub(super) fn sentence(&self, url: &str, table: &str) -> String {
        match self {
            Self::Unacceptable(why) => format!("the URL is not acceptable: {why}"),
            Self::Address(denied) => {
                let host = Url::parse(url).map(|url| Origin::of(&url).to_string()).unwrap_or_default();
                denied_sentence(&host, denied, table)
            }
        }
    }
}

/// Why an origin is denied, and the line that would allow it.
pub(super) fn denied_sentence(origin: &str, denied: &DeniedAddress, table: &str) -> String {
    let network: IpNet = denied.network;
    format!(
        "{origin} leads to {denied}: add `private_networks = [\"{network}\"]` to [{table}] in plugway.toml if that is intended"
    )
}

/// A URL that may be used, as far as its text tells.
pub(super) fn vetted_url(text: &str, allowed: &[IpNet]) -> Result<Url, BadUrl> {
    if text.len() > HTTP_URL {
        return Err(BadUrl::Unacceptable("it is longer than 16 KiB"));
    }
    let url = Url::parse(text).map_err(|_| BadUrl::Unacceptable("it is not an absolute URL"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(BadUrl::Unacceptable("only http and https are spoken"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(BadUrl::Unacceptable("it holds a user name or password, which belong into a header"));
    }
    if url.query().is_some_and(placeholder::is_in) {
        return Err(BadUrl::Unacceptable(
            "a secret can stand in its path or in a header, not in its query, where logs would keep it",
        ));
    }
    let address = match url.host() {
        None => return Err(BadUrl::Unacceptable("it names no host")),
        Some(Host::Domain(_)) => None,
        Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
        Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
    };
    if url.port() == Some(0) {
        return Err(BadUrl::Unacceptable("its port is 0"));
    }
    match address.map(|address| address::check(address, allowed)) {
        Some(Err(denied)) => Err(BadUrl::Address(denied)),
        _ => Ok(url),
    }
}

fn headers(used: &Used<'_>, list: &[(String, String)]) -> Result<HeaderMap, String> {
    let bytes: usize = list.iter().map(|(name, value)| name.len() + value.len()).sum();
    if list.len() > HTTP_HEADERS || bytes > HTTP_HEADER_BYTES {
        return Err(format!(
            "the request has {} headers of {bytes} bytes; {HTTP_HEADERS} of {HTTP_HEADER_BYTES} bytes are the limit",
            list.len()
        ));
    }
    let mut headers = HeaderMap::with_capacity(list.len() + 2);
    for (name, value) in list {
        let shown: String = name.chars().take(80).collect();
        let key = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| format!("`{shown}` is not a header's name"))?;
        if HTTP_OWN_HEADERS.contains(&key.as_str()) {
            return Err(format!("the header `{key}` belongs to the connection and can't be set"));
        }
        if key == header::ACCEPT_ENCODING {
            continue;
        }
        let secret = placeholder::is_in(value);
        let value = placeholder::fill_header(value, &|name| used.secret(name))
            .map_err(|name| missing_secret(used.grant, &name))?;
        let mut value = HeaderValue::from_str(&value)
            .map_err(|_| format!("the value of the header `{key}` is not acceptable"))?;
        value.set_sensitive(secret);
        headers.try_append(key, value).map_err(|_| "there are too many headers".to_owned())?;
    }
    headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(super::USER_AGENT));
    // Answers must come as they are: a secret can't be found in a compressed echo.
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    Ok(headers)
}

fn missing_secret(grant: &Grant, name: &str) -> String {
    format!(
        "the secret `{name}` is not granted: add `secrets = {{ {name} = \"env:…\" }}` to [{}] in plugway.toml, and see that it has a value",
        grant.table()
    )
}
