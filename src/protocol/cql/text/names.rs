//! What a server calls the markers that a statement gives no names, `?`: values may be bound by those names too.
//!
//! A marker is called after what it is a value of: a column, `[ttl]`, `in(c)`, `value(m)`. Servers tell by the column's type
//! whether an element's place is `idx(l)` or `key(m)`; here both are given, and a client binds one of them.

use super::expr::{Expr, Value};
use super::statement::{
    Body, Condition, Modification, Operand, Operation, Operator, Relation, Restricted, Statement, Using,
};

/// What each marker may be called, by its number. Nothing: it is a value of what is not told here.
pub fn names(statement: &Statement) -> Vec<Vec<String>> {
    let mut search = Search { found: vec![Vec::new(); statement.markers.len()] };
    match &statement.body {
        Body::Select(select) => {
            search.relations(&select.relations);
            search.limit(select.limit.as_ref(), "[limit]");
            search.limit(select.per_partition_limit.as_ref(), "[per_partition_limit]");
        }
        Body::Batch(batch) => search.using(&batch.using),
        _ => {}
    }
    statement.modifications().iter().for_each(|modification| search.modification(modification));
    search.found
}

struct Search {
    found: Vec<Vec<String>>,
}

impl Search {
    fn modification(&mut self, modification: &Modification) {
        self.using(&modification.using);
        if let Some(json) = &modification.json {
            self.value(&json.document, &["[json]".to_owned()]);
        }
        for assignment in &modification.assignments {
            let column = &assignment.column;
            match &assignment.operation {
                Operation::Set(value)
                | Operation::Add(value)
                | Operation::Prepend(value)
                | Operation::Subtract(value) => self.value(value, std::slice::from_ref(column)),
                Operation::SetElement(at, value) => {
                    self.value(at, &place(column));
                    self.value(value, &[of("value", column)]);
                }
                Operation::SetField(field, value) => self.value(value, &[format!("{column}.{field}")]),
                Operation::DeleteElement(at) => {
                    self.value(at, &place(column));
                    self.value(at, &[of("value", column)]);
                }
                Operation::Delete | Operation::DeleteField(_) => {}
            }
        }
        self.relations(&modification.relations);
        if let Some(Condition::Columns(relations)) = &modification.condition {
            self.relations(relations);
        }
    }

    fn using(&mut self, using: &Using) {
        self.limit(using.timestamp.as_ref(), "[timestamp]");
        self.limit(using.ttl.as_ref(), "[ttl]");
    }

    fn limit(&mut self, value: Option<&Expr>, name: &str) {
        if let Some(value) = value {
            self.value(value, &[name.to_owned()]);
        }
    }

    fn relations(&mut self, relations: &[Relation]) {
        for relation in relations {
            match &relation.left {
                Restricted::Column(column) => self.compared(relation, column),
                Restricted::Element(column, at) => {
                    self.value(at, &place(column));
                    self.compared(relation, &of("value", column));
                }
                Restricted::Field(column, field) => self.compared(relation, &format!("{column}.{field}")),
                Restricted::Columns(columns) => self.together(relation, columns),
                Restricted::Token(_) | Restricted::Index(_) => {}
            }
        }
    }

    fn compared(&mut self, relation: &Relation, name: &str) {
        match (relation.operator, &relation.right) {
            (Operator::In, Operand::One(value)) => self.value(value, &[of("in", name)]),
            (Operator::Eq | Operator::NotEq | Operator::Range, Operand::One(value)) => {
                self.value(value, &[name.to_owned()]);
            }
            (Operator::In | Operator::Range, Operand::Many(values)) => {
                values.iter().for_each(|value| self.value(value, &[name.to_owned()]));
            }
            _ => {}
        }
    }

    /// `(a, b) ..`.
    fn together(&mut self, relation: &Relation, columns: &[String]) {
        let all = columns.join(",");
        match (relation.operator, &relation.right) {
            (Operator::In, Operand::One(value)) => self.value(value, &[of("in", &all)]),
            (_, Operand::One(value)) => self.tuple(value, columns, &all),
            (_, Operand::Many(values)) => values.iter().for_each(|value| self.tuple(value, columns, &all)),
            (_, Operand::Nothing) => {}
        }
    }

    fn tuple(&mut self, value: &Expr, columns: &[String], all: &str) {
        match &value.value {
            Value::Tuple(parts) => {
                let pairs = parts.iter().zip(columns);
                pairs.for_each(|(part, column)| self.value(part, std::slice::from_ref(column)));
            }
            _ => self.value(value, &[format!("({all})")]),
        }
    }

    /// A value of what may be called so.
    fn value(&mut self, value: &Expr, names: &[String]) {
        let each = |name: &dyn Fn(&str) -> String| names.iter().map(|of| name(of)).collect::<Vec<_>>();
        match &value.value {
            Value::Marker(number) => {
                self.found.get_mut(*number).into_iter().for_each(|found| found.extend_from_slice(names));
            }
            Value::Hint(_, inner) => self.value(inner, names),
            Value::Tuple(parts) => {
                for (at, part) in parts.iter().enumerate() {
                    self.value(part, &each(&|name| format!("{name}[{at}]")));
                }
            }
            Value::Fields(fields) => {
                for (field, part) in fields {
                    self.value(part, &each(&|name| format!("{name}.{field}")));
                }
            }
            _ => {}
        }
    }
}

/// Of an element.
fn place(column: &str) -> [String; 2] {
    [of("idx", column), of("key", column)]
}

fn of(what: &str, name: &str) -> String {
    format!("{what}({name})")
}
