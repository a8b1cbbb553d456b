//! Writing to standard output.

use std::io::{self, IsTerminal, Write};

use crate::failure::Failure;

/// Prints text as it is. A reader that went away (`| head`) ends the command quietly.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::Silent,
        _ => Failure::Runtime(format!("cannot write to standard output: {error}")),
    })
}

/// Whether standard output takes colours: a terminal, and `NO_COLOR` is not set (no-color.org).
pub(super) fn colours() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
