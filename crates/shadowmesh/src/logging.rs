//! Log lines on stderr: for a person with the time, for systemd with a priority (`sd-daemon(3)`), which adds the time
//! itself. Or in a file, as for a person.

use std::env;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use log::{Level, LevelFilter, Log, Metadata, Record};

#[derive(Debug)]
struct Logger {
    style: Style,
    /// In place of stderr.
    file: Option<File>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Plain,
    Colour,
    Journal,
}

/// Starts logging to stderr.
pub(crate) fn start(level: LevelFilter) {
    let style = if stderr_is_the_journal() {
        Style::Journal
    } else if io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) {
        Style::Colour
    } else {
        Style::Plain
    };
    install(level, Logger { style, file: None });
}

/// Whether stderr is what `JOURNAL_STREAM` names (`systemd.exec(5)`). A program whose stderr was redirected has the variable
/// too, of whoever started it.
fn stderr_is_the_journal() -> bool {
    let Ok(stderr) = io::stderr().as_fd().try_clone_to_owned() else { return false };
    let Ok(metadata) = File::from(stderr).metadata() else { return false };
    env::var("JOURNAL_STREAM").is_ok_and(|stream| names(&stream, metadata.dev(), metadata.ino()))
}

/// Whether `DEVICE:INODE` is that device and inode.
fn names(stream: &str, device: u64, inode: u64) -> bool {
    stream
        .split_once(':')
        .is_some_and(|(of_device, of_inode)| (of_device.parse(), of_inode.parse()) == (Ok(device), Ok(inode)))
}

/// Starts logging to the end of a file, which is made if there is none.
///
/// # Errors
/// The file cannot be opened; nothing is logged then.
pub(crate) fn start_in_file(level: LevelFilter, path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().append(true).create(true).open(path)?;
    install(level, Logger { style: Style::Plain, file: Some(file) });
    Ok(())
}

fn install(level: LevelFilter, logger: Logger) {
    if log::set_boxed_logger(Box::new(logger)).is_ok() {
        log::set_max_level(level);
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let line = line(self.style, since_epoch, record.level(), record.args());
        // One write a line, so that lines of different threads do not mix. Nothing can be done when stderr is gone, or a disk full.
        let _ = match &self.file {
            Some(file) => { file }.write_all(line.as_bytes()),
            None => io::stderr().lock().write_all(line.as_bytes()),
        };
    }

    fn flush(&self) {}
}

fn line(style: Style, since_epoch: Duration, level: Level, message: &fmt::Arguments<'_>) -> String {
    let (priority, name, colour) = match level {
        Level::Error => (3, "error", "31"),
        Level::Warn => (4, "warn ", "33"),
        Level::Info => (6, "info ", "32"),
        Level::Debug => (7, "debug", "36"),
        Level::Trace => (7, "trace", "90"),
    };
    let time = Utc(since_epoch);
    match style {
        Style::Journal => format!("<{priority}>{message}\n"),
        Style::Plain => format!("{time} {name} {message}\n"),
        Style::Colour => format!("\x1b[2m{time}\x1b[0m \x1b[{colour}m{name}\x1b[0m {message}\n"),
    }
}

/// A time as RFC 3339 has it, in UTC, with milliseconds.
struct Utc(Duration);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
        // Years are counted from 1 March, so that the leap day comes last; the era of 400 years has 146,097 days.
        let days_since_march_0000 = days + 719_468;
        let era = days_since_march_0000 / 146_097;
        let day_of_era = days_since_march_0000 % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        let (hour, minute, second) = (second_of_day / 3_600, second_of_day / 60 % 60, second_of_day % 60);
        let milli = self.0.subsec_millis();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_right_across_leap_days() {
        let at = |seconds: u64| Utc(Duration::from_millis(seconds * 1000 + 7)).to_string();
        assert_eq!(at(0), "1970-01-01T00:00:00.007Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59.007Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.007Z");
        assert_eq!(at(1_709_251_199), "2024-02-29T23:59:59.007Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00.007Z");
    }

    #[test]
    fn systemd_gets_a_priority_and_adds_the_time_itself() {
        let line = line(Style::Journal, Duration::ZERO, Level::Warn, &format_args!("low on memory"));
        assert_eq!(line, "<4>low on memory\n");
    }

    #[test]
    fn the_journal_is_the_one_file_that_its_variable_names() {
        assert!(names("8:42", 8, 42));
        for stream in ["1:2", "8:43", "9:42", "8", "", "8:42:1", "x:y"] {
            assert!(!names(stream, 8, 42), "{stream}");
        }
    }
}
