//! Which running node a command is about.

use std::path::PathBuf;

use super::usage;
use crate::config;
use crate::control::socket::{self, RUN_DIR};
use crate::control::{Client, SocketName};
use crate::failure::Failure;

/// Options that choose a running node. None is needed when only one runs.
#[derive(Debug, clap::Args)]
pub(super) struct Target {
    /// The node of this configuration file
    #[arg(
        short,
        long,
        value_name = "FILE",
        env = "SHADOWMESH_CONFIG",
        hide_env = true,
        conflicts_with = "node",
        help_heading = "Which node"
    )]
    config: Option<PathBuf>,

    /// The node of this name
    #[arg(long, value_name = "NAME", env = "SHADOWMESH_NODE", hide_env = true, help_heading = "Which node")]
    node: Option<String>,

    /// The node that listens there; @NAME for an abstract socket
    #[arg(
        long,
        value_name = "PATH",
        env = "SHADOWMESH_SOCKET",
        hide_env = true,
        help_heading = "Which node"
    )]
    socket: Option<SocketName>,

    /// The directory of control sockets
    #[arg(long, value_name = "DIR", env = "SHADOWMESH_RUN_DIR", hide_env = true, default_value = RUN_DIR, help_heading = "Which node")]
    run_dir: PathBuf,
}

impl Target {
    /// A client of the chosen node, or of the only one that runs.
    pub(super) fn client(&self) -> Result<Client, Failure> {
        self.socket_name().map(Client::new)
    }

    fn socket_name(&self) -> Result<SocketName, Failure> {
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        if let Some(node) = &self.node {
            return Ok(SocketName::of_node(&self.run_dir, node));
        }
        if let Some(path) = &self.config {
            return Ok(SocketName::of_node(&self.run_dir, &config::name_of(path)?));
        }
        let running = socket::running(&self.run_dir);
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
