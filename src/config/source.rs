//! Where values come from: `proxy.toml` and the environment, merged into texts that know their place, so that every
//! error can say which line or which variable is wrong and which key was probably meant.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::value::Setting;

/// A key as its section declares it.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What it does; the example file says the same.
    pub doc: &'static [&'static str],
    /// What holds when it is not given.
    pub default: Default,
    /// TOML writes it without quotes.
    pub bare: bool,
    /// TOML writes it as an array.
    pub list: bool,
    /// TOML writes it as an inline table.
    pub table: bool,
}

/// What holds when a key is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    /// This value, in text form.
    Is(&'static str),
    /// Nothing; the text is an example.
    Unset(&'static str),
    /// It must be given; the text is an example.
    Required(&'static str),
}

/// How often a section may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// At most once: `[name]`. Its defaults hold when it is not there.
    One,
    /// `[[name]]`, at least once.
    Many,
    /// `[[name]]`, or not at all.
    Any,
}

impl Times {
    /// The section's line in the file.
    pub fn header(self, name: &str) -> String {
        match self {
            Times::One => format!("[{name}]"),
            Times::Many | Times::Any => format!("[[{name}]]"),
        }
    }
}

/// A section: a struct whose keys are declared once, with their documentation and defaults.
pub trait Section: Sized {
    /// Its name in brackets.
    const NAME: &'static str;
    /// How often it may be written.
    const TIMES: Times;
    /// What it is about.
    const DOC: &'static [&'static str];
    /// Its keys.
    const KEYS: &'static [Key];

    /// Read every key.
    fn read(values: &Values) -> Result<Self, Error>;
}

/// A configuration that cannot be used: what, where, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct Error {
    place: Place,
    message: String,
}

impl Error {
    /// An error at a place.
    pub fn new(place: &Place, message: impl Into<String>) -> Error {
        Error { place: place.clone(), message: message.into() }
    }
}

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The file as a whole.
    File(String),
    /// A line of the file, counted from 1.
    Line(String, usize),
    /// An environment variable.
    Variable(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File(file) => f.write_str(file),
            Place::Line(file, line) => write!(f, "{file}:{line}"),
            Place::Variable(name) => write!(f, "environment variable {name}"),
        }
    }
}

/// The texts of one section.
#[derive(Clone, Debug)]
pub struct Values {
    /// Where the section begins, for what is missing in it.
    pub place: Place,
    texts: BTreeMap<&'static str, (String, Place)>,
}

