//! Forwards: what comes to a port goes to one target.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use log::debug;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::{Begun, begin};
use crate::proxy::frames::{Frame, FrameQueue, carry, receive};
use crate::proxy::listener::{Admission, accept, bind_tcp, bind_udp, join_all};
use crate::proxy::pump::pump;
use crate::proxy::request::{Refusal, Request};
use crate::proxy::shared::{Account, Shared};
use crate::proxy::stop::Stop;
use crate::proxy::target::Target;

/// A port whose connections go to one target behind the peer.
#[derive(Debug)]
pub struct TcpForward {
    shared: Rc<Shared>,
    listener: TcpListener,
    target: Target,
}

impl TcpForward {
    /// Listens on `address`.
    ///
    /// # Errors
    /// Those of the kernel, as when the address is in use.
    pub fn bind(shared: &Rc<Shared>, address: SocketAddr, target: Target) -> io::Result<Self> {
        Ok(Self { shared: Rc::clone(shared), listener: bind_tcp(address)?, target })
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
        let request = Request::Connect(self.target);
        forward_tcp(&Account::of_this_host(&self.shared), self.listener, open, request, &stop).await;
    }
}

/// A port whose datagrams go to one target behind the peer; each sender has a stream of its own.
#[derive(Debug)]
pub struct UdpForward {
    shared: Rc<Shared>,
    socket: UdpSocket,
    target: Target,
}

impl UdpForward {
    /// Receives on `address`.
    ///
    /// # Errors
    /// Those of the kernel, as when the address is in use.
    pub fn bind(shared: &Rc<Shared>, address: SocketAddr, target: Target) -> io::Result<Self> {
        Ok(Self { shared: Rc::clone(shared), socket: bind_udp(address)?, target })
    }

    /// Where it receives.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves senders, with streams from `open`, until `stop`.
    pub async fn run<S, O>(self, open: O, stop: Stop)
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
        O: AsyncFn() -> io::Result<S> + 'static,
    {
        let account = Account::of_this_host(&self.shared);
        forward_udp(&account, self.socket, open, Request::Datagrams, &self.target, &stop).await;
    }
}

/// Takes connections and carries each on a stream of its own, at whose front is `request`.
pub(in crate::proxy) async fn forward_tcp<S, O>(
    account: &Rc<Account>,
    listener: TcpListener,
    open: O,
    request: Request,
    stop: &Stop,
) where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    O: AsyncFn() -> io::Result<S> + 'static,
{
    let (task_account, task_stop) = (Rc::clone(account), stop.clone());
    let serve = async move |mut client: TcpStream, from: SocketAddr, admission: Admission| {
        let served = async {
            if admission == Admission::TooMany {
                return Err(Refusal::TooMany.to_string());
            }
            let begun = tokio::select! {
                biased;
                () = task_stop.requested() => return Ok(()),
                begun = begin(&task_account, &open, &request) => begun,
            };
            let mut stream = begun.map_err(|refusal| refusal.to_string())?;
            let pumped = pump(&task_account, &mut client, &mut stream, Vec::new(), &task_stop).await;
            pumped.map_err(|error| error.to_string())
        };
        if let Err(why) = served.await {
            debug!("forward for {from}: {why}");
            // There is no other way to tell a client that this is not a server's orderly end.
            let _ = client.set_zero_linger();
        }
    };
    accept(account.shared(), listener, stop, serve).await;
}

/// A sender of datagrams and its stream.
struct Association {
    queue: Rc<FrameQueue>,
    /// When it last sent, in datagrams that the forward has received.
    last: Cell<u64>,
    /// Another sender needs its place.
    evicted: Notify,
}

