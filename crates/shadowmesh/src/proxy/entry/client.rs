//! Clients that say where they want to go: SOCKS5 and HTTP CONNECT on one port, told apart by their first byte.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use log::{debug, warn};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::ask;
use super::associate::associate;
use crate::proxy::credentials::Credentials;
use crate::proxy::http::{self, Status};
use crate::proxy::listener::{Admission, accept, bind_tcp, bind_udp, canonical};
use crate::proxy::pump::pump;
use crate::proxy::request::{Refusal, Request};
use crate::proxy::shared::{Account, Shared, SlotsBy};
use crate::proxy::socks5::{self, Command, Method, Reply, Socks5Error};
use crate::proxy::stop::Stop;
use crate::proxy::target::{Target, TargetError};

/// The first byte of a SOCKS4 client.
const SOCKS4_VERSION: u8 = 4;

/// The answer to a SOCKS4 client: request rejected (91).
const SOCKS4_REJECTED: [u8; 8] = [0, 91, 0, 0, 0, 0, 0, 0];

/// A listener for SOCKS5 and HTTP CONNECT.
#[derive(Debug)]
pub struct Socks5 {
    shared: Rc<Shared>,
    listener: TcpListener,
    credentials: Option<Credentials>,
}

impl Socks5 {
    /// Listens on `address`. Without `credentials` anyone who can reach it may use it.
    ///
    /// # Errors
    /// Those of the kernel, as when the address is in use.
    pub fn bind(
        shared: &Rc<Shared>,
        address: SocketAddr,
        credentials: Option<Credentials>,
    ) -> io::Result<Self> {
        Ok(Self { shared: Rc::clone(shared), listener: bind_tcp(address)?, credentials })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves clients, with streams from `open`, until `stop`.
    pub async fn run<S, O>(self, open: O, stop: Stop)
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
        O: AsyncFn() -> io::Result<S> + 'static,
    {
        let Self { shared, listener, credentials } = self;
        let server = Server {
            account: Account::of_this_host(&shared),
            shared: Rc::clone(&shared),
            credentials,
            open,
            users: SlotsBy::default(),
            stop: stop.clone(),
            told_of_socks4: Cell::new(false),
        };
        accept(&shared, listener, &stop, async move |socket, from, admission| {
            server.serve(socket, from, admission).await;
        })
        .await;
    }
}

/// Whose UDP associations are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum User {
    /// Those who know the listener's password.
    Named,
    /// Somebody at an address.
    At(IpAddr),
}

/// How a client is told why it does not get what it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    Socks5,
    Http,
}

/// Why a client is not served further.
#[derive(Debug)]
enum Failure {
    /// It is gone, or no byte of ours would help.
    Gone(io::Error),
    /// These are the last bytes for it.
    Answer(Vec<u8>),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Gone(error)
    }
}

struct Server<O> {
    shared: Rc<Shared>,
    account: Rc<Account>,
    credentials: Option<Credentials>,
    open: O,
    users: SlotsBy<User>,
    stop: Stop,
    told_of_socks4: Cell<bool>,
}

impl<S, O> Server<O>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    O: AsyncFn() -> io::Result<S> + 'static,
{
    async fn serve(&self, socket: TcpStream, from: SocketAddr, admission: Admission) {
        let mut client = Client { socket, buffer: Vec::with_capacity(512) };
        let wish = tokio::select! {
            biased;
            () = self.stop.requested() => return,
            wish = timeout(self.shared.settings.request_timeout, self.wish(&mut client)) => wish,
        };
        let served = match wish {
            Ok(Ok((dialect, command, target))) => {
                self.fulfil(&mut client, from, admission, dialect, command, target).await
            }
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err(Failure::Gone(io::ErrorKind::TimedOut.into())),
        };
        match served {
            Ok(()) => {}
            Err(Failure::Answer(last)) => client.close(&last).await,
            Err(Failure::Gone(error)) => {
                debug!("client {from}: {error}");
                client.cut_off();
            }
        }
    }