impl Values {
    /// The first of these keys that somebody wrote.
    pub fn written(&self, keys: &[&'static str]) -> Option<&'static str> {
        keys.iter().copied().find(|key| self.texts.contains_key(key))
    }

    /// The key's value, or its default.
    pub fn get<T: Setting>(&self, key: &Key) -> Result<T, Error> {
        let (text, place) = match (self.texts.get(key.name), key.default) {
            (Some((text, place)), _) => (text.as_str(), place),
            (None, Default::Is(text)) => (text, &self.place),
            (None, Default::Unset(_)) => ("", &self.place),
            (None, Default::Required(sample)) => {
                let message = format!("`{}` is missing, for example {} = \"{sample}\"", key.name, key.name);
                return Err(Error::new(&self.place, message));
            }
        };
        T::from_text(text).ok_or_else(|| Error::new(place, format!("`{}` must be {}", key.name, T::EXPECTS)))
    }

    /// Where the key was given, else where the section begins.
    pub fn place(&self, key: &str) -> &Place {
        self.texts.get(key).map_or(&self.place, |(_, place)| place)
    }
}

/// The environment has no order: `.._9_..` may come before `.._2_..`, and makes room for it.
const VARIABLE_SECTIONS_MAX: usize = 100;

/// Everything that was given, by section.
pub struct Source {
    file: String,
    sections: BTreeMap<&'static str, Vec<Values>>,
}

/// A section's name, how often it may be written, and its keys.
pub(super) type Shape = (&'static str, Times, &'static [Key]);

impl Source {
    /// Read `text` and overlay `TANDEM_SECTION_KEY` variables. `file` is what errors call it.
    pub(super) fn read(
        file: &str,
        text: &str,
        shapes: &[Shape],
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Source, Error> {
        let mut source = Source { file: file.to_owned(), sections: BTreeMap::new() };
        source.toml(text, shapes)?;
        for (name, value) in variables {
            source.variable(&name, value, shapes)?;
        }
        Ok(source)
    }

    /// The only section of this name; empty if it was not given.
    pub(super) fn one(&self, name: &str) -> Values {
        self.many(name).pop().unwrap_or_else(|| self.empty())
    }

    /// All sections of this name.
    pub(super) fn many(&self, name: &str) -> Vec<Values> {
        self.sections.get(name).cloned().unwrap_or_default()
    }

    /// The file as a whole.
    pub(super) fn place(&self) -> Place {
        Place::File(self.file.clone())
    }

    fn empty(&self) -> Values {
        Values { place: self.place(), texts: BTreeMap::new() }
    }

    fn toml(&mut self, text: &str, shapes: &[Shape]) -> Result<(), Error> {
        let line = |span: Range<usize>| Place::Line(self.file.clone(), line_of(text, span.start));
        let document = DeTable::parse(text).map_err(|error| {
            let place = error.span().map_or_else(|| self.place(), &line);
            Error::new(&place, error.message())
        })?;
        let mut sections = BTreeMap::<_, Vec<Values>>::new();
        for (name, value) in document.get_ref() {
            let place = line(name.span());
            let &(section, times, keys) =
                shapes.iter().find(|(section, ..)| section == name.get_ref()).ok_or_else(|| {
                    Error::new(&place, unknown("section", name.get_ref(), shapes.iter().map(|(section, ..)| *section)))
                })?;
            for table in tables(value.get_ref(), times).ok_or_else(|| {
                Error::new(&place, format!("`{section}` is a section: write {}", times.header(section)))
            })? {
                let texts = texts(table, keys, &line)?;
                let place = table.keys().map(|key| key.span().start).min().map_or(place.clone(), |at| line(at..at));
                sections.entry(section).or_default().push(Values { place, texts });
            }
        }
        self.sections = sections;
        Ok(())
    }

    /// `TANDEM_JOURNAL_DIR`; of several listeners the second is `TANDEM_LISTEN_2_ADDRESS`. Variables that begin with no
    /// section's name are not ours.
    fn variable(&mut self, name: &str, value: String, shapes: &[Shape]) -> Result<(), Error> {
        let Some(rest) = name.strip_prefix("TANDEM_") else { return Ok(()) };
        let found = shapes.iter().find_map(|&(section, times, keys)| {
            let key = rest.strip_prefix(&*section.to_uppercase())?.strip_prefix('_')?;
            Some((section, times, keys, key))
        });
        let Some((section, times, keys, key)) = found else { return Ok(()) };
        if is_of_a_service(key) {
            return Ok(());
        }
        let place = Place::Variable(name.to_owned());
        let (at, key) = match key.split_once('_') {
            Some((digits, key)) if times != Times::One && digits.parse::<usize>().is_ok_and(|n| n > 0) => {
                (digits.parse().unwrap_or(1), key)
            }
            _ => (1, key),
        };
        let key = key.to_lowercase();
        let &Key { name, .. } = find(keys, &key).ok_or_else(|| {
            Error::new(&place, unknown(&format!("key of [{section}]"), &key, keys.iter().map(|key| key.name)))
        })?;
        if at > VARIABLE_SECTIONS_MAX {
            return Err(Error::new(
                &place,
                format!("at most {VARIABLE_SECTIONS_MAX} [[{section}]] come from variables"),
            ));
        }
        let instances = self.sections.entry(section).or_default();
        while instances.len() < at {
            instances.push(Values { place: place.clone(), texts: BTreeMap::new() });
        }
        instances[at - 1].texts.insert(name, (value, place));
        Ok(())
    }
}

fn tables<'a, 'i>(value: &'a DeValue<'i>, times: Times) -> Option<Vec<&'a DeTable<'i>>> {
    match value {
        DeValue::Table(table) if times == Times::One => Some(vec![table]),
        DeValue::Array(array) if times != Times::One => array.iter().map(|item| item.get_ref().as_table()).collect(),
        _ => None,
    }
}

fn texts(
    table: &DeTable<'_>,
    keys: &'static [Key],
    line: &impl Fn(Range<usize>) -> Place,
) -> Result<BTreeMap<&'static str, (String, Place)>, Error> {
    let mut texts = BTreeMap::new();
    for (name, value) in table {
        let place = line(name.span());
        let key = find(keys, name.get_ref())
            .ok_or_else(|| Error::new(&place, unknown("key", name.get_ref(), keys.iter().map(|key| key.name))))?;
        let text = match (value.get_ref(), key.table) {
            (DeValue::Table(pairs), true) => inline(pairs),
            (value, _) => text(value),
        };
        let text = text.ok_or_else(|| {
            let message = match key.list {
                true => format!("`{}` takes a list of values without commas in them", key.name),
                false => format!("`{}` takes a plain value, not this one", key.name),
            };
            Error::new(&place, message)
        })?;
        texts.insert(key.name, (text, place));
    }
    Ok(texts)
}

fn find<'k>(keys: &'k [Key], name: &str) -> Option<&'k Key> {
    keys.iter().find(|key| key.name == name)
}

