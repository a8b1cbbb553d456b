//! Anonymous network namespaces: whole networks inside one process, for `demo` and for tests.
//!
//! A [`Netns`] is held by a descriptor and has no name in `/run/netns`. When the last descriptor, thread, process and
//! socket in it are gone, the kernel removes it with its interfaces: nothing is left behind, even after `kill -9`.
//!
//! Namespaces belong to threads, so work in one is done by a thread made for it: the caller's thread never moves.
//! Sockets and TUN devices stay in the namespace they were made in, whoever uses them later.

use std::error::Error;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::panic::resume_unwind;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use crate::netlink::Netlink;
use crate::sys::check;
use crate::tun::{TunConfig, TunDevice};

/// A network namespace. Clones are handles on the same one.
#[derive(Clone, Debug)]
pub struct Netns {
    namespace: Arc<File>,
}

impl Netns {
    /// A new namespace with nothing in it but loopback, which is up.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_SYS_ADMIN`: become root, or call [`enter_user_namespace`] first.
    /// `StorageFull` (`ENOSPC`) when `user.max_net_namespaces` is reached.
    pub fn new() -> io::Result<Self> {
        on_new_thread(|| {
            // SAFETY: no pointers; affects this thread only, which ends with this closure.
            check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
            let namespace = Self::current()?;
            let mut netlink = Netlink::open()?;
            let loopback = netlink.link_index("lo")?;
            netlink.set_up(loopback, true)?;
            Ok(namespace)
        })?
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn current() -> io::Result<Self> {
        Ok(Self { namespace: Arc::new(File::open("/proc/thread-self/ns/net")?) })
    }

    /// Runs a closure in the namespace, on a thread of its own, and returns its result. A panic in it goes on here.
    ///
    /// # Errors
    /// `PermissionDenied` when the process has lost the rights with which it made the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_new_thread(|| {
            enter(self.as_fd())?;
            Ok(work())
        })?
    }

    /// A command that will run in the namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let namespace = Arc::clone(&self.namespace);
        // SAFETY: between fork and exec the closure makes one system call, and reads errno: both async-signal-safe.
        // It allocates nothing: an `io::Error` from an errno is a plain number.
        unsafe { command.pre_exec(move || enter(namespace.as_fd())) };
        command
    }

    /// An rtnetlink socket to the namespace.
    ///
    /// # Errors
    /// As [`run`](Self::run) and [`Netlink::open`].
    pub fn netlink(&self) -> io::Result<Netlink> {
        self.run(Netlink::open)?
    }

    /// Writes a `net.*` sysctl of the namespace, as `net.ipv4.ip_forward`. Interface names with dots need the form
    /// with slashes, as for `sysctl(8)`.
    ///
    /// # Errors
    /// `NotFound` when there is none of that name; `ReadOnlyFilesystem` in containers that protect `/proc/sys`.
    pub fn sysctl(&self, name: &str, value: &str) -> io::Result<()> {
        let path = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
        // The directory shows the namespace of the thread that opens the file.
        self.run(|| std::fs::write(Path::new("/proc/sys").join(path), value))?
    }

    /// Joins several namespaces by a bridge, which stands in a namespace of its own. In each the given interface
    /// appears, up, without addresses. The bridge lives as long as the returned namespace, or one of the joined ones
    /// holds its end of a cable.
    ///
    /// # Errors
    /// `AlreadyExists` when a namespace has an interface of that name; `Unsupported` when the kernel has no bridges.
    pub fn bridge(hosts: &[(&Self, &str)]) -> io::Result<Self> {
        let hub = Self::new()?;
        let mut netlink = hub.netlink()?;
        netlink.create_bridge("bridge")?;
        let bridge = netlink.link_index("bridge")?;
        netlink.set_no_ipv6_autoconfiguration(bridge).ok();
        netlink.set_up(bridge, true)?;
        for (number, (host, name)) in hosts.iter().enumerate() {
            let port_name = format!("port{number}");
            netlink.create_veth(&port_name, name, host.as_fd())?;
            let port = netlink.link_index(&port_name)?;
            netlink.set_master(port, bridge)?;
            netlink.set_up(port, true)?;
            set_up(host, name)?;
        }
        Ok(hub)
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }
}

/// Joins two namespaces by a cable: an Ethernet interface in each, up, without addresses.
///
/// # Errors
/// `AlreadyExists` when a namespace has an interface of that name; `Unsupported` when the kernel has no veth.
pub fn veth_pair(a: &Netns, name_a: &str, b: &Netns, name_b: &str) -> io::Result<()> {
    a.netlink()?.create_veth(name_a, name_b, b.as_fd())?;
    set_up(a, name_a)?;
    set_up(b, name_b)
}

