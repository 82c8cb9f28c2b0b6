//! Names of the origin and what the target calls them.

use std::fmt;

use crate::config::TableMap;

/// All maps, those of one table before those of many; of what fits the first counts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Maps(Vec<Map>);

/// What is said of a table, or of all tables whose names are alike.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Map {
    pub(super) from: Name,
    /// `None`: the same name.
    to: Option<Name>,
    /// Columns of the origin, and their names on the target.
    pub(super) columns: Vec<(String, String)>,
    pub(super) filter: Option<String>,
}

/// A qualified name; between the two parts, if there are two, stand any letters.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Name(String, Option<String>);

impl Name {
    fn new(text: &str) -> Name {
        match text.split_once('*') {
            Some((start, end)) => Name(start.to_owned(), Some(end.to_owned())),
            None => Name(text.to_owned(), None),
        }
    }

    pub(super) fn has_star(&self) -> bool {
        self.1.is_some()
    }

    /// What the star stands for, if the name is like this.
    fn star<'n>(&self, name: &'n str) -> Option<&'n str> {
        match &self.1 {
            None => (name == self.0).then_some(""),
            Some(end) => name.strip_prefix(&self.0)?.strip_suffix(end.as_str()).filter(|star| !star.is_empty()),
        }
    }

    /// The name with this for the star.
    fn with(&self, star: &str) -> String {
        match &self.1 {
            None => self.0.clone(),
            Some(end) => format!("{}{star}{end}", self.0),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with("*"))
    }
}

impl Maps {
    pub(super) fn new(maps: &[TableMap]) -> Maps {
        let map = |map: &TableMap| Map {
            from: Name::new(&map.from),
            to: map.to.as_deref().map(Name::new),
            columns: map.columns.0.clone(),
            filter: map.filter.clone(),
        };
        let mut maps: Vec<Map> = maps.iter().map(map).collect();
        maps.sort_by_key(|map| map.from.has_star());
        Maps(maps)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Map> {
        self.0.iter()
    }

    /// What is said of a table of the origin.
    pub(super) fn of(&self, origins: &str) -> Option<&Map> {
        self.0.iter().find(|map| map.from.star(origins).is_some())
    }

    /// The target's name of a table of the origin.
    pub(super) fn to_target(&self, origins: &str) -> String {
        let called = |map: &Map| Some(map.to.as_ref()?.with(map.from.star(origins)?));
        self.of(origins).and_then(called).unwrap_or_else(|| origins.to_owned())
    }

    /// The origin's name of a table of the target; `None`: nothing there would be called so here. Where two would, the
    /// one of which it is said, and not the one that keeps its name.
    pub(super) fn to_origin(&self, targets: &str) -> Option<String> {
        let called = self.0.iter().filter_map(|map| Some(map.from.with(map.to.as_ref()?.star(targets)?)));
        let mut names = called.chain([targets.to_owned()]);
        names.find(|name| self.to_target(name) == targets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Renames;

    fn maps(pairs: &[(&str, &str)]) -> Maps {
        let map = |(from, to): &(&str, &str)| TableMap {
            from: (*from).to_owned(),
            to: (!to.is_empty()).then(|| (*to).to_owned()),
            columns: Renames::default(),
            filter: None,
        };
        Maps::new(&pairs.iter().map(map).collect::<Vec<_>>())
    }

    #[test]
    fn what_has_another_name_there_is_found_by_it() {
        let maps = maps(&[("old.*", "new.*"), ("old.users", "app.accounts"), ("old.kept", ""), ("x.t_*_log", "y.*")]);
        for (origin, target) in [
            ("old.users", "app.accounts"),
            ("old.orders", "new.orders"),
            ("old.kept", "old.kept"),
            ("x.t_a_log", "y.a"),
            ("z.other", "z.other"),
        ] {
            assert_eq!(maps.to_target(origin), target);
            assert_eq!(maps.to_origin(target).as_deref(), Some(origin), "{target}");
        }
    }

    #[test]
    fn what_nothing_is_mirrored_to_is_nobodys() {
        let maps = maps(&[("old.*", "new.*"), ("old.users", "app.accounts")]);
        assert_eq!(maps.to_origin("old.orders"), None, "the origin's is elsewhere");
        assert_eq!(maps.to_origin("new.users"), Some("new.users".to_owned()));
        assert_eq!(maps.to_origin("old.users"), None);
    }

    #[test]
    fn names_may_be_exchanged() {
        let maps = maps(&[("a.x", "a.y"), ("a.y", "a.x")]);
        assert_eq!((maps.to_target("a.x"), maps.to_target("a.y")), ("a.y".to_owned(), "a.x".to_owned()));
        assert_eq!(maps.to_origin("a.x").as_deref(), Some("a.y"));
    }
}
