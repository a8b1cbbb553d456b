//! Reading TOML with the place of every key and value at hand.

use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Place};

/// A file's text, and how to complain about it.
pub(super) struct Source<'a> {
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
}

impl Source<'_> {
    /// The line and column of a byte offset.
    pub(super) fn place(&self, offset: usize) -> Place {
        let before = &self.text[..floor_char_boundary(self.text, offset)];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Place {
            line: before.bytes().filter(|&byte| byte == b'\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }

    /// An error about a part of the text.
    pub(super) fn error(&self, span: Range<usize>, message: impl Into<String>) -> ConfigError {
        let start = floor_char_boundary(self.text, span.start);
        let line_start = self.text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = self.text[start..].find('\n').map_or(self.text.len(), |newline| start + newline);
        let line = self.text[line_start..line_end].trim_end();
        let error = ConfigError::new(self.path, without_secrets(&message.into())).at(Some(self.place(start)));
        if may_hold_secret(line) {
            return error;
        }
        let end = floor_char_boundary(self.text, span.end.clamp(start, line_end));
        error.excerpt(line, self.text[start..end].trim_end().chars().count())
    }
}

/// A terminal, a log or a bug report is no place for a key, nor for what may be one.
fn may_hold_secret(line: &str) -> bool {
    line.contains("private") || line.contains("preshared") || line.split(|c| !is_base64(c)).any(is_key_sized)
}

/// The text with each word that may be a key taken out.
fn without_secrets(text: &str) -> String {
    text.split_inclusive(|c| !is_base64(c))
        .map(|word| if is_key_sized(word.trim_end_matches(|c| !is_base64(c))) { "…" } else { word })
        .collect()
}

fn is_base64(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=')
}

/// A key has 44 characters; one that lost a few is still a secret.
fn is_key_sized(word: &str) -> bool {
    word.len() >= 40
}

fn floor_char_boundary(text: &str, offset: usize) -> usize {
    (0..=offset.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// A table all of whose keys are known.
pub(super) struct Section<'a, 'i> {
    source: &'a Source<'a>,
    /// As people write it: `[tun]`.
    title: &'static str,
    span: Range<usize>,
    table: &'a DeTable<'i>,
}

impl<'a, 'i> Section<'a, 'i> {
    /// Checks that no key of `table` is outside `known`. `elsewhere` names the sections where other keys belong.
    pub(super) fn new(
        source: &'a Source<'a>,
        title: &'static str,
        span: Range<usize>,
        table: &'a DeTable<'i>,
        known: &[&str],
        elsewhere: &[(&str, &[&str])],
    ) -> Result<Self, ConfigError> {
        let mut keys: Vec<_> = table.keys().collect();
        keys.sort_by_key(|key| key.span().start);
        for key in keys {
            let name: &str = key.get_ref();
            if !known.contains(&name) {
                let unknown = UnknownKey { source, title, span: key.span(), name };
                return Err(unknown.error(known, elsewhere));
            }
        }
        Ok(Self { source, title, span, table })
    }

    pub(super) fn get(&self, key: &'static str) -> Option<Value<'a, 'i>> {
        let value = self.table.get(key)?;
        Some(Value { source: self.source, key, span: value.span(), inner: value.get_ref() })
    }

    pub(super) fn require(&self, key: &'static str, example: &str) -> Result<Value<'a, 'i>, ConfigError> {
        self.get(key).ok_or_else(|| {
            self.error(format!("{} has no `{key}`", self.title))
                .help(format!("add a line: {key} = {example}"))
        })
    }

    /// An error about the section as a whole.
    pub(super) fn error(&self, message: impl Into<String>) -> ConfigError {
        self.source.error(self.span.clone(), message)
    }
}

struct UnknownKey<'a> {
    source: &'a Source<'a>,
    title: &'static str,
    span: Range<usize>,
    name: &'a str,
}

impl UnknownKey<'_> {
    fn error(self, known: &[&str], elsewhere: &[(&str, &[&str])]) -> ConfigError {
        let Self { source, title, span, name } = self;
        let place = if title.is_empty() { String::new() } else { format!(" in {title}") };
        let message = format!("unknown key `{name}`{place}");
        if let Some((section, _)) = elsewhere.iter().find(|(_, keys)| keys.contains(&name)) {
            return source.error(span, message).help(format!("`{name}` belongs in {section}"));
        }
        let near = known.iter().map(|known| (strsim::damerau_levenshtein(known, name), known)).min();
        match near {
            Some((distance, near)) if distance <= 1 + near.len() / 4 => {
                source.error(span, format!("{message}, did you mean `{near}`?"))
            }
            _ => source.error(span, message).help(format!("known keys: {}", known.join(", "))),
        }
    }
}

/// A value and where it stands.
#[derive(Clone)]
pub(super) struct Value<'a, 'i> {
    source: &'a Source<'a>,
    key: &'static str,
    span: Range<usize>,
    inner: &'a DeValue<'i>,
}

impl<'a, 'i> Value<'a, 'i> {
    pub(super) fn key(&self) -> &'static str {
        self.key
    }

    pub(super) fn place(&self) -> Place {
        self.source.place(self.span.start)
    }

    pub(super) fn error(&self, message: impl Into<String>) -> ConfigError {
        self.source.error(self.span.clone(), message)
    }

    fn wrong_type(&self, wanted: &str) -> ConfigError {
        self.error(format!("`{}` must be {wanted}, not {}", self.key, type_name(self.inner)))
    }

    pub(super) fn string(&self) -> Result<&'a str, ConfigError> {
        self.inner.as_str().ok_or_else(|| self.wrong_type("a string in quotes"))
    }

    pub(super) fn boolean(&self) -> Result<bool, ConfigError> {
        self.inner.as_bool().ok_or_else(|| self.wrong_type("true or false"))
    }

    /// A table, as `{ key = value }`, all of whose keys are `known`; `None` for anything else.
    pub(super) fn table(
        &self,
        title: &'static str,
        known: &[&str],
    ) -> Option<Result<Section<'a, 'i>, ConfigError>> {
        let DeValue::Table(table) = self.inner else { return None };
        Some(Section::new(self.source, title, self.span.clone(), table, known, &[]))
    }

    /// A whole number within `range`.
    pub(super) fn integer(&self, range: std::ops::RangeInclusive<i64>) -> Result<i64, ConfigError> {
        let integer = self.inner.as_integer().ok_or_else(|| self.wrong_type("a whole number"))?;
        let number = i64::from_str_radix(integer.as_str(), integer.radix()).ok();
        number.filter(|number| range.contains(number)).ok_or_else(|| {
            self.error(format!(
                "`{}` must be from {} to {}, not {integer}",
                self.key,
                range.start(),
                range.end()
            ))
        })
    }

    /// The strings of a list, or a single string.
    pub(super) fn strings(&self) -> Result<Vec<(Self, &'a str)>, ConfigError> {
        let wanted = "a list of strings";
        if let Some(one) = self.inner.as_str() {
            return Ok(vec![(self.clone(), one)]);
        }
        let list = self.inner.as_array().ok_or_else(|| self.wrong_type(wanted))?;
        list.iter()
            .map(|item: &'a Spanned<DeValue<'i>>| {
                let item = Self { span: item.span(), inner: item.get_ref(), ..self.clone() };
                let text = item.inner.as_str().ok_or_else(|| item.wrong_type(wanted))?;
                Ok((item, text))
            })
            .collect()
    }
}

/// What a value is, in words.
pub(super) fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_a_key_is_neither_quoted_nor_shown() {
        let key = "mFHiSjDgnSNRRe2LVZBBqGGUuMrTJ8XyvcnbDdtnqUI=";
        assert_eq!(without_secrets(&format!("unknown key `{key}` in [tun]")), "unknown key `… in [tun]");
        assert_eq!(without_secrets("unknown key `adress`"), "unknown key `adress`");
        assert!(may_hold_secret(&format!("\"{key}\" = 1")));
        assert!(may_hold_secret("private_key = \"half a k"));
        assert!(!may_hold_secret("address = [\"10.77.0.1/24\"]"));
    }
}