fn set_up(namespace: &Netns, name: &str) -> io::Result<()> {
    let mut netlink = namespace.netlink()?;
    let index = netlink.link_index(name)?;
    Ok(netlink.set_up(index, true)?)
}

/// Makes the kernel kill the command's process (`SIGKILL`) when the thread that spawns it ends, for whatever reason: so
/// that a process in a [`Netns`] cannot keep it alive after its maker was killed. Spawn it from a thread that lasts.
pub fn die_with_parent(command: &mut Command) -> &mut Command {
    let parent = std::process::id();
    let bind = move || {
        // SAFETY: no pointers; both are plain numbers to this option.
        check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) })?;
        // A parent that was killed before the call above sends no signal any more.
        // SAFETY: takes nothing, cannot fail.
        if unsafe { libc::getppid() } as u32 != parent {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes two system calls, both async-signal-safe, and allocates nothing.
    unsafe { command.pre_exec(bind) }
}

/// Asks a child process to stop (`SIGTERM`). Nothing happens when it has been waited for.
///
/// # Errors
/// `PermissionDenied` when it has become another user's.
pub fn terminate(child: &mut std::process::Child) -> io::Result<()> {
    if child.try_wait()?.is_some() {
        return Ok(());
    }
    // SAFETY: no pointers; a child that was not waited for keeps its number.
    check(unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) }).map(drop)
}

/// Moves the calling thread.
fn enter(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}

/// Runs a closure on a thread that ends with it. The outer error is that no thread could be made.
fn on_new_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, work)?;
        Ok(thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

/// Moves the whole process into a new user namespace, in which it is root: so that an ordinary user can make network
/// namespaces and TUN devices in them. Does nothing for root.
///
/// Call it before any other thread is started; the kernel refuses otherwise.
///
/// # Errors
/// With the setting to change when the system forbids it.
pub fn enter_user_namespace() -> io::Result<()> {
    let (uid, gid) = crate::files::user_and_group();
    if uid == 0 {
        return Ok(());
    }
    // SAFETY: no pointers.
    check(unsafe { libc::unshare(libc::CLONE_NEWUSER) }).map_err(explain_user_namespace)?;
    // user_namespaces(7): an unprivileged process maps its own user, and its own group only without setgroups(2).
    std::fs::write("/proc/self/setgroups", "deny").map_err(explain_user_namespace)?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1")).map_err(explain_user_namespace)?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1")).map_err(explain_user_namespace)
}

fn explain_user_namespace(error: io::Error) -> io::Error {
    let advice = match error.raw_os_error() {
        Some(libc::EINVAL) => "the process has several threads already",
        _ => advice(),
    };
    io::Error::new(error.kind(), format!("cannot create a user namespace ({error}): {advice}"))
}

/// Finds the setting that keeps an ordinary user from making namespaces.
fn advice() -> &'static str {
    let is = |path: &str, value: &str| std::fs::read_to_string(path).is_ok_and(|text| text.trim() == value);
    if crate::files::is_root() && !is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        "the container or a security module forbids it: it needs CAP_SYS_ADMIN and CAP_NET_ADMIN"
    } else if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        "run as root, or allow it with `sysctl -w kernel.unprivileged_userns_clone=1`"
    } else if is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        "run as root, or allow it with `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`"
    } else if is("/proc/sys/user/max_user_namespaces", "0") {
        "run as root, or allow it with `sysctl -w user.max_user_namespaces=10000`"
    } else {
        "run as root, or with CAP_SYS_ADMIN and CAP_NET_ADMIN"
    }
}

/// Whether network namespaces and TUN devices can be made here.
///
/// # Errors
/// What is missing, in a sentence that says how to give it.
pub fn privileged() -> Result<(), String> {
    let config = TunConfig {
        name: "probe%d".into(),
        queues: 1,
        mtu: 1280,
        addresses: Vec::new(),
        routes: Vec::new(),
        offload: false,
        gso_max_bytes: None,
    };
    let namespace =
        Netns::new().map_err(|error| format!("network namespaces cannot be made ({error}): {}", advice()))?;
    match namespace.run(|| TunDevice::create(&config).map(drop)) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            Err(error.source().map_or_else(|| error.to_string(), |why| format!("{error}: {why}")))
        }
        Err(error) => Err(format!("network namespaces cannot be entered ({error}): {}", advice())),
    }
}
