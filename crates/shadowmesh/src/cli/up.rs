//! `up`: run a node.

use std::env;
use std::path::PathBuf;

use log::LevelFilter;

use super::overrides::OverrideArgs;
use super::{places, usage};
use crate::config::Config;
use crate::control::SocketName;
use crate::daemon::{self, OnHangup};
use crate::failure::Failure;
use crate::logging;

/// Options of `up`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", env = "SHADOWMESH_CONFIG", hide_env = true)]
    config: PathBuf,

    #[command(flatten)]
    overrides: OverrideArgs,

    /// The control socket; @NAME for an abstract one (default: NAME.sock in --run-dir)
    #[arg(long, value_name = "PATH", env = "SHADOWMESH_SOCKET", hide_env = true, help_heading = "Places")]
    socket: Option<SocketName>,

    /// The directory of control sockets (default: /run/shadowmesh, or the user's own)
    #[arg(long, value_name = "DIR", env = "SHADOWMESH_RUN_DIR", hide_env = true, default_value_os_t = places::run_dir(), hide_default_value = true, help_heading = "Places")]
    run_dir: PathBuf,

    /// The directory of what must survive a restart (default: /var/lib/shadowmesh, or the user's own)
    #[arg(long, value_name = "DIR", env = "SHADOWMESH_STATE_DIR", hide_env = true, default_value_os_t = places::state_dir(), hide_default_value = true, help_heading = "Places")]
    state_dir: PathBuf,

    /// Log more; twice for everything
    #[arg(short, long, action = clap::ArgAction::Count, help_heading = "Log")]
    verbose: u8,

    /// Log warnings and errors only
    #[arg(short, long, conflicts_with = "verbose", help_heading = "Log")]
    quiet: bool,

    /// Log this much: off, error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", conflicts_with_all = ["verbose", "quiet"], help_heading = "Log")]
    log_level: Option<LevelFilter>,
}

impl Args {
    fn level(&self) -> Result<LevelFilter, Failure> {
        match (self.quiet, self.verbose, self.log_level) {
            (true, ..) => Ok(LevelFilter::Warn),
            (_, 1, _) => Ok(LevelFilter::Debug),
            (_, 2.., _) => Ok(LevelFilter::Trace),
            (.., Some(level)) => Ok(level),
            // Read here and not by the parser of the command line, to which it would be in conflict with `-v`.
            (.., None) => match env::var("SHADOWMESH_LOG") {
                Ok(level) if !level.is_empty() => level.parse().map_err(|_| {
                    usage(format!("SHADOWMESH_LOG is `{level}`: off, error, warn, info, debug or trace"))
                }),
                _ => Ok(LevelFilter::Info),
            },
        }
    }
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    logging::start(args.level()?);
    let config = Config::load(&args.config, &args.overrides.into())?;
    let socket = args.socket.unwrap_or_else(|| SocketName::of_node(&args.run_dir, &config.name));
    daemon::run(daemon::Options {
        config,
        socket,
        state_dir: args.state_dir,
        lock: None,
        on_hangup: OnHangup::Stay,
    })
}
