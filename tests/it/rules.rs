//! Rules of the house that are worth a test.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ::tandem::metrics::{CATALOG, Kind, Metric};
use ::tandem::sandbox::cache_folder;

/// What assembles the program, or shows it: these may name protocols. All else is the core.
const ABOVE_PROTOCOLS: &[&str] = &["protocol", "proxy.rs", "cli", "lib.rs", "main.rs"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below a folder of the project.
fn sources(below: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(below)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder of the project") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root().join("src")).expect("below src").display().to_string()
}

/// The file without comments: what it names, not what it talks about.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("UTF-8");
    text.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn nothing_in_the_core_names_a_protocol() {
    for path in sources("src") {
        let file = relative(&path);
        let above = ABOVE_PROTOCOLS.iter().any(|above| file == *above || file.starts_with(&format!("{above}/")));
        assert!(above || !code(&path).contains("crate::protocol"), "{file} is core and names crate::protocol");
    }
}

#[test]
fn one_protocol_never_imports_another() {
    let folders: Vec<String> = fs::read_dir(root().join("src/protocol"))
        .expect("there are protocols")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.is_dir())
        .map(|path| path.file_name().expect("a name").to_string_lossy().into_owned())
        .collect();
    for path in sources("src/protocol") {
        let file = relative(&path);
        for other in folders.iter().filter(|other| !file.starts_with(&format!("protocol/{other}/"))) {
            let named = code(&path).contains(&format!("crate::protocol::{other}"));
            assert!(!named, "{file} names the protocol {other}");
        }
    }
}

#[test]
fn only_the_assembly_picks_a_protocol_by_the_wire() {
    for path in sources("src") {
        let file = relative(&path);
        let picks = code(&path).contains("Wire::Postgres =>");
        // Each wire has keys of its own, and in the demo servers and clients of its own.
        let may = ["proxy.rs", "cli/demo/mod.rs", "config/server.rs"].contains(&file.as_str());
        assert!(!picks || may, "{file} matches on the wire");
    }
}

#[test]
fn nobody_starts_tandem_with_the_settings_of_whoever_tests_it() {
    for folder in ["tests", "benches"] {
        let below = root().join(folder);
        let names: Vec<PathBuf> = sources(folder)
            .into_iter()
            .filter(|path| code(path).contains(concat!("CARGO_BIN_", "EXE")))
            .map(|path| path.strip_prefix(&below).expect("below it").to_owned())
            .collect();
        let [helper] = &names[..] else { panic!("{folder}: one place names the binary, not {names:?}") };
        let starts = code(&below.join(helper)).matches("sandbox::tandem(env!").count();
        assert_eq!(starts, 1, "{folder}: {} starts it without them", helper.display());
    }
}

#[test]
fn every_finding_of_a_switch_is_explained_for_the_night() {
    let night = fs::read_to_string(root().join("docs/switch.md")).expect("UTF-8");
    let mut seen = 0;
    for path in sources("src").into_iter().filter(|path| !is_of_check(&relative(path))) {
        for name in rule_names(&code(&path)) {
            assert!(night.contains(&format!("| `{name}` |")), "docs/switch.md does not explain {name}");
            seen += 1;
        }
    }
    assert!(seen > 3, "a switch finds something");
}

/// Where `tandem check` declares its rules, and where the macro for rules is.
fn is_of_check(file: &str) -> bool {
    file == "check.rs" || file.contains("/check/")
}

/// Names declared with `rules!`: a line each, `CONSTANT: Severity "name" "advice";`.
fn rule_names(code: &str) -> Vec<String> {
    let Some((_, rules)) = code.split_once("rules! {") else { return Vec::new() };
    let names = rules.lines().filter_map(|line| {
        let (head, rest) = line.split_once('"')?;
        let declares = [": Note ", ": Warning ", ": Error "].iter().any(|severity| head.ends_with(severity));
        declares.then(|| rest.split('"').next().map(str::to_owned)).flatten()
    });
    names.collect()
}

/// What no panel of `grafana/` draws, and why.
const NOT_DRAWN: &[(&str, &str)] = &[];

/// The metric that a series belongs to: those of histograms have suffixes.
fn metric_of(series: &str) -> Option<&'static str> {
    let is = |metric: &&Metric| match series.strip_prefix(metric.name) {
        Some("") => true,
        Some("_bucket" | "_sum" | "_count") => matches!(metric.kind, Kind::Histogram(_)),
        _ => false,
    };
    CATALOG.iter().find(is).map(|metric| metric.name)
}

/// Files of `grafana/` with this extension: where, and what they say.
fn grafana(extension: &str) -> Vec<(PathBuf, String)> {
    let entries = fs::read_dir(root().join("grafana")).expect("there are dashboards");
    let paths = entries.map(|entry| entry.expect("readable").path());
    paths
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .map(|path| (path.clone(), fs::read_to_string(path).expect("UTF-8")))
        .collect()
}

#[test]
fn every_metric_of_the_dashboards_and_alarms_exists() {
    for (path, text) in grafana("json").into_iter().chain(grafana("yml")) {
        let series = metric_names(&text);
        assert!(series.len() > 10, "{} looks at something", path.display());
        for name in series {
            assert!(metric_of(&name).is_some(), "{} has {name}, which does not exist", path.display());
        }
    }
}

