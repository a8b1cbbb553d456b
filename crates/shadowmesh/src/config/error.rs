//! What is wrong with a configuration, where, and what to do about it.

use std::fmt;
use std::path::{Path, PathBuf};

/// A place in a file; both count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

/// A mistake in a configuration file, shown as `FILE:LINE:COLUMN: message`, then the line in question, then help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(Box<Mistake>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mistake {
    path: PathBuf,
    place: Option<Place>,
    message: String,
    excerpt: Option<Excerpt>,
    help: Option<String>,
}

/// The line of a mistake, and how many characters of it to underline.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Excerpt {
    line: String,
    width: usize,
}

impl ConfigError {
    /// A mistake of the file as a whole.
    pub fn new(path: &Path, message: impl Into<String>) -> Self {
        let message = message.into();
        Self(Box::new(Mistake { path: path.into(), place: None, message, excerpt: None, help: None }))
    }

    /// A mistake at a place, if it has one.
    #[must_use]
    pub fn at(mut self, place: Option<Place>) -> Self {
        self.0.place = place;
        self
    }

    /// Shows the line itself, with `width` characters underlined. Never for a line that holds a secret.
    #[must_use]
    pub(super) fn excerpt(mut self, line: &str, width: usize) -> Self {
        self.0.excerpt = Some(Excerpt { line: line.replace('\t', " "), width: width.max(1) });
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.0.help = Some(help.into());
        self
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mistake { path, place, message, excerpt, help } = &*self.0;
        write!(f, "{}", path.display())?;
        if let Some(Place { line, column }) = place {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {message}")?;
        if let (Some(place), Some(excerpt)) = (place, excerpt) {
            let margin = place.line.to_string().len();
            write!(f, "\n {} | {}", place.line, conceal(&excerpt.line))?;
            write!(f, "\n {:margin$} | {:indent$}", "", "", indent = place.column - 1)?;
            write!(f, "{}", "^".repeat(excerpt.width))?;
        }
        if let Some(help) = help {
            write!(f, "\n help: {help}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Letters and digits in a row that may be a key, or most of one: 24 bytes in base64.
const KEY_LIKE_LEN: usize = 32;

/// Puts dots in place of whatever looks like a key. A misspelt `private_key` is an unknown key with a value that nobody
/// but its owner may read, and errors end up in logs.
fn conceal(text: &str) -> String {
    let is_base64 = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=');
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let run = rest.find(|c| !is_base64(c)).unwrap_or(rest.len());
        if run >= KEY_LIKE_LEN {
            shown.extend(std::iter::repeat_n('·', run));
        } else {
            shown.push_str(&rest[..run]);
        }
        let next = rest[run..].find(is_base64).map_or(rest.len(), |at| run + at);
        shown.push_str(&rest[run..next]);
        rest = &rest[next..];
    }
    shown
}
