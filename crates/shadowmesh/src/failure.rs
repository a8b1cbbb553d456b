//! How a command ends when it does not end well: one message, one exit code.

use std::fmt;
use std::process::ExitCode;

use crate::config::ConfigError;
use crate::control::ClientError;

/// Why a command failed. The variants are the exit codes that `--help` documents.
#[derive(Debug)]
pub(crate) enum Failure {
    /// 1: something went wrong while running.
    Runtime(String),
    /// 2: the command line or the configuration is wrong.
    Usage(String),
    /// 3: no such node is running.
    NotRunning(String),
    /// 4: the node runs, but a peer that should be connected is not. The output says which.
    Degraded,
    /// 1, without a message: the output has said it all.
    Silent,
}

impl Failure {
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Runtime(_) | Self::Silent => 1,
            Self::Usage(_) => 2,
            Self::NotRunning(_) => 3,
            Self::Degraded => 4,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Runtime(message) | Self::Usage(message) | Self::NotRunning(message) => f.write_str(message),
            Self::Degraded | Self::Silent => Ok(()),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::NotRunning(_) => Self::NotRunning(error.to_string()),
            error => Self::Runtime(error.to_string()),
        }
    }
}

/// An error with all its causes in one line: `cannot create interface shadow0: Operation not permitted`.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
