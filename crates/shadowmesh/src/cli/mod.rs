//! The command line: what there is, and the help that a person learns it from.

mod check;
mod completions;
mod dump;
mod iface;
mod join;
mod kcptun;
mod keys;
mod mdns;
mod output;
mod overrides;
mod ping;
mod places;
mod secret;
mod status;
mod target;
mod tunnel;
mod units;
mod up;
mod version;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::demo;
use crate::failure::Failure;

/// Link machines over any network: an encrypted, post-quantum safe mesh at the speed of the kernel's offloads.
#[derive(Debug, Parser)]
#[command(name = "shadowmesh", version, max_term_width = 110, after_long_help = HELP, after_help = "`--help` tells more: a first configuration, files, environment, exit codes.")]
#[command(disable_help_subcommand = true, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node in the foreground until SIGINT or SIGTERM
    Up(up::Args),
    /// Check a configuration and show what it means, without touching the system
    Check(check::Args),
    /// Show a running node: its peers, traffic, drops and offloads
    Status(status::Args),
    /// Measure the round-trip time to a peer with the tunnel's own probes
    Ping(ping::Args),
    /// Find services of the local network, and offer some (Multicast DNS)
    Mdns(mdns::Args),
    /// Serve SOCKS5 and HTTP CONNECT here, through a peer; needs no configuration and no privileges
    Proxy(tunnel::ProxyArgs),
    /// Forward ports to, or from, what a peer can reach; needs no configuration and no privileges
    Forward(tunnel::ForwardArgs),
    /// Run in place of kcptun, with its flags: TCP connections over KCP
    Kcptun(Box<kcptun::Args>),
    /// Show on this machine that it works, and how fast; needs no configuration
    Demo(demo::Args),
    /// Print a new private key
    Genkey,
    /// Read a private key from standard input and print its public key
    Pubkey,
    /// Print a new preshared key
    Genpsk,
    /// Print a new secret for the guard of crafted TCP segments
    Secret,
    /// Show interfaces, addresses, gateways and offloads, and what a carrier would use
    Iface(iface::Args),
    /// Show the packets of the carriers, decoded
    Dump(dump::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
    /// Print version, target and features
    Version,
}

const HELP: &str = "\
A first link, on two machines:
  umask 077; shadowmesh genkey > left.key; shadowmesh pubkey < left.key
  shadowmesh check -c left.toml          # every mistake with its line, and what to do
  sudo shadowmesh up -c left.toml
  sudo shadowmesh status; sudo shadowmesh ping right

left.toml, where right.toml is its mirror image (see shadowmesh.example.toml for every key):
  [node]
  private_key_file = \"left.key\"
  listen = \"0.0.0.0:9443\"
  [tun]
  name = \"shadow0\"
  address = [\"10.77.0.1/24\"]
  [[peer]]
  name = \"right\"
  public_key = \"…what `shadowmesh pubkey < right.key` prints…\"
  endpoint = \"192.0.2.2:9443\"
  allowed_ips = [\"10.77.0.2/32\"]

Out through a machine that runs a node with [exit], as a user without privileges (it knows our key as a [[peer]]):
  shadowmesh proxy --key my.key --peer KEY@HOST:9443          # SOCKS5 and HTTP CONNECT on 127.0.0.1:1080
  shadowmesh forward --key my.key --peer KEY@HOST:9443 -L 8080=10.0.0.5:80

Environment, each weaker than its flag and stronger than the file:
  SHADOWMESH_CONFIG      the configuration file            SHADOWMESH_SOCKET     the control socket
  SHADOWMESH_RUN_DIR     instead of /run/shadowmesh        SHADOWMESH_STATE_DIR  instead of /var/lib/shadowmesh
  SHADOWMESH_LOG         error, warn, info, debug, trace   NO_COLOR              no colours
  SHADOWMESH_NODE        the node's name                   SHADOWMESH_LISTEN     node.listen
  SHADOWMESH_WORKERS     node.workers                      SHADOWMESH_MTU        tun.mtu
  SHADOWMESH_TUN_NAME    tun.name

Files:
  /etc/shadowmesh/NAME.toml          configuration; keys in it, or beside it, must have mode 0600
  /run/shadowmesh/NAME.sock          control socket of a running node
  /var/lib/shadowmesh/KEY.epoch      counts starts, so that no handshake can be repeated; KEY is the public key, fit for a file name
  /var/lib/shadowmesh/KEY.confirmed  the newest handshake of each peer, so that none can be replayed
  /var/lib/shadowmesh/KEY.lock       held by the one program that uses a key
  For others than root these are $XDG_RUNTIME_DIR/shadowmesh and $XDG_STATE_HOME/shadowmesh (~/.local/state).

Exit codes:
  0  it worked
  1  it failed while running (also: ping was not answered, a step of demo did not hold)
  2  the command line or the configuration is wrong
  3  no such node is running
  4  status: the node runs, but a peer that should be connected is not";

/// Runs the program.
pub fn main() -> ExitCode {
    let result = match Cli::parse_from(kcptun::arguments()).command {
        Command::Up(args) => up::run(args),
        Command::Check(args) => check::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Ping(args) => ping::run(&args),
        Command::Mdns(args) => mdns::run(&args),
        Command::Proxy(args) => tunnel::proxy(args),
        Command::Forward(args) => tunnel::forward(args),
        Command::Kcptun(args) => kcptun::run(*args),
        Command::Demo(args) => return demo::run(&args),
        Command::Genkey => keys::genkey(),
        Command::Pubkey => keys::pubkey(),
        Command::Genpsk => keys::genpsk(),
        Command::Secret => secret::run(),
        Command::Iface(args) => iface::run(&args),
        Command::Dump(args) => dump::run(&args),
        Command::Completions(args) => completions::run(&args, &mut Cli::command()),
        Command::Version => version::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let message = failure.to_string();
            if !message.is_empty() {
                // Nothing can be done when stderr is gone; the exit code still tells.
                let _ = writeln!(io::stderr(), "{message}");
            }
            failure.exit_code()
        }
    }
}

/// An error of the command line.
fn usage(message: impl Into<String>) -> Failure {
    Failure::Usage(message.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