/// Receives datagrams and carries those of each sender on a stream of its own, at whose front is `request`; each frame
/// names `target`.
pub(in crate::proxy) async fn forward_udp<S, O>(
    account: &Rc<Account>,
    socket: UdpSocket,
    open: O,
    request: Request,
    target: &Target,
    stop: &Stop,
) where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    O: AsyncFn() -> io::Result<S> + 'static,
{
    let forward = Rc::new(Forward {
        shared: Rc::clone(account.shared()),
        account: Rc::clone(account),
        socket,
        open,
        request,
        associations: RefCell::default(),
        stop: stop.clone(),
    });
    let mut encoded = Vec::new();
    target.encode(&mut encoded);
    let tasks = RefCell::new(JoinSet::new());
    let mut received = 0;
    let shared = account.shared();
    let receiving = receive(shared, &forward.socket, |data, from| {
        received += 1;
        let known = forward.associations.borrow().get(&from).map(Rc::clone);
        let association = known.or_else(|| {
            let association = forward.admit(from)?;
            let mut tasks = tasks.borrow_mut();
            while tasks.try_join_next().is_some() {}
            tasks.spawn_local(Rc::clone(&forward).serve(from, Rc::clone(&association)));
            Some(association)
        });
        match association {
            Some(association) => {
                association.last.set(received);
                association.queue.push(Frame { target: &encoded, data });
            }
            None => shared.counters.datagrams_dropped.increment(),
        }
    });
    tokio::select! {
        biased;
        () = stop.requested() => {}
        () = receiving => {}
    }
    join_all(tasks.into_inner()).await;
}

struct Forward<O> {
    shared: Rc<Shared>,
    account: Rc<Account>,
    socket: UdpSocket,
    open: O,
    request: Request,
    associations: RefCell<HashMap<SocketAddr, Rc<Association>>>,
    stop: Stop,
}

impl<S, O> Forward<O>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    O: AsyncFn() -> io::Result<S> + 'static,
{
    /// A place for a new sender, if need be the one of the same user's sender that has been silent the longest.
    fn admit(&self, from: SocketAddr) -> Option<Rc<Association>> {
        let mut associations = self.associations.borrow_mut();
        if associations.len() >= self.shared.settings.clients_max {
            self.shared.counters.refused_limit.increment();
            return None;
        }
        // Only a forward with many senders has to look who they are.
        if associations.len() >= self.shared.settings.associations_max {
            let users = || associations.iter().filter(|(sender, _)| sender.ip() == from.ip());
            if users().count() >= self.shared.settings.associations_max {
                let oldest = users()
                    .min_by_key(|(_, association)| association.last.get())
                    .map(|(sender, _)| *sender)?;
                if let Some(association) = associations.remove(&oldest) {
                    association.evicted.notify_one();
                }
            }
        }
        let queue = FrameQueue::new(&self.account);
        let association = Rc::new(Association { queue, last: Cell::new(0), evicted: Notify::new() });
        associations.insert(from, Rc::clone(&association));
        Some(association)
    }

    async fn serve(self: Rc<Self>, from: SocketAddr, association: Rc<Association>) {
        tokio::select! {
            biased;
            () = self.stop.requested() => {}
            () = association.evicted.notified() => {}
            () = self.carry(from, &association.queue) => {}
            () = association.queue.unused(self.shared.settings.association_timeout) => {}
        }
        let mut associations = self.associations.borrow_mut();
        // Its place may have been given to a later association of the same sender.
        if associations.get(&from).is_some_and(|current| Rc::ptr_eq(current, &association)) {
            associations.remove(&from);
        }
    }

    async fn carry(&self, from: SocketAddr, queue: &FrameQueue) {
        let begun: Result<Begun<S>, Refusal> = begin(&self.account, &self.open, &self.request).await;
        let ended = match begun {
            Err(refusal) => Err(refusal.to_string()),
            Ok(mut stream) => {
                let carried = carry(&mut stream, queue, Vec::new(), |frame| {
                    if socket2::SockRef::from(&self.socket).send_to(frame.data, &from.into()).is_err() {
                        self.shared.counters.datagrams_dropped.increment();
                    }
                });
                carried.await.map_err(|error| error.to_string())
            }
        };
        if let Err(why) = ended {
            debug!("forward for {from}: {why}");
        }
    }
}