#[test]
fn every_metric_is_drawn_or_listed_as_not_drawn() {
    let mut drawn = BTreeSet::new();
    for (_, text) in grafana("json") {
        let dashboard: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let panels = dashboard["panels"].as_array().expect("panels").iter();
        let targets = panels.flat_map(|panel| panel["targets"].as_array().cloned().unwrap_or_default());
        for target in targets {
            drawn.extend(
                metric_names(target["expr"].as_str().expect("an expression")).iter().filter_map(|name| metric_of(name)),
            );
        }
    }
    for metric in CATALOG {
        let excused = NOT_DRAWN.iter().any(|(name, _)| *name == metric.name);
        assert_ne!(drawn.contains(metric.name), excused, "{}: drawn, or listed as not drawn", metric.name);
    }
}

#[test]
fn panels_do_not_lie_over_each_other() {
    for (path, text) in grafana("json") {
        let dashboard: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let mut taken = BTreeSet::new();
        for panel in dashboard["panels"].as_array().expect("panels") {
            let at = |key: &str| panel["gridPos"][key].as_u64().expect("a place");
            for (x, y) in (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y))) {
                assert!(x < 24 && taken.insert((x, y)), "{}: {} at {x}, {y}", path.display(), panel["title"]);
            }
        }
    }
}

/// A rule of `grafana/alerts.yml`: its name and its other lines.
fn alarms() -> Vec<(String, String)> {
    let (_, text) = grafana("yml").pop().expect("there are alarms");
    let rules = text.split("      - alert: ").skip(1);
    rules.filter_map(|rule| rule.split_once('\n')).map(|(name, rest)| (name.to_owned(), rest.to_owned())).collect()
}

#[test]
fn every_alarm_says_how_grave_it_is_and_where_it_is_explained() {
    let explained = fs::read_to_string(root().join("docs/alerts.md")).expect("UTF-8");
    let alarms = alarms();
    for (name, rule) in &alarms {
        for part in ["        expr: ", "severity: ", "          summary: "] {
            assert_eq!(rule.matches(part).count(), 1, "{name} has {part:?} once");
        }
        let grave = ["critical", "warning", "info"].iter().any(|word| rule.contains(&format!("severity: {word} }}")));
        assert!(grave, "{name} is critical, warning or info");
        let section = format!("runbook: docs/alerts.md#{}\n", name.to_lowercase());
        assert!(rule.contains(&section), "{name} refers to its section");
        assert!(explained.contains(&format!("\n## {name}\n")), "docs/alerts.md explains {name}");
    }
    let sections = explained.lines().filter(|line| line.starts_with("## ")).count();
    assert_eq!(sections, alarms.len(), "docs/alerts.md explains alarms that are there");
}

#[test]
fn alarms_do_what_they_are_for() {
    let named = std::env::var_os("TANDEM_PROMTOOL").map(PathBuf::from);
    let fetched = Some(cache_folder().join("promtool")).filter(|path| path.exists());
    let promtool = named.or(fetched).unwrap_or_else(|| "promtool".into());
    for asked in [["check", "rules", "grafana/alerts.yml"], ["test", "rules", "tests/alerts.yml"]] {
        let output = Command::new(&promtool).args(asked).current_dir(root()).output();
        let output = output.unwrap_or_else(|error| {
            panic!("{}: {error}; run: scripts/setup --drivers, or set TANDEM_PROMTOOL", promtool.display())
        });
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
    }
}

#[test]
fn every_metric_that_is_described_is_recorded() {
    let catalogue = fs::read_to_string(root().join("src/metrics.rs")).expect("UTF-8");
    let rest: String =
        sources("src").into_iter().filter(|path| relative(path) != "metrics.rs").map(|path| code(&path)).collect();
    for metric in CATALOG {
        let constant = catalogue.lines().find(|line| line.contains(&format!("= \"{}\"", metric.name)));
        let constant = constant.and_then(|line| line.split_whitespace().next()).expect("declared in the catalogue");
        let recorded = rest.contains(&format!("metrics::{constant}")) || rest.contains(&format!("\"{}\"", metric.name));
        assert!(recorded, "{} is described, and nobody records it", metric.name);
    }
}

#[test]
fn every_metric_that_is_recorded_is_described() {
    for path in sources("src").into_iter().filter(|path| relative(path) != "metrics.rs") {
        for line in code(&path).lines().filter(|line| line.contains("\"tandem_")) {
            for name in metric_names(line) {
                let described = CATALOG.iter().any(|metric| metric.name == name);
                assert!(described, "{} records {name}, which src/metrics.rs does not know", relative(&path));
            }
        }
    }
}

/// Words like `tandem_mirror_lag_seconds`: of a family that the catalogue has, so that names of SQL are none.
fn metric_names(text: &str) -> Vec<String> {
    let family = |name: &str| name.split('_').nth(1).map(str::to_owned);
    let families: BTreeSet<_> = CATALOG.iter().map(|metric| family(metric.name)).collect();
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("tandem_") && families.contains(&family(word)))
        .map(str::to_owned)
        .collect()
}
