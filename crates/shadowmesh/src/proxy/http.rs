//! HTTP CONNECT as a proxy reads and answers it (RFC 9110 §9.3.6, RFC 9112 §3.2.3), without I/O.

use base64ct::{Base64, Encoding};
use zeroize::Zeroizing;

use super::request::Refusal;
use super::target::Target;

/// The longest request line and header fields together, in bytes.
pub const HEAD_LEN_MAX: usize = 8 * 1024;

/// The most header fields of a request.
const HEADERS_MAX: usize = 100;

/// The answer after which the connection carries the client's bytes.
pub const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// Where it wants to go.
    pub target: Target,
    /// The `user:password` of `Proxy-Authorization: Basic` (RFC 7617), if there was one.
    pub login: Option<Zeroizing<Vec<u8>>>,
}

/// Why a client does not get what it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// 400: no HTTP.
    BadRequest,
    /// 403: the exit does not allow it.
    Forbidden,
    /// 405: any method but CONNECT.
    MethodNotAllowed,
    /// 407: credentials are missing or wrong.
    AuthenticationRequired,
    /// 431: more than [`HEAD_LEN_MAX`].
    HeadTooLarge,
    /// 502: the target, or the peer, cannot be reached.
    BadGateway(Refusal),
    /// 503: a limit is reached.
    Unavailable,
    /// 504: the target did not answer.
    GatewayTimeout,
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotAllowed => Self::Forbidden,
            Refusal::TimedOut => Self::GatewayTimeout,
            Refusal::TooMany => Self::Unavailable,
            other => Self::BadGateway(other),
        }
    }
}

impl Status {
    /// The whole response. The connection is closed after it.
    pub fn response(self) -> Vec<u8> {
        let (line, header, text) = match self {
            Self::BadRequest => ("400 Bad Request", "", "this is no HTTP request for a proxy".into()),
            Self::Forbidden => ("403 Forbidden", "", Refusal::NotAllowed.to_string()),
            Self::MethodNotAllowed => {
                ("405 Method Not Allowed", "Allow: CONNECT\r\n", "this proxy offers CONNECT only".into())
            }
            Self::AuthenticationRequired => (
                "407 Proxy Authentication Required",
                "Proxy-Authenticate: Basic realm=\"shadowmesh\"\r\n",
                "username and password are missing or wrong".into(),
            ),
            Self::HeadTooLarge => {
                ("431 Request Header Fields Too Large", "", format!("at most {HEAD_LEN_MAX} bytes"))
            }
            Self::BadGateway(refusal) => ("502 Bad Gateway", "", refusal.to_string()),
            Self::Unavailable => ("503 Service Unavailable", "", Refusal::TooMany.to_string()),
            Self::GatewayTimeout => ("504 Gateway Timeout", "", Refusal::TimedOut.to_string()),
        };
        format!(
            "HTTP/1.1 {line}\r\n{header}Content-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}\n",
            text.len() + 1
        )
        .into_bytes()
    }
}

/// Parses a request, and says how many bytes it took. `None` when more must arrive first.
///
/// # Errors
/// The status to answer with.
pub fn connect(bytes: &[u8]) -> Result<Option<(Connect, usize)>, Status> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let len = match request.parse(&bytes[..bytes.len().min(HEAD_LEN_MAX)]) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if bytes.len() >= HEAD_LEN_MAX => return Err(Status::HeadTooLarge),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Status::HeadTooLarge),
        Err(_) => return Err(Status::BadRequest),
    };
    // Methods have case (RFC 9110 §9.1), but there is no other one that this could be.
    if !request.method.is_some_and(|method| method.eq_ignore_ascii_case("CONNECT")) {
        return Err(Status::MethodNotAllowed);
    }
    let target = authority(request.path.unwrap_or_default()).parse().map_err(|_| Status::BadRequest)?;
    let login = headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("Proxy-Authorization"))
        .and_then(|header| basic(header.value));
    Ok(Some((Connect { target, login }, len)))
}

/// The `host:port` of a request target. It should be nothing else (RFC 9112 §3.2.3); some clients send a whole URL.
fn authority(target: &str) -> &str {
    let rest = target.split_once("://").map_or(target, |(_scheme, rest)| rest);
    rest.strip_suffix('/').filter(|rest| !rest.is_empty()).unwrap_or(rest)
}

/// The `user:password` in `Basic …`.
fn basic(value: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (scheme, encoded) = str::from_utf8(value).ok()?.trim().split_once(' ')?;
    let decoded = Base64::decode_vec(encoded.trim()).ok()?;
    scheme.eq_ignore_ascii_case("Basic").then(|| Zeroizing::new(decoded))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connect_is_understood_with_and_without_credentials() {
        let head = b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n";
        let target: Target = "a.example:443".parse().unwrap();
        let expected = Connect { target: target.clone(), login: None };
        assert_eq!(connect(&[head.as_slice(), b"early"].concat()), Ok(Some((expected, head.len()))));
        for len in 0..head.len() {
            assert_eq!(connect(&head[..len]), Ok(None), "cut to {len} bytes");
        }
        let head = b"CONNECT [2001:db8::1]:80 HTTP/1.0\r\nproxy-authorization: basic YWxpY2U6cHc=\r\n\r\n";
        let (parsed, _) = connect(head).unwrap().unwrap();
        assert_eq!(parsed.login.unwrap().as_slice(), b"alice:pw");
    }

    #[test]
    fn connect_is_understood_in_lower_case_with_a_url_and_after_an_empty_line() {
        for head in [
            "connect [2001:db8::1]:80 HTTP/1.1\r\nHost: [2001:db8::1]:80\r\nProxy-Connection: keep-alive\r\n\r\n",
            "CONNECT http://[2001:db8::1]:80/ HTTP/1.1\r\nHost: [2001:db8::1]\r\n\r\n",
            "\r\nCONNECT [2001:db8::1]:80 HTTP/1.1\r\n\r\n",
        ] {
            let (parsed, len) = connect(head.as_bytes()).unwrap().unwrap();
            assert_eq!((parsed.target.to_string().as_str(), len), ("[2001:db8::1]:80", head.len()), "{head}");
        }
    }

    #[test]
    fn other_methods_and_other_protocols_get_their_status() {
        let status = |head: &str| connect(head.as_bytes()).unwrap_err();
        assert_eq!(status("GET http://a.example/ HTTP/1.1\r\n\r\n"), Status::MethodNotAllowed);
        assert_eq!(status("CONNECT / HTTP/1.1\r\n\r\n"), Status::BadRequest);
        assert_eq!(status("CONNECT a.example HTTP/1.1\r\n\r\n"), Status::BadRequest);
        assert_eq!(status("\u{16}\u{3}\u{1}"), Status::BadRequest);
    }

    #[test]
    fn a_head_is_bounded_in_bytes_and_in_fields() {
        let long = format!("CONNECT a.example:443 HTTP/1.1\r\nX: {}", "x".repeat(HEAD_LEN_MAX));
        assert_eq!(connect(long.as_bytes()), Err(Status::HeadTooLarge));
        let many = format!("CONNECT a.example:443 HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(HEADERS_MAX + 1));
        assert_eq!(connect(many.as_bytes()), Err(Status::HeadTooLarge));
    }

    #[test]
    fn a_refusal_has_a_status_a_reason_and_an_end() {
        let response = String::from_utf8(Status::from(Refusal::NameNotFound).response()).unwrap();
        assert!(response.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{response}");
        assert!(
            response.contains("Content-Length: 23\r\n")
                && response.ends_with("\r\n\r\nthe name was not found\n")
        );
    }
}
