//! Standard output: text for people, or one JSON value.

use std::io::Write;

use serde_json::Value;

/// Where commands print.
pub(super) struct Output {
    json: bool,
}

impl Output {
    pub(super) fn new(json: bool) -> Output {
        Output { json }
    }

    /// Standard output is for a program.
    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// Print a result: as JSON, or as what `text` makes of it. A reader that went away is no error of ours.
    pub(super) fn print(&self, value: &Value, text: impl FnOnce(&Value) -> String) {
        let text = if self.json { value.to_string() } else { text(value) };
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{}", text.trim_end());
        let _ = out.flush();
    }

    /// Print over what was printed before: home, the text, clear the rest (ECMA-48 CUP and ED).
    pub(super) fn repaint(&self, value: &Value, text: impl FnOnce(&Value) -> String) {
        if self.json {
            return self.print(value, text);
        }
        let mut out = std::io::stdout().lock();
        let _ = write!(out, "\x1b[H{}\n\x1b[J", text(value).replace('\n', "\x1b[K\n"));
        let _ = out.flush();
    }

    /// Say why a command failed, on standard error.
    pub(super) fn complain(&self, why: &impl std::fmt::Display) {
        let _ = writeln!(std::io::stderr(), "tandem: {why}");
    }
}