    /// Finds out what a client wants.
    async fn wish(&self, client: &mut Client) -> Result<(Dialect, Command, Target), Failure> {
        let first = client.next(1, |bytes| Ok(bytes.first().map(|&first| (first, 0)))).await?;
        match first {
            socks5::VERSION => {
                let request = self.socks5(client).await?;
                Ok((Dialect::Socks5, request.command, request.target))
            }
            // An empty line before the request is none (RFC 9112 §2.2).
            first if first.is_ascii_alphabetic() || matches!(first, b'\r' | b'\n') => {
                Ok((Dialect::Http, Command::Connect, self.http(client).await?))
            }
            first => {
                self.shared.counters.refused_protocol.increment();
                if first != SOCKS4_VERSION {
                    return Err(Failure::Answer(Vec::new()));
                }
                // The answer has no room for a reason, so whoever runs the proxy is told, once.
                if !self.told_of_socks4.replace(true) {
                    warn!(
                        "a client speaks SOCKS4, and is refused: this proxy speaks SOCKS5 and HTTP CONNECT"
                    );
                }
                Err(Failure::Answer(SOCKS4_REJECTED.to_vec()))
            }
        }
    }

    async fn socks5(&self, client: &mut Client) -> Result<socks5::Request, Failure> {
        let malformed = |error: Socks5Error| {
            self.shared.counters.refused_protocol.increment();
            let reply = match error {
                Socks5Error::Target(TargetError::UnknownType(_)) => Reply::AddressTypeNotSupported,
                // A name that no host has.
                Socks5Error::Target(_) => Reply::HostUnreachable,
                _ => return Failure::Answer(Vec::new()),
            };
            Failure::Answer(socks5::reply(reply, &Target::UNSPECIFIED))
        };
        let max = socks5::MESSAGE_LEN_MAX;
        let greeting = client.next(max, |bytes| socks5::greeting(bytes).map_err(malformed)).await?;
        let method = match &self.credentials {
            None if greeting.no_authentication => Method::NoAuthentication,
            Some(_) if greeting.password => Method::Password,
            _ => {
                self.shared.counters.refused_login.increment();
                return Err(Failure::Answer(socks5::method(Method::NoneAcceptable).to_vec()));
            }
        };
        client.socket.write_all(&socks5::method(method)).await?;
        if let Some(credentials) = &self.credentials {
            let right = client
                .next(max, |bytes| {
                    let login = socks5::login(bytes).map_err(malformed)?;
                    Ok(login.map(|(login, len)| (credentials.accept(login.username, login.password), len)))
                })
                .await?;
            if !right {
                self.shared.counters.refused_login.increment();
                return Err(Failure::Answer(socks5::login_reply(false).to_vec()));
            }
            client.socket.write_all(&socks5::login_reply(true)).await?;
        }
        client.next(max, |bytes| socks5::request(bytes).map_err(malformed)).await
    }

    async fn http(&self, client: &mut Client) -> Result<Target, Failure> {
        let refused = |status: Status| {
            self.shared.counters.refused_protocol.increment();
            Failure::Answer(status.response())
        };
        let connect = client.next(http::HEAD_LEN_MAX, |bytes| http::connect(bytes).map_err(refused)).await?;
        if let Some(credentials) = &self.credentials {
            let login = connect.login.as_ref().and_then(|login| {
                let colon = login.iter().position(|&byte| byte == b':')?;
                Some((&login[..colon], &login[colon + 1..]))
            });
            if !login.is_some_and(|(username, password)| credentials.accept(username, password)) {
                self.shared.counters.refused_login.increment();
                return Err(Failure::Answer(Status::AuthenticationRequired.response()));
            }
        }
        Ok(connect.target)
    }

