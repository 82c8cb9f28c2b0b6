//! Schema changes of what is no table: keyspaces, types, indexes, views, functions, aggregates, triggers.
//!
//! No row that comes later needs them by itself: a table that does (of a type, in a keyspace) is made by a change of its own,
//! which is refused until they are there and holds that table alone. So what the secondary refuses of these is listed,
//! and everything else goes on. A keyspace that is dropped takes rows with it: that is waited for.
//!
//! Whether a refusal means that the change was done before is told by the server's words: both versions have one error code for
//! all that is wrong with a statement.

use crate::protocol::cql::client::{Client, Error};
use crate::protocol::cql::definitions::{Definitions, load};
use crate::protocol::cql::text::statement::{Action, Name, Object, Schema};
use crate::protocol::cql::wire::response::code;

/// Whether the refusal says that it was done before. (Source: the statements of Cassandra's package
/// `org.apache.cassandra.cql3.statements.schema`, of 4.1 and 5.0.)
pub(super) fn is_done_already(action: Action, error: &Error) -> bool {
    let Error::Server(refusal) = error else { return false };
    let says = |words: &str| refusal.error().message.contains(words);
    match action {
        Action::Create => {
            error.code() == Some(code::ALREADY_EXISTS) || says("already exists") || says("is a duplicate of")
        }
        // A field that is added.
        Action::Alter => says("already exists"),
        Action::Drop => says("doesn't exist"),
    }
}

/// Whether a cluster has what is made or dropped. `None`: that does not show.
pub(super) async fn has(client: &Client, schema: &Schema, keyspace: Option<&str>) -> Result<Option<bool>, Error> {
    let Some(name) = &schema.name else { return Ok(None) };
    // An index is where its table is, and its name says nothing of that.
    let at = if schema.object == Object::Index { schema.table.as_ref().unwrap_or(name) } else { name };
    let Some(keyspace) = at.keyspace_or(keyspace) else { return Ok(None) };
    Ok(load(client).await?.has(schema.object, keyspace, &name.name))
}

/// Whether the secondary's type is what the primary's was at some time: fields are only added, behind the others.
pub(super) fn type_fits(primary: &Definitions, secondary: &Definitions, name: &Name, keyspace: Option<&str>) -> bool {
    let Some(keyspace) = name.keyspace_or(keyspace) else { return false };
    match (primary.fields(keyspace, &name.name), secondary.fields(keyspace, &name.name)) {
        (Some(here), Some(there)) => here.starts_with(there),
        // Later in the journal the primary dropped it.
        (None, _) => true,
        (Some(_), None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::cql::client::refusal;
    use crate::protocol::cql::wire::response::ErrorKind;

    #[test]
    fn a_refusal_says_whether_the_change_was_done_before() {
        for (action, words, is_done) in [
            (Action::Create, "A user type with name 'u' already exists", true),
            (Action::Create, "Index t_a_idx_1 is a duplicate of existing index t_a_idx", true),
            (Action::Create, "Keyspace 'nothing' doesn't exist", false),
            (Action::Create, "SASI indexes are disabled. Enable in cassandra.yaml to use.", false),
            (Action::Create, "User-defined functions are disabled in cassandra.yaml", false),
            (Action::Create, "Unrecognized strategy option {east} passed to NetworkTopologyStrategy", false),
            (Action::Alter, "Cannot add field b to type k.u: a field with name b already exists", true),
            (Action::Alter, "Keyspace 'nothing' doesn't exist", false),
            (Action::Drop, "Index 'k.i' doesn't exist'", true),
            (Action::Drop, "Cannot drop user type 'k.u' as it is still used by tables t", false),
        ] {
            let error = Error::Server(Box::new(refusal(ErrorKind::Invalid, words)));
            assert_eq!(is_done_already(action, &error), is_done, "{words}");
        }
    }

    #[test]
    fn a_type_fits_while_the_primary_has_its_fields_first() {
        let of = |fields: &[&str]| {
            let fields = fields.iter().map(|field| (field.to_string(), "int".to_owned())).collect();
            Definitions::of_type("k", "u", fields)
        };
        let name = Name { keyspace: None, name: "u".to_owned() };
        let fits = |here: &Definitions, there: &Definitions| type_fits(here, there, &name, Some("k"));
        assert!(fits(&of(&["a", "b", "c"]), &of(&["a", "b"])), "another change comes later");
        assert!(!fits(&of(&["a", "b"]), &of(&["a", "c"])));
        assert!(!fits(&of(&["a"]), &Definitions::default()));
        assert!(fits(&Definitions::default(), &of(&["a"])), "it was dropped since");
    }
}
