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

/// Tells on standard error what the user should know while the command goes on.
pub(super) fn warn(text: &str) {
    // Without a standard error there is nobody to tell.
    let _ = writeln!(io::stderr().lock(), "shadowmesh: {text}");
}

/// Whether standard output takes colours: a terminal, and `NO_COLOR` is not set (no-color.org).
fn colours() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Colours, or none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paint {
    pub(super) on: bool,
}

impl Paint {
    /// Colours where standard output takes them.
    pub(super) fn stdout() -> Self {
        Self { on: colours() }
    }

    /// Text with an SGR code (ECMA-48 §8.3.117), as "32" for green.
    pub(super) fn with(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.into() }
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    pub(super) fn dim(self, text: &str) -> String {
        self.with("2", text)
    }
}
