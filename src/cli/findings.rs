//! Findings as people read them: by severity, then by rule; what a rule means is said once, then where.

use std::fmt::Write;

use crate::check::Severity;
use crate::cutover::report::Finding;

/// Severities, the worst first, with their headings.
const SEVERITIES: &[(&str, &str)] = &[
    (Severity::Error.as_str(), "ERRORS"),
    (Severity::Warning.as_str(), "WARNINGS"),
    (Severity::Note.as_str(), "NOTES"),
];

/// Sorted as they are shown.
pub(super) fn sort(findings: &mut [Finding]) {
    let rank = |severity: &str| SEVERITIES.iter().position(|(name, _)| *name == severity);
    findings.sort_by(|a, b| {
        let key = |finding: &Finding| (rank(&finding.severity), finding.name.clone(), finding.object.clone());
        key(a).cmp(&key(b))
    });
}

/// The sorted findings as lines; nothing if there are none.
pub(super) fn text(findings: &[Finding]) -> String {
    let mut out = String::new();
    for (severity, heading) in SEVERITIES {
        let of_severity: Vec<&Finding> = findings.iter().filter(|finding| finding.severity == *severity).collect();
        if !of_severity.is_empty() {
            let _ = writeln!(out, "{heading}");
        }
        for rule in of_severity.chunk_by(|a, b| a.name == b.name) {
            let _ = writeln!(out, "  {}: {}", rule[0].name, rule[0].advice);
            for finding in rule {
                let side = finding.side.map_or("here", |side| side.as_str());
                let _ = writeln!(out, "    {side:<7} {}", finding.object);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Side;

    fn finding(name: &str, severity: &str, side: Option<Side>, object: &str) -> Finding {
        let text = |text: &str| text.to_owned();
        Finding { name: text(name), severity: text(severity), side, object: text(object), advice: text("do it") }
    }

    #[test]
    fn the_worst_comes_first_and_a_rule_is_explained_once() {
        let mut findings = [
            finding("triggers", "note", None, "x"),
            finding("lag", "error", Some(Side::Target), "2 s"),
            finding("immovable", "error", Some(Side::Origin), "pid 8"),
            finding("immovable", "error", Some(Side::Origin), "pid 7"),
        ];
        sort(&mut findings);
        let expected = "ERRORS\n  immovable: do it\n    origin  pid 7\n    origin  pid 8\n  lag: do it\n    target  2 s\n\
                        NOTES\n  triggers: do it\n    here    x\n";
        assert_eq!(text(&findings), expected);
        assert_eq!(text(&[]), "");
    }
}
