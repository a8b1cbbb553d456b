//! Why a step of the demo did not hold, in words for a person.

use std::fmt;

/// One sentence that says what went wrong, and after a colon what the system said about it.
#[derive(Debug)]
pub(super) struct Failure(String);

/// What a step comes to.
pub(super) type Outcome<T> = Result<T, Failure>;

impl Failure {
    /// A failure with nothing more to say about its cause.
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Says what was being done when an error came up.
pub(super) trait Context<T> {
    /// Puts `doing` before the error: `cannot connect` becomes `cannot connect: connection refused`.
    fn context(self, doing: impl fmt::Display) -> Outcome<T>;
}

impl<T, E: fmt::Display> Context<T> for Result<T, E> {
    fn context(self, doing: impl fmt::Display) -> Outcome<T> {
        self.map_err(|error| Failure(format!("{doing}: {error}")))
    }
}
