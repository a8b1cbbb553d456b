//! What a person sees on standard error while the demo runs.
//!
//! On a terminal each step has a line that lives while it runs and is then replaced by its result; elsewhere
//! only the results are written, one plain line each.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use super::format;

/// A line fits on a terminal of 80 columns.
const NAME_WIDTH: usize = 11;
const DETAIL_WIDTH: usize = 52;
const BAR_WIDTH: usize = 26;
/// Between two drawings of a live line.
const FRAME: Duration = Duration::from_millis(80);
const SPINNER: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];
const ERASE_LINE: &str = "\r\x1b[K";

/// Whether, and how, text is coloured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    colour: bool,
}

impl Style {
    /// No colour at all.
    #[cfg(test)]
    pub(super) const PLAIN: Self = Self { colour: false };

    /// The style of a stream: coloured on a terminal that can, unless `NO_COLOR` is set
    /// (<https://no-color.org>).
    pub(super) fn of(stream: &impl IsTerminal) -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { colour: stream.is_terminal() && !unwanted && !terminal_is_dumb() }
    }

    pub(super) fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(super) fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(super) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    fn accent(self, text: &str) -> String {
        self.paint("36", text)
    }

    /// The mark of what held or did not.
    pub(super) fn mark(self, held: bool) -> String {
        if held { self.good("✓") } else { self.bad("✗") }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Standard error, and what it can do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stage {
    live: bool,
    style: Style,
}

impl Stage {
    /// The stage that standard error is.
    pub(super) fn new() -> Self {
        let stderr = io::stderr();
        Self { live: stderr.is_terminal() && !terminal_is_dumb(), style: Style::of(&stderr) }
    }

    /// Writes the heading of the whole.
    pub(super) fn title(self, title: &str, subtitle: &str) {
        say(&format!("\n{} {}\n", self.style.bold(title), self.style.dim(&format!("· {subtitle}"))));
    }

    /// Begins a step.
    pub(super) fn step(self, name: &'static str) -> Step {
        let step = Step { stage: self, name, started: Instant::now(), drawn: None };
        step.draw("");
        step
    }

    /// Leaves the terminal as it should be found: for when a step is cut short.
    pub(super) fn interrupt(self, line: &str) {
        let erase = if self.live { ERASE_LINE } else { "" };
        write(&format!("{erase}{line}\n"));
    }

    /// The style of what is written here.
    pub(super) fn style(self) -> Style {
        self.style
    }
}

/// A step under way.
pub(super) struct Step {
    stage: Stage,
    name: &'static str,
    started: Instant,
    drawn: Option<Instant>,
}

impl Step {
    /// Shows that `part` of the step, 0 to 1, is done, and how it goes.
    pub(super) fn progress(&mut self, part: f64, note: &str) {
        let now = Instant::now();
        if self.drawn.is_some_and(|drawn| now - drawn < FRAME) {
            return;
        }
        self.drawn = Some(now);
        let left = remaining(now - self.started, part).map(|left| format!("{left:.1} s left"));
        let note = [Some(note.to_owned()).filter(|note| !note.is_empty()), left]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(" · ");
        self.draw(&format!("{} {note}", bar(part, BAR_WIDTH, self.stage.style)));
    }

    /// Ends the step with its result and returns how long it took.
    pub(super) fn end(self, held: bool, detail: &str) -> Duration {
        let elapsed = self.started.elapsed();
        let style = self.stage.style;
        let erase = if self.stage.live { ERASE_LINE } else { "" };
        let shown = if held { detail.to_owned() } else { style.bad(detail) };
        let pad = " ".repeat(DETAIL_WIDTH.saturating_sub(detail.chars().count()));
        let took = style.dim(&format!("{:>8}", format::duration(elapsed)));
        say(&format!("{erase}  {} {:NAME_WIDTH$} {shown}{pad} {took}", style.mark(held), self.name));
        elapsed
    }

    fn draw(&self, what: &str) {
        if self.stage.live {
            let turn = (self.started.elapsed().as_millis() / FRAME.as_millis()) as usize;
            let spinner = self.stage.style.accent(&SPINNER[turn % SPINNER.len()].to_string());
            write(&format!("{ERASE_LINE}  {spinner} {:NAME_WIDTH$} {what}", self.name));
        }
    }
}

/// Writes a line to standard error.
pub(super) fn say(line: &str) {
    write(&format!("{line}\n"));
}

fn write(text: &str) {
    // When nobody reads any more there is nobody to tell.
    let mut stderr = io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

fn terminal_is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// A bar of which `part`, 0 to 1, is filled, to half a cell.
fn bar(part: f64, width: usize, style: Style) -> String {
    let halves = (part.clamp(0.0, 1.0) * (2 * width) as f64).round() as usize;
    let (full, half) = (halves / 2, halves % 2);
    let filled = "━".repeat(full) + if half == 1 { "╸" } else { "" };
    style.accent(&filled) + &style.dim(&"─".repeat(width - full - half))
}

/// Seconds left when `part` took `elapsed`; `None` while it is too early to say.
fn remaining(elapsed: Duration, part: f64) -> Option<f64> {
    (part > 0.02).then(|| (elapsed.as_secs_f64() * (1.0 - part) / part).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_keeps_its_width_and_fills_by_halves() {
        for percent in 0..=100 {
            let bar = bar(f64::from(percent) / 100.0, 10, Style::PLAIN);
            assert_eq!(bar.chars().count(), 10, "{percent} %: {bar}");
        }
        assert_eq!(bar(0.0, 4, Style::PLAIN), "────");
        assert_eq!(bar(0.125, 4, Style::PLAIN), "╸───");
        assert_eq!(bar(0.5, 4, Style::PLAIN), "━━──");
        assert_eq!(bar(1.0, 4, Style::PLAIN), "━━━━");
        assert_eq!(bar(7.0, 4, Style::PLAIN), "━━━━", "more than all is all");
    }

    #[test]
    fn the_time_left_follows_from_the_time_taken() {
        assert_eq!(remaining(Duration::from_secs(1), 0.25), Some(3.0));
        assert_eq!(remaining(Duration::from_secs(1), 1.0), Some(0.0));
        assert_eq!(remaining(Duration::from_secs(1), 0.0), None, "nothing done yet");
    }

    #[test]
    fn plain_text_has_no_escape_sequences() {
        assert_eq!(Style::PLAIN.mark(true) + &Style::PLAIN.bold("bold"), "✓bold");
        assert_eq!(Style { colour: true }.good("ok"), "\x1b[32mok\x1b[0m");
    }
}
