//! `completions`: a script for the user's shell.

use clap_complete::Shell;

use super::output::print;
use crate::failure::Failure;

/// Options of `completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "For example: shadowmesh completions bash > /etc/bash_completion.d/shadowmesh")]
pub(super) struct Args {
    /// The shell to write for
    shell: Shell,
}

pub(super) fn run(args: &Args, command: &mut clap::Command) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "shadowmesh", &mut script);
    print(&String::from_utf8_lossy(&script))
}
