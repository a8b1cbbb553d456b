//! The daemon's side of the control socket.

use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use log::{Level, debug, log};
use packet::Carrier;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::daemon::NodeHandle;

use super::types::{ErrorReport, PingReport, PingRequest, RekeyRequest};

/// Connections served at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 32;

/// The largest request body, in bytes.
const BODY_LEN_MAX: usize = 16 * 1024;

/// How long a client may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The most probes of one request.
const PING_COUNT_MAX: u32 = 100;

/// The longest wait for one probe's answer.
const PING_TIMEOUT_MAX_MS: u64 = 10_000;

/// Why a request is not answered as it wished.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The request makes no sense.
    BadRequest(String),
    /// There is no such peer or path.
    NotFound(String),
    /// The daemon is on its way out.
    ShuttingDown,
}

/// Serves connections until it is dropped.
pub(crate) async fn serve(listener: StdListener, node: Arc<NodeHandle>) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    // Seen from the other end of a connection, we are who we are.
    let own_user = UnixStream::pair()?.0.peer_cred()?.uid();
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut failing = false;
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return Ok(()) };
        let accepted = listener.accept().await;
        let was_failing = std::mem::replace(&mut failing, accepted.is_err());
        match accepted {
            Ok((stream, _)) if may_connect(&stream, own_user) => {
                let node = Arc::clone(&node);
                tokio::spawn(async move {
                    connection(stream, node).await;
                    drop(slot);
                });
            }
            Ok(_) => debug!("refused a control connection of another user"),
            Err(error) => {
                // EMFILE and its kin pass; until then the connection waits in the kernel's queue. Say it once.
                let level = if was_failing { Level::Debug } else { Level::Warn };
                log!(level, "control socket: cannot take connections for now: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Root and our own user; an abstract socket has no file mode that would say so.
fn may_connect(stream: &UnixStream, own_user: u32) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own_user)
}

async fn connection(stream: UnixStream, node: Arc<NodeHandle>) {
    let service = service_fn(move |request| {
        let node = Arc::clone(&node);
        async move { Ok::<_, std::convert::Infallible>(answer(request, &node).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .max_buf_size(BODY_LEN_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!("control connection: {error}");
    }
}

async fn answer(request: Request<Incoming>, node: &NodeHandle) -> Response<Full<Bytes>> {
    let answer = match (request.method(), request.uri().path()) {
        (&Method::GET, "/v1/status") => node.status().await.map(|status| json(StatusCode::OK, &status)),
        (&Method::POST, "/v1/ping") => ping(request, node).await.map(|report| json(StatusCode::OK, &report)),
        (&Method::POST, "/v1/rekey") => rekey(request, node).await.map(|()| json(StatusCode::OK, &Empty {})),
        (method, path) => Err(Refusal::NotFound(format!("there is no {method} {path}"))),
    };
    answer.unwrap_or_else(|refusal| {
        let (status, error) = match refusal {
            Refusal::BadRequest(error) => (StatusCode::BAD_REQUEST, error),
            Refusal::NotFound(error) => (StatusCode::NOT_FOUND, error),
            Refusal::ShuttingDown => (StatusCode::SERVICE_UNAVAILABLE, "the node is shutting down".into()),
        };
        json(status, &ErrorReport { error })
    })
}

/// `{}`.
#[derive(Serialize)]
struct Empty {}

async fn ping(request: Request<Incoming>, node: &NodeHandle) -> Result<PingReport, Refusal> {
    let PingRequest { peer, carrier, count, timeout_ms } = body(request).await?;
    let carrier = carrier.map(|name| name.parse::<Carrier>()).transpose();
    let carrier = carrier.map_err(|error| Refusal::BadRequest(error.to_string()))?;
    if !(1..=PING_COUNT_MAX).contains(&count) {
        return Err(Refusal::BadRequest(format!("count must be from 1 to {PING_COUNT_MAX}")));
    }
    if !(1..=PING_TIMEOUT_MAX_MS).contains(&timeout_ms) {
        return Err(Refusal::BadRequest(format!("timeout_ms must be from 1 to {PING_TIMEOUT_MAX_MS}")));
    }
    let timeout = Duration::from_millis(timeout_ms);
    let mut report = PingReport { peer: String::new(), rtt_ms: Vec::with_capacity(count as usize) };
    for _ in 0..count {
        let (peer, rtt) = node.ping(&peer, carrier, timeout).await?;
        report.peer = peer;
        report.rtt_ms.push(rtt.map(|rtt| rtt.as_secs_f64() * 1e3));
    }
    Ok(report)
}

async fn rekey(request: Request<Incoming>, node: &NodeHandle) -> Result<(), Refusal> {
    let RekeyRequest { peer } = body(request).await?;
    node.rekey(&peer).await
}

async fn body<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Refusal> {
    let body = Limited::new(request.into_body(), BODY_LEN_MAX).collect();
    let body = tokio::time::timeout(REQUEST_TIMEOUT, body).await;
    let body = body.map_err(|_| Refusal::BadRequest("the body did not arrive in time".into()))?;
    let body = body.map_err(|error| Refusal::BadRequest(error.to_string()))?.to_bytes();
    serde_json::from_slice(&body)
        .map_err(|error| Refusal::BadRequest(format!("the body is not right: {error}")))
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(value).unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
