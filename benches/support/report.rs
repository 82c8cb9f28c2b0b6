//! The table: one line for each thing compared.

use serde_json::{Value, json};

/// What is asked of a ratio.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
    /// Shown for comparison.
    None,
}

impl Goal {
    fn is_met(self, ratio: f64) -> Option<bool> {
        match self {
            Goal::AtLeast(bound) => Some(ratio >= bound),
            Goal::AtMost(bound) => Some(ratio <= bound),
            Goal::None => None,
        }
    }

    fn text(self) -> String {
        match self {
            Goal::AtLeast(bound) => format!(">= {bound:.2}"),
            Goal::AtMost(bound) => format!("<= {bound:.2}"),
            Goal::None => String::new(),
        }
    }
}

/// One comparison.
pub(crate) struct Line {
    /// The row that it belongs to.
    pub(crate) row: String,
    /// What was done.
    pub(crate) what: String,
    /// Who tandem is compared with.
    pub(crate) other: String,
    /// Of both values: `1/s`, `us`, `KB`.
    pub(crate) unit: &'static str,
    pub(crate) tandem: f64,
    pub(crate) others: f64,
    /// Of tandem to the other; the median of the rounds' ratios where there are rounds.
    pub(crate) ratio: f64,
    /// Microseconds of the proxy processes for each request, where there is a process.
    pub(crate) cpu_us: (Option<f64>, Option<f64>),
    pub(crate) goal: Goal,
}

impl Line {
    fn json(&self) -> Value {
        json!({
            "row": self.row, "what": self.what, "other": self.other, "unit": self.unit,
            "tandem": self.tandem, "others": self.others, "ratio": self.ratio,
            "cpu_us": self.cpu_us.0, "others_cpu_us": self.cpu_us.1,
            "goal": self.goal.text(), "met": self.goal.is_met(self.ratio),
        })
    }

    fn text(&self) -> String {
        let micros = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
        let value = |value: f64| format!("{value:.*} {}", if value < 1_000.0 { 1 } else { 0 }, self.unit);
        let met = match self.goal.is_met(self.ratio) {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        row(
            [&self.what, &self.other],
            [&value(self.tandem), &value(self.others), &format!("{:.2}", self.ratio)],
            [&micros(self.cpu_us.0), &micros(self.cpu_us.1)],
            [&self.goal.text(), met],
        )
    }
}

fn row(names: [&str; 2], values: [&str; 3], cpu: [&str; 2], goal: [&str; 2]) -> String {
    let [what, other] = names;
    let [tandem, others, ratio] = values;
    let line = format!(
        "{what:<44} {other:<26} {tandem:>11} {others:>11} {ratio:>6} {:>7} {:>7}  {:<8} {}",
        cpu[0], cpu[1], goal[0], goal[1]
    );
    line.trim_end().to_owned()
}

/// Lines as they come, for people or for programs.
pub(crate) struct Report {
    as_json: bool,
    lines: Vec<Value>,
}

impl Report {
    pub(crate) fn new(as_json: bool) -> Report {
        if !as_json {
            let cpu = ["cpu us", "other's"];
            println!("{}", row(["what", "compared with"], ["tandem", "the other", "ratio"], cpu, ["goal", ""]));
        }
        Report { as_json, lines: Vec::new() }
    }

    pub(crate) fn line(&mut self, line: &Line) {
        if self.as_json {
            self.lines.push(line.json());
        } else {
            println!("{}", line.text());
        }
    }

    /// Something that is no comparison.
    pub(crate) fn note(&mut self, row: &str, note: &str) {
        if self.as_json {
            self.lines.push(json!({ "row": row, "note": note }));
        } else {
            println!("{row}: {note}");
        }
    }

    /// The JSON, if it is asked for.
    pub(crate) fn end(self) {
        if self.as_json {
            println!("{}", Value::Array(self.lines));
        }
    }
}
