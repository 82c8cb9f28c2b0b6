//! Plans that were made before, by shape.
//!
//! Shared by all sessions. A plan is found by the whole shape of its text (the bytes are compared, not only their
//! hash), or by the text itself where literals had a say ([`Script::exact`]). A plan of an older catalog is made anew.
//! Past its limit the cache drops about half of what it holds, whatever comes first: a working set that fits comes
//! back with one parse each, one that does not fit has no good order of eviction.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;

use super::analysis::analyze;
use super::catalog::Catalog;
use super::lexer::{Reading, Tokens, hash};
use super::plan::Script;

/// Roughly what one token of a text costs in a plan and its key.
const BYTES_PER_TOKEN: usize = 64;

/// What a plan weighs at least, so that the configured number of plans is never passed; larger ones count as several.
const WEIGHT_MIN: usize = 4096;

/// Plans by shape and by text.
pub struct PlanCache {
    shapes: DashMap<Box<[u8]>, Plan, Spread>,
    texts: DashMap<Box<[u8]>, Plan, Spread>,
    weight: AtomicUsize,
    weight_max: usize,
}

struct Plan {
    script: Arc<Script>,
    weight: usize,
}

impl PlanCache {
    /// Holds at most so many plans, in at most about 4 KiB each on average.
    pub fn new(plans_max: usize) -> PlanCache {
        PlanCache {
            shapes: DashMap::with_hasher(Spread),
            texts: DashMap::with_hasher(Spread),
            weight: AtomicUsize::new(0),
            weight_max: plans_max.saturating_mul(WEIGHT_MIN),
        }
    }

    /// The plan of a text that was cut into `tokens`: from the cache, else made now (tens of microseconds for a short
    /// statement, without any wait).
    pub fn plan(&self, text: &[u8], tokens: &Tokens, catalog: &Catalog) -> Arc<Script> {
        self.find(text, tokens, catalog.epoch).unwrap_or_else(|| self.make(text, tokens, catalog))
    }

    /// How many plans it holds.
    pub fn len(&self) -> usize {
        self.shapes.len() + self.texts.len()
    }

    /// It holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn find(&self, text: &[u8], tokens: &Tokens, epoch: u64) -> Option<Arc<Script>> {
        let fresh = |plan: &Plan| (plan.script.epoch == epoch).then(|| plan.script.clone());
        let by_shape = || self.shapes.get(tokens.shape()).and_then(|plan| fresh(&plan));
        let by_text = || self.texts.get(text).and_then(|plan| fresh(&plan));
        match tokens.reading() {
            Reading::Plain => by_shape().or_else(by_text),
            Reading::ByText if shareable(tokens) => by_text(),
            Reading::ByText | Reading::Unreadable => None,
        }
    }

    fn make(&self, text: &[u8], tokens: &Tokens, catalog: &Catalog) -> Arc<Script> {
        let script = Arc::new(analyze(text, tokens, catalog));
        let weight = (tokens.list().len() * BYTES_PER_TOKEN + text.len()).max(WEIGHT_MIN);
        if tokens.reading() == Reading::Unreadable || !shareable(tokens) || weight > self.weight_max {
            return script;
        }
        let plan = Plan { script: script.clone(), weight };
        let old = if script.exact {
            self.texts.insert(text.into(), plan)
        } else {
            self.shapes.insert(tokens.shape().into(), plan)
        };
        let old = old.map_or(0, |old| old.weight);
        let total = self.weight.fetch_add(weight, Ordering::Relaxed) + weight;
        self.weight.fetch_sub(old, Ordering::Relaxed);
        if total > self.weight_max {
            self.shrink();
        }
        script
    }

    /// Drop every second plan.
    fn shrink(&self) {
        for map in [&self.shapes, &self.texts] {
            let mut keep = false;
            map.retain(|_, plan| {
                keep = !keep;
                if !keep {
                    self.weight.fetch_sub(plan.weight, Ordering::Relaxed);
                }
                keep
            });
        }
    }
}

/// The same bytes mean the same for every session: what is not ASCII does so in UTF-8 only.
fn shareable(tokens: &Tokens) -> bool {
    tokens.is_ascii() || tokens.utf8()
}

/// The lexer's hash for the maps.
#[derive(Clone, Copy, Default)]
struct Spread;

#[derive(Default)]
struct SpreadHasher(u64);

impl BuildHasher for Spread {
    type Hasher = SpreadHasher;

    fn build_hasher(&self) -> SpreadHasher {
        SpreadHasher::default()
    }
}

impl Hasher for SpreadHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = self.0.rotate_left(5) ^ hash(bytes);
    }

    /// The length of a slice: the hash has it already.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::super::analysis::schema::catalog;
    use super::super::lexer::Dialect;
    use super::*;

    fn plan(cache: &PlanCache, text: &str, catalog: &Catalog) -> Arc<Script> {
        let mut tokens = Tokens::default();
        tokens.lex(text.as_bytes(), Dialect::default());
        cache.plan(text.as_bytes(), &tokens, catalog)
    }

    #[test]
    fn texts_of_one_shape_share_a_plan_until_the_catalog_changes() {
        let cache = PlanCache::new(100);
        let mut catalog = catalog();
        let first = plan(&cache, "delete from acc where id = 1", &catalog);
        assert!(Arc::ptr_eq(&first, &plan(&cache, "DELETE FROM acc WHERE id = 22", &catalog)));
        assert!(!Arc::ptr_eq(&first, &plan(&cache, "delete from acc where id = 1.5", &catalog)));
        catalog.epoch += 1;
        assert_eq!(plan(&cache, "delete from acc where id = 1", &catalog).epoch, catalog.epoch);
        assert_eq!(cache.len(), 2);
    }

    #[test]
    fn where_literals_have_a_say_only_the_same_text_shares() {
        let cache = PlanCache::new(100);
        let catalog = catalog();
        let semicolons = plan(&cache, "copy acc from stdin (delimiter ';')", &catalog);
        let bars = plan(&cache, "copy acc from stdin (delimiter '|')", &catalog);
        assert!(!Arc::ptr_eq(&semicolons, &bars));
        assert!(Arc::ptr_eq(&bars, &plan(&cache, "copy acc from stdin (delimiter '|')", &catalog)));
    }

    #[test]
    fn what_a_read_is_compared_by_is_no_other_texts() {
        let (cache, catalog) = (PlanCache::new(100), catalog());
        let read = |text: &str| plan(&cache, text, &catalog).statements[0].read.clone().expect("a read");
        assert_ne!(read("select id, bal from acc order by 1").sort, read("select id, bal from acc order by 2").sort);
        let [own, servers] =
            ["app.tenant", "server_version"].map(|name| read(&format!("select current_setting('{name}')")));
        assert!(own.unfit.is_none() && servers.unfit.is_some(), "{own:?} {servers:?}");
        let literals =
            ["1", "2"].map(|id| plan(&cache, &format!("select bal from acc where id = {id} order by bal"), &catalog));
        assert!(Arc::ptr_eq(&literals[0], &literals[1]));
    }

    #[test]
    fn it_stays_within_its_limit() {
        let cache = PlanCache::new(20);
        let catalog = catalog();
        for at in 0..500 {
            plan(&cache, &format!("select a{at} from acc"), &catalog);
        }
        assert!(cache.weight.load(Ordering::Relaxed) <= cache.weight_max);
        assert!(!cache.is_empty() && cache.len() <= 20);
    }
}
