//! Standard output: text for people, or one JSON value. What happens meanwhile is told on standard error.

use std::io::{IsTerminal, Write};

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
        let text = if self.json { value.to_string() } else { shown(&text(value)) };
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
        let _ = write!(out, "\x1b[H{}\n\x1b[J", shown(&text(value)).replace('\n', "\x1b[K\n"));
        let _ = out.flush();
    }

    /// Tell people what happens, on standard error; programs are told the result only.
    pub(super) fn tell(&self, line: &str) {
        if !self.json {
            let clear = if watched() { "\r\x1b[K" } else { "" };
            let _ = writeln!(std::io::stderr(), "{clear}{}", shown(line));
        }
    }

    /// A line that the next one replaces (ECMA-48 EL), where somebody watches a terminal; empty, it is gone.
    pub(super) fn hint(&self, line: &str) {
        if !self.json && watched() {
            let mut out = std::io::stderr().lock();
            let _ = write!(out, "\r\x1b[K{}", shown(line));
            let _ = out.flush();
        }
    }

    /// Ask somebody at a terminal. Where nobody is, the command line has said it all.
    pub(super) fn confirm(&self, question: &str) -> bool {
        if self.json || !watched() || !std::io::stdin().is_terminal() {
            return true;
        }
        self.hint(&format!("{question} [y/N] "));
        let mut answer = String::new();
        let _ = std::io::stdin().read_line(&mut answer);
        matches!(answer.trim(), "y" | "Y" | "yes")
    }

    /// What somebody at a terminal types; `None`: there is nobody to ask.
    /// Cancel safe: what is typed later is left unread.
    pub(super) async fn typed(&self, question: &str) -> Option<String> {
        if self.json || !watched() || !std::io::stdin().is_terminal() {
            return None;
        }
        self.hint(question);
        let (say, said) = tokio::sync::oneshot::channel();
        // Not one of the runtime's, which would wait for it in the end.
        std::thread::spawn(move || {
            let mut answer = String::new();
            let _ = say.send(std::io::stdin().read_line(&mut answer).ok().map(|_| answer.trim().to_owned()));
        });
        said.await.ok().flatten()
    }

    /// Say why a command failed, on standard error.
    pub(super) fn complain(&self, why: &impl std::fmt::Display) {
        let _ = writeln!(std::io::stderr(), "tandem: {}", shown(&why.to_string()));
    }
}

/// Names are whatever clients and servers call themselves and their tables: none may move the cursor over another line.
fn shown(text: &str) -> String {
    let is_text = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    text.chars().map(|c| if is_text(c) { c } else { char::REPLACEMENT_CHARACTER }).collect()
}

/// Somebody watches what is told.
fn watched() -> bool {
    std::io::stderr().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_calls_itself_does_not_move_the_cursor() {
        assert_eq!(shown("x\x1b[1A\r\u{9b}2K\n\ty"), "x\u{fffd}[1A\u{fffd}\u{fffd}2K\n\ty");
    }
}
