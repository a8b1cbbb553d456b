//! `kcptun`: in place of kcptun.

use std::env;
use std::ffi::OsString;

use clap::Subcommand;

use crate::failure::Failure;
use crate::kcptun::{self, ClientArgs, ServerArgs};

/// Options of `kcptun`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Carry streams of clients to a TCP address
    #[command(version, disable_version_flag = true)]
    Server(ServerArgs),
    /// Carry connections to a TCP port to a server
    #[command(version, disable_version_flag = true)]
    Client(ClientArgs),
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    match args.role {
        Role::Server(args) => kcptun::run_server(args),
        Role::Client(args) => kcptun::run_client(args),
    }
}

/// The program's arguments, those of `kcptun` as it takes them.
pub(super) fn arguments() -> Vec<OsString> {
    if env::args_os().nth(1).is_some_and(|command| command == "kcptun") {
        return kcptun::with_two_dashes(env::args_os());
    }
    env::args_os().collect()
}
