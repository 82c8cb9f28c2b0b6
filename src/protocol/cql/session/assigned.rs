//! The values of an execution by the markers of its statement: by place, by name, or by what the server calls a marker.

use std::cell::OnceCell;
use std::collections::HashMap;

use crate::protocol::cql::text::names::names;
use crate::protocol::cql::text::statement::Statement;
use crate::protocol::cql::wire::primitive::Value;
use crate::protocol::cql::wire::request::{Bound, Values};

/// Values as they were sent are one behind the other: the first are soon found. Who asks for others, or by name, is given
/// a table, made once: a request may have 65 535 values, and a statement may ask for each.
const NEAR: usize = 32;

/// What is bound to the markers of a statement.
pub(in crate::protocol::cql) struct Assigned<'s, 'v> {
    statement: &'s Statement,
    values: Values<'v>,
    table: OnceCell<Vec<Option<Value<'v>>>>,
}

impl<'s, 'v> Assigned<'s, 'v> {
    pub(in crate::protocol::cql) fn new(statement: &'s Statement, values: Values<'v>) -> Assigned<'s, 'v> {
        Assigned { statement, values, table: OnceCell::new() }
    }

    /// The value of a marker. `None`: it has none, or it is not known which.
    pub(super) fn value(&self, number: usize) -> Option<Value<'v>> {
        if !self.values.named() && number < NEAR {
            return self.values.get(number);
        }
        self.table().get(number).copied().flatten()
    }

    /// What is bound to a marker; nothing is null, or not set.
    pub(in crate::protocol::cql) fn bytes(&self, number: usize) -> Option<&'v [u8]> {
        match self.value(number) {
            Some(Value::Set(bytes)) => Some(bytes),
            _ => None,
        }
    }

    /// Whether it is known which value is whose. By name it may not be: of a marker that only the server knows the name of.
    pub(super) fn is_told(&self) -> bool {
        !self.values.named() || self.table().iter().all(Option::is_some)
    }

    /// The values by place, if they were sent by name.
    pub(super) fn by_place(&self) -> Option<Vec<Bound<'v>>> {
        let value = |value: &Option<Value<'v>>| (None, value.unwrap_or(Value::Unset));
        self.values.named().then(|| self.table().iter().map(value).collect())
    }

    fn table(&self) -> &[Option<Value<'v>>] {
        self.table.get_or_init(|| {
            if !self.values.named() {
                return self.values.iter().map(|(_, value)| Some(value)).collect();
            }
            let mut given: HashMap<&str, Value<'v>> = HashMap::new();
            for (name, value) in self.values.iter() {
                name.into_iter().for_each(|name| _ = given.entry(name).or_insert(value));
            }
            let markers = &self.statement.markers;
            let is_nameless = markers.iter().any(|marker| marker.name.is_none());
            let called = if is_nameless { names(self.statement) } else { vec![Vec::new(); markers.len()] };
            let found = |name: &String| given.get(name.as_str()).copied();
            (markers.iter().zip(&called))
                .map(|(marker, called)| marker.name.as_ref().map_or_else(|| called.iter().find_map(found), found))
                .collect()
        })
    }
}
