//! What a schema and its clients need beside tables.

use crate::check::{Finding, Rule};
use crate::record::Side;

use super::facts::{Facts, Named};
use super::{on, rules, types};

pub(super) fn together(origin: &Facts, target: &Facts, found: &mut Vec<Finding>) {
    if !origin.is_known() || !target.is_known() {
        return;
    }
    types::together(&origin.types, &target.types, found);
    missing(&origin.extensions, &target.extensions, rules::EXTENSION_MISSING, found);
    differing(&origin.extensions, &target.extensions, rules::EXTENSION_VERSION_DIFFERS, found);
    missing(&origin.sequences, &target.sequences, rules::SEQUENCE_MISSING, found);
    missing(&origin.collations, &target.collations, rules::COLLATION_MISSING, found);
    differing(&origin.collations, &target.collations, rules::COLLATION_DIFFERS, found);
    missing(&origin.roles, &target.roles, rules::ROLE_MISSING, found);
    // Either way round: a setting that only the target has changes sessions as well. Values stay unsaid.
    differing(&origin.role_settings, &target.role_settings, rules::ROLE_SETTING_DIFFERS, found);
    missing(&origin.role_settings, &target.role_settings, rules::ROLE_SETTING_DIFFERS, found);
    missing(&target.role_settings, &origin.role_settings, rules::ROLE_SETTING_DIFFERS, found);
    if origin.large_objects {
        found.push(on(Side::Origin, rules::LARGE_OBJECTS, origin.database.as_str()));
    }
}

fn missing(here: &Named, there: &Named, rule: &'static Rule, found: &mut Vec<Finding>) {
    found.extend(here.keys().filter(|name| !there.contains_key(*name)).map(|name| on(Side::Target, rule, name)));
}

fn differing(here: &Named, there: &Named, rule: &'static Rule, found: &mut Vec<Finding>) {
    let differs = |(name, value): &(&String, &String)| there.get(*name).is_some_and(|other| other != *value);
    found.extend(here.iter().filter(differs).map(|(name, _)| on(Side::Target, rule, name)));
}
