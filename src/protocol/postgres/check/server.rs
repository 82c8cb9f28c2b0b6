//! The clusters: which they are, how they are set.

use crate::check::Finding;
use crate::record::Side;

use super::facts::Facts;
use super::{on, rules};

pub(super) fn alone(side: Side, facts: &Facts, found: &mut Vec<Finding>) {
    if !facts.is_known() {
        found.push(on(side, rules::VERSION_UNSUPPORTED, facts.version.to_string()));
        return;
    }
    if !facts.direct {
        found.push(on(side, rules::POOLER, facts.database.as_str()));
    }
    let setting = |name: &str| facts.settings.get(name).map_or("", String::as_str);
    if setting("track_counts") == "off" {
        found.push(on(side, rules::TRACK_COUNTS_OFF, "track_counts"));
    }
    let timeouts = ["idle_session_timeout", "idle_in_transaction_session_timeout"];
    let set = timeouts.into_iter().filter(|name| setting(name) != "0");
    found.extend(set.map(|name| on(side, rules::IDLE_TIMEOUT, name)));
}

pub(super) fn together(origin: &Facts, target: &Facts, found: &mut Vec<Finding>) {
    if origin.system_id == target.system_id {
        let same = origin.started == target.started && origin.database == target.database;
        let rule = if same { rules::SAME_DATABASE } else { rules::SAME_SYSTEM_ID };
        found.push(on(Side::Target, rule, format!("system identifier {}", target.system_id)));
    }
    let prepared = |facts: &Facts| facts.settings.get("max_prepared_transactions")?.parse::<u32>().ok();
    if prepared(origin) > prepared(target) {
        found.push(on(Side::Target, rules::PREPARED_TRANSACTIONS_DIFFER, "max_prepared_transactions"));
    }
    for (name, here) in &origin.meaning {
        if let Some(there) = target.meaning.get(name).filter(|there| *there != here) {
            found.push(on(Side::Target, rules::SETTING_DIFFERS, format!("{name}: {here} -> {there}")));
        }
    }
    let differs = |name: &str| match (origin.locale.get(name), target.locale.get(name)) {
        (Some(here), Some(there)) if here != there => Some(format!("{name}: {here} -> {there}")),
        _ => None,
    };
    // Two locales have two versions.
    let version = if differs("provider").or(differs("locale")).is_none() { differs("version") } else { None };
    found.extend(differs("encoding").map(|how| on(Side::Target, rules::ENCODING_DIFFERS, how)));
    let texts = ["provider", "locale", "ctype", "rules"].into_iter().filter_map(differs).chain(version);
    found.extend(texts.map(|how| on(Side::Target, rules::COLLATION_DIFFERS, how)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(facts: &Facts) -> Vec<&'static str> {
        let mut found = Vec::new();
        alone(Side::Target, facts, &mut found);
        found.iter().map(|finding| finding.rule.name).collect()
    }

    #[test]
    fn a_process_id_that_is_not_the_servers_is_a_pooler() {
        let settings = ["idle_session_timeout", "idle_in_transaction_session_timeout"];
        let settings: super::super::facts::Named =
            settings.map(|name| (name.to_owned(), "0".to_owned())).into_iter().collect();
        let facts = Facts { version: 150_000, direct: true, settings, ..Facts::default() };
        assert!(named(&facts).is_empty());
        assert_eq!(named(&Facts { direct: false, ..facts }), ["pooler"]);
    }

    #[test]
    fn a_version_that_was_not_tried_is_named_and_nothing_else_is_said_of_it() {
        for version in [130_012, 190_000] {
            assert_eq!(named(&Facts { version, ..Facts::default() }), ["version_unsupported"]);
        }
    }
}