fn text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.as_str().replace('_', "")),
        DeValue::Boolean(flag) => Some(flag.to_string()),
        DeValue::Array(items) => {
            let items: Option<Vec<String>> = items.iter().map(|item| text(item.get_ref())).collect();
            // A comma is what items are told apart by.
            items.filter(|items| !items.iter().any(|item| item.contains(','))).map(|items| items.join(","))
        }
        _ => None,
    }
}

/// The text form of an inline table.
fn inline(pairs: &DeTable<'_>) -> Option<String> {
    let pair = |(name, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| match value.get_ref() {
        DeValue::String(text) => Some(format!("{}={text}", name.get_ref())),
        _ => None,
    };
    let pairs: Option<Vec<String>> = pairs.iter().map(pair).collect();
    pairs.map(|pairs| pairs.join(","))
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.as_bytes().iter().take(at).filter(|&&byte| byte == b'\n').count()
}

/// Kubernetes tells every container of every service: one called `tandem-admin` gives `TANDEM_ADMIN_SERVICE_HOST`,
/// `TANDEM_ADMIN_PORT`, `TANDEM_ADMIN_PORT_6480_TCP_ADDR`. No section has such keys.
fn is_of_a_service(key: &str) -> bool {
    let numbered = |rest: &str| {
        let (digits, rest) = rest.split_once('_').unwrap_or((rest, "TCP"));
        let protocol = rest.split('_').next().unwrap_or_default();
        !digits.is_empty()
            && digits.bytes().all(|byte| byte.is_ascii_digit())
            && ["TCP", "UDP", "SCTP"].contains(&protocol)
    };
    matches!(key, "SERVICE_HOST" | "SERVICE_PORT" | "PORT")
        || key.starts_with("SERVICE_PORT_")
        || key.strip_prefix("PORT_").is_some_and(numbered)
}

/// "unknown key `durabilty`: did you mean `durability`?"
fn unknown(what: &str, name: &str, known: impl Iterator<Item = &'static str>) -> String {
    match nearest(name, known) {
        Some(near) => format!("unknown {what} `{name}`: did you mean `{near}`?"),
        None => format!("unknown {what} `{name}`"),
    }
}

/// The known name with the smallest edit distance; the first of several.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known.min_by_key(|candidate| distance(name, candidate))
}

/// Levenshtein distance, one row at a time.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_counts_edits() {
        for (a, b, expected) in [("", "abc", 3), ("abc", "abc", 0), ("durabilty", "durability", 1), ("dri", "dir", 2)] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        }
    }
}