    async fn fulfil(
        &self,
        client: &mut Client,
        from: SocketAddr,
        admission: Admission,
        dialect: Dialect,
        command: Command,
        target: Target,
    ) -> Result<(), Failure> {
        let refused = |refusal: Refusal| {
            debug!("client {from} to {target}: {refusal}");
            Failure::Answer(match dialect {
                Dialect::Socks5 => socks5::reply(refusal.into(), &Target::UNSPECIFIED),
                Dialect::Http => Status::from(refusal).response(),
            })
        };
        if admission == Admission::TooMany {
            return Err(refused(Refusal::TooMany));
        }
        let request = match command {
            Command::Connect => Request::Connect(target.clone()),
            Command::UdpAssociate => Request::Datagrams,
            Command::Unsupported(_) => {
                self.shared.counters.refused_protocol.increment();
                return Err(Failure::Answer(socks5::reply(Reply::CommandNotSupported, &Target::UNSPECIFIED)));
            }
        };
        let _place = if request == Request::Datagrams {
            let user = if self.credentials.is_some() { User::Named } else { User::At(from.ip()) };
            let place = self.users.take(user, self.shared.settings.associations_max).ok_or_else(|| {
                self.shared.counters.refused_limit.increment();
                refused(Refusal::TooMany)
            })?;
            Some(place)
        } else {
            None
        };
        let asked = tokio::select! {
            biased;
            () = self.stop.requested() => return Ok(()),
            asked = ask(&self.account, &self.open, &request) => asked,
        };
        let mut asked = asked.map_err(refused)?;
        if request == Request::Datagrams {
            // On the address that the client has reached already, and will reach again.
            let mut local = canonical(client.socket.local_addr()?);
            local.set_port(0);
            let socket = bind_udp(local).map_err(|_| refused(Refusal::Failed))?;
            let bound = Target::Address(socket.local_addr()?);
            client.socket.write_all(&socks5::reply(Reply::Succeeded, &bound)).await?;
            associate(
                &self.account,
                &mut client.socket,
                from,
                client_port(&target, from.ip()),
                &socket,
                &mut asked.stream,
                &self.stop,
            )
            .await;
            return Ok(());
        }
        let established = match dialect {
            Dialect::Socks5 => socks5::reply(Reply::Succeeded, &Target::UNSPECIFIED),
            Dialect::Http => http::ESTABLISHED.to_vec(),
        };
        client.socket.write_all(&established).await?;
        let early = std::mem::take(&mut client.buffer);
        Ok(pump(&self.account, &mut client.socket, &mut asked.stream, early, &self.stop).await?)
    }
}

/// The port that a client says its datagrams will come from (RFC 1928 §4), 0 where it does not say. Many clients put there where
/// they want to send to, or any address at all: only one that can be their own is taken for it.
fn client_port(named: &Target, client: IpAddr) -> u16 {
    match named {
        Target::Address(address) => {
            let ip = address.ip().to_canonical();
            if ip.is_unspecified() || ip == client { address.port() } else { 0 }
        }
        Target::Name { .. } => 0,
    }
}

/// A client and what it has sent that is not yet understood.
struct Client {
    socket: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    /// Reads until `parse` has what it needs, but no more than about `max` bytes for it; the rest stays in the buffer.
    async fn next<T>(
        &mut self,
        max: usize,
        parse: impl Fn(&[u8]) -> Result<Option<(T, usize)>, Failure>,
    ) -> Result<T, Failure> {
        loop {
            if let Some((value, len)) = parse(&self.buffer)? {
                self.buffer.drain(..len);
                return Ok(value);
            }
            if self.buffer.len() > max {
                return Err(Failure::Gone(io::ErrorKind::InvalidData.into()));
            }
            if self.socket.read_buf(&mut self.buffer).await? == 0 {
                return Err(Failure::Gone(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Sends the last bytes and an end.
    async fn close(mut self, last: &[u8]) {
        if self.socket.write_all(last).await.is_ok() {
            let _ = self.socket.shutdown().await;
        }
    }

    /// Ends with a reset, so that nobody takes what arrived for the whole.
    fn cut_off(self) {
        let _ = self.socket.set_zero_linger();
    }
}
