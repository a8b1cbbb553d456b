//! Talking to a running daemon.

use std::fmt;
use std::io;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use packet::Carrier;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::SocketName;
use super::types::{ErrorReport, PingReport, PingRequest, RekeyRequest, Status};

/// No answer is larger: a status with thousands of peers is a few megabytes.
const ANSWER_LEN_MAX: usize = 64 << 20;

/// How long an answer may take beyond what was asked for.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum ClientError {
    /// Nobody listens.
    NotRunning(SocketName),
    /// The socket is another user's.
    PermissionDenied(SocketName),
    /// The daemon refused.
    Refused(String),
    /// The connection broke, or the answer made no sense.
    Broken(String),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRunning(socket) => write!(f, "no node is running at {socket}"),
            Self::PermissionDenied(socket) => {
                write!(f, "{socket} belongs to another user: run as root, or as the user that runs the node")
            }
            Self::Refused(message) => f.write_str(message),
            Self::Broken(message) => write!(f, "the node gave no proper answer: {message}"),
        }
    }
}

impl std::error::Error for ClientError {}

/// A daemon's control socket, seen from outside. Every request is a connection of its own and blocks.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    socket: SocketName,
}

impl Client {
    /// A client of the daemon that listens at `socket`.
    pub(crate) fn new(socket: SocketName) -> Self {
        Self { socket }
    }

    /// The node at this moment.
    pub(crate) fn status(&self) -> Result<Status, ClientError> {
        self.request(Method::GET, "/v1/status", None::<&()>, Duration::ZERO)
    }

    /// Sends `count` probes, one after the other.
    pub(crate) fn ping(
        &self,
        peer: &str,
        carrier: Option<Carrier>,
        count: u32,
        timeout: Duration,
    ) -> Result<PingReport, ClientError> {
        let timeout_ms = timeout.as_millis() as u64;
        let carrier = carrier.map(|carrier| carrier.name().into());
        let request = PingRequest { peer: peer.into(), carrier, count, timeout_ms };
        self.request(Method::POST, "/v1/ping", Some(&request), timeout * count)
    }

    /// Starts a fresh handshake.
    pub(crate) fn rekey(&self, peer: &str) -> Result<(), ClientError> {
        let request = RekeyRequest { peer: peer.into() };
        self.request(Method::POST, "/v1/rekey", Some(&request), Duration::ZERO).map(|_: serde_json::Value| ())
    }

    fn request<Q: Serialize, A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Q>,
        patience: Duration,
    ) -> Result<A, ClientError> {
        let stream = self.socket.connect().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning(self.socket.clone())
            }
            io::ErrorKind::PermissionDenied => ClientError::PermissionDenied(self.socket.clone()),
            _ => ClientError::Broken(error.to_string()),
        })?;
        let body = match body {
            Some(body) => serde_json::to_vec(body).map_err(broken)?,
            None => Vec::new(),
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "shadowmesh")
            .body(Full::new(Bytes::from(body)))
            .map_err(broken)?;
        stream.set_nonblocking(true).map_err(broken)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(broken)?;
        let answer = runtime.block_on(async {
            tokio::time::timeout(TIMEOUT + patience, exchange(stream, request))
                .await
                .unwrap_or_else(|_| Err(ClientError::Broken("it took too long".into())))
        })?;
        serde_json::from_slice(&answer).map_err(broken)
    }
}

async fn exchange(
    stream: std::os::unix::net::UnixStream,
    request: Request<Full<Bytes>>,
) -> Result<Bytes, ClientError> {
    let stream = tokio::net::UnixStream::from_std(stream).map_err(broken)?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(broken)?;
    tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(broken)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_LEN_MAX).collect().await;
    let body = body.map_err(|error| ClientError::Broken(error.to_string()))?.to_bytes();
    if status.is_success() {
        return Ok(body);
    }
    let report = serde_json::from_slice::<ErrorReport>(&body);
    Err(ClientError::Refused(report.map_or_else(|_| format!("HTTP status {status}"), |report| report.error)))
}

fn broken(error: impl fmt::Display) -> ClientError {
    ClientError::Broken(error.to_string())
}
