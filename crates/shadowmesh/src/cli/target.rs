//! Which running node a command is about.

use std::env;
use std::path::PathBuf;

use super::{places, usage};
use crate::config;
use crate::control::socket;
use crate::control::{Client, SocketName};
use crate::failure::Failure;

/// Options that choose a running node. None is needed when only one runs.
#[derive(Debug, clap::Args)]
pub(super) struct Target {
    /// The node of this configuration file
    #[arg(short, long, value_name = "FILE", conflicts_with = "node", help_heading = "Which node")]
    config: Option<PathBuf>,

    /// The node of this name
    #[arg(long, value_name = "NAME", conflicts_with = "socket", help_heading = "Which node")]
    node: Option<String>,

    /// The node that listens there; @NAME for an abstract socket
    #[arg(long, value_name = "PATH", conflicts_with = "config", help_heading = "Which node")]
    socket: Option<SocketName>,

    /// The directory of control sockets (default: /run/shadowmesh, or the user's own)
    #[arg(long, value_name = "DIR", env = "SHADOWMESH_RUN_DIR", hide_env = true, default_value_os_t = places::run_dir(), hide_default_value = true, help_heading = "Which node")]
    run_dir: PathBuf,
}

/// One way to name a node.
enum Choice {
    Socket(SocketName),
    Node(String),
    Config(PathBuf),
}

impl Target {
    /// A client of the chosen node, or of the only one that runs.
    pub(super) fn client(&self) -> Result<Client, Failure> {
        self.socket_name().map(Client::new)
    }

    fn socket_name(&self) -> Result<SocketName, Failure> {
        match self.by_flag().or_else(by_environment) {
            Some(Choice::Socket(socket)) => Ok(socket),
            Some(Choice::Node(node)) => Ok(SocketName::of_node(&self.run_dir, &node)),
            Some(Choice::Config(path)) => Ok(SocketName::of_node(&self.run_dir, &config::name_of(&path)?)),
            None => self.only_one(),
        }
    }

    fn by_flag(&self) -> Option<Choice> {
        let socket = self.socket.clone().map(Choice::Socket);
        let node = || self.node.clone().map(Choice::Node);
        let config = || self.config.clone().map(Choice::Config);
        socket.or_else(node).or_else(config)
    }

    fn only_one(&self) -> Result<SocketName, Failure> {
        let running = socket::running(&self.run_dir).map_err(|error| {
            let directory = self.run_dir.display();
            Failure::Runtime(format!("cannot look for nodes in {directory}: {error}: run as root"))
        })?;
        match running.as_slice() {
            [] => Err(Failure::NotRunning(format!(
                "no node is running (no control socket answers in {}): start one with `shadowmesh up -c FILE`",
                self.run_dir.display()
            ))),
            [only] => Ok(SocketName::of_node(&self.run_dir, only)),
            several => Err(usage(format!(
                "several nodes are running: choose one with --node: {}",
                several.join(", ")
            ))),
        }
    }
}

/// Read here and not by the parser of the command line: any flag is stronger than any variable, whichever of the ways
/// to name a node they use.
fn by_environment() -> Option<Choice> {
    let variable = |name| env::var(name).ok().filter(|value| !value.is_empty());
    let socket = variable("SHADOWMESH_SOCKET").map(|name| match name.parse() {
        Ok(socket) => Choice::Socket(socket),
        Err(never) => match never {},
    });
    let node = || variable("SHADOWMESH_NODE").map(Choice::Node);
    let config = || variable("SHADOWMESH_CONFIG").map(|path| Choice::Config(path.into()));
    socket.or_else(node).or_else(config)
}
