//! COPY: keys come with the stream, or from what its query writes.

use std::sync::Arc;

use pg_query::NodeEnum;
use pg_query::protobuf::{CopyStmt, DefElem, Node};

use super::super::catalog::{Events, Relation};
use super::super::key::Form;
use super::super::plan::{Action, CopyFormat, CopyIn, Counted};
use super::Scope;
use super::operand::string;
use super::reach::{MADE, Reach};
use super::target::{Named, Target, holders, key_names, labels, same_key};

/// A target with more leaves is dirty instead of owing a key in each.
const LEAVES_MAX: usize = 16;

impl Scope<'_> {
    pub(super) fn copy(&mut self, copy: &CopyStmt) -> Action {
        if let Some(query) = copy.query.as_deref().and_then(|query| query.node.as_ref()) {
            return match (query, self.outcome(query)) {
                (_, Some(outcome)) => outcome.without_answer().finish(Reach::of(self)),
                (NodeEnum::SelectStmt(select), None) => self.select(select),
                (_, None) => Action::Counted(Counted::because("COPY of a utility")),
            };
        }
        let reach = Reach::named(self);
        let Some(name) = copy.relation.as_ref().filter(|_| copy.is_from) else {
            return reach.why().map_or(Action::Pass, |why| Action::Counted(Counted::because(why)));
        };
        match Target::of(self.catalog, name) {
            Target::Temporary => Action::Pass,
            Target::System => Action::Opaque(Counted::because("a system catalog is written")),
            Target::Unknown => nobody_counts(format!("unknown table {}", name.relname)),
            Target::Known(named) => self.copy_in(copy, &named, reach),
        }
    }

    fn copy_in(&mut self, copy: &CopyStmt, named: &Named, reach: Reach) -> Action {
        let tables: Vec<_> = named.tables.iter().flat_map(|table| holders(self.catalog, table, false)).collect();
        let made = || named.tables.iter().any(|table| self.is_altered(table)).then(|| MADE.to_owned());
        let why = named.counted(self.catalog, Events::INSERT, false).or(reach.why()).or_else(made);
        if copy.is_program || !copy.filename.is_empty() {
            let (alone, why) = (why.is_none(), "COPY from a file of the server".to_owned());
            return Action::Counted(Counted { dirty: labels(&tables), why, alone });
        }
        if tables.is_empty() {
            return nobody_counts(why.unwrap_or_default());
        }
        self.exact |= !copy.options.is_empty();
        let dirty = labels(&named.behind);
        let counted = why.map(|why| Counted { dirty, why, alone: false });
        let altered = tables.iter().any(|table| self.made.alters(table));
        let key_at = key_at(copy, named, &tables).filter(|_| !altered);
        Action::CopyIn(CopyIn { key_at, tables, format: format(&copy.options), counted })
    }
}

/// A COPY into nothing that is mirrored. No other statement can be sent before its stream ends, so its hidden writes are
/// not counted.
fn nobody_counts(why: String) -> Action {
    let counted = Some(Counted::because(why));
    Action::CopyIn(CopyIn { tables: Vec::new(), key_at: None, format: CopyFormat::Other, counted })
}

/// Where the key columns stand, if all tables that the name could mean agree and their keys can be read.
fn key_at(copy: &CopyStmt, named: &Named, tables: &[Arc<Relation>]) -> Option<Vec<usize>> {
    let first = tables.first()?;
    let readable = |table: &Arc<Relation>| {
        table.key.is_some()
            && same_key(first, table)
            && !table.hazards.before_insert
            && !table.hazards.rules
            && table.key_columns().all(Form::evident)
    };
    if tables.len() > LEAVES_MAX || !tables.iter().all(readable) {
        return None;
    }
    let places = |table: &Arc<Relation>| -> Option<Vec<usize>> {
        let names: Vec<&str> = if copy.attlist.is_empty() {
            table.columns.iter().filter(|column| !column.generated).map(|column| column.name.as_str()).collect()
        } else {
            copy.attlist.iter().filter_map(string).collect()
        };
        key_names(first).iter().map(|key| names.iter().position(|name| name == key)).collect()
    };
    let at = named.tables.first().and_then(places)?;
    named.tables.iter().all(|table| places(table).as_ref() == Some(&at)).then_some(at)
}

/// The stream's format; [`CopyFormat::Other`] for what the proxy does not follow.
fn format(options: &[Node]) -> CopyFormat {
    Options::read(options).map_or(CopyFormat::Other, Options::format)
}

#[derive(Default)]
struct Options {
    format: Option<String>,
    delimiter: Option<u8>,
    null: Option<Vec<u8>>,
    quote: Option<u8>,
    escape: Option<u8>,
    header: bool,
}

impl Options {
    fn read(list: &[Node]) -> Option<Options> {
        let mut options = Options::default();
        for node in list {
            let NodeEnum::DefElem(option) = node.node.as_ref()? else { return None };
            options.set(option)?;
        }
        Some(options)
    }

    fn set(&mut self, option: &DefElem) -> Option<()> {
        let text = option.arg.as_deref().and_then(string);
        match option.defname.as_str() {
            "format" => self.format = Some(text?.to_owned()),
            "delimiter" => self.delimiter = Some(byte(text?)?),
            "quote" => self.quote = Some(byte(text?)?),
            "escape" => self.escape = Some(byte(text?)?),
            "null" => self.null = Some(text?.as_bytes().to_vec()),
            "header" => self.header = header(option.arg.as_deref())?,
            "freeze" | "force_null" | "force_quote" | "log_verbosity" => {}
            _ => return None, // ENCODING, DEFAULT, FORCE_NOT_NULL, ON_ERROR: values mean something else.
        }
        Some(())
    }

    fn format(self) -> CopyFormat {
        match self.format.as_deref().unwrap_or("text") {
            "text" => CopyFormat::Text {
                delimiter: self.delimiter.unwrap_or(b'\t'),
                null: self.null.unwrap_or_else(|| b"\\N".to_vec()),
                header: self.header,
            },
            "csv" => {
                let quote = self.quote.unwrap_or(b'"');
                CopyFormat::Csv {
                    delimiter: self.delimiter.unwrap_or(b','),
                    null: self.null.unwrap_or_default(),
                    quote,
                    escape: self.escape.unwrap_or(quote),
                    header: self.header,
                }
            }
            "binary" => CopyFormat::Binary,
            _ => CopyFormat::Other,
        }
    }
}

fn byte(text: &str) -> Option<u8> {
    match text.as_bytes() {
        [byte] => Some(*byte),
        _ => None,
    }
}

/// HEADER: absent argument is true; MATCH has a header line as well.
fn header(arg: Option<&Node>) -> Option<bool> {
    match arg.and_then(|node| node.node.as_ref()) {
        None => Some(true),
        Some(NodeEnum::Boolean(value)) => Some(value.boolval),
        Some(NodeEnum::Integer(value)) => match value.ival {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        },
        Some(NodeEnum::String(text)) => match text.sval.to_ascii_lowercase().as_str() {
            "true" | "on" | "match" => Some(true),
            "false" | "off" => Some(false),
            _ => None,
        },
        Some(_) => None,
    }
}
