//! What the command line and the environment say in place of the file: the same to every command that reads one.

use std::net::SocketAddr;

use crate::config::Overrides;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct OverrideArgs {
    /// In place of the node's name in the file
    #[arg(
        long = "node",
        value_name = "NAME",
        env = "SHADOWMESH_NODE",
        hide_env = true,
        help_heading = "In place of the file"
    )]
    name: Option<String>,

    /// In place of node.listen: the UDP address and port
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        env = "SHADOWMESH_LISTEN",
        hide_env = true,
        help_heading = "In place of the file"
    )]
    listen: Option<SocketAddr>,

    /// In place of node.workers: data-plane threads
    #[arg(
        long,
        value_name = "COUNT",
        env = "SHADOWMESH_WORKERS",
        hide_env = true,
        help_heading = "In place of the file"
    )]
    workers: Option<usize>,

    /// In place of tun.name: the interface
    #[arg(
        long,
        value_name = "NAME",
        env = "SHADOWMESH_TUN_NAME",
        hide_env = true,
        help_heading = "In place of the file"
    )]
    tun_name: Option<String>,

    /// In place of tun.mtu, in bytes
    #[arg(
        long,
        value_name = "BYTES",
        env = "SHADOWMESH_MTU",
        hide_env = true,
        help_heading = "In place of the file"
    )]
    mtu: Option<u16>,
}

impl From<OverrideArgs> for Overrides {
    fn from(args: OverrideArgs) -> Self {
        let OverrideArgs { name, listen, workers, tun_name, mtu } = args;
        Self { name, listen, workers, tun_name, mtu }
    }
}
