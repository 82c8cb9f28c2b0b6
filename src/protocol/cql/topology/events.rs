//! Events: what happens to the schema is the client's business, what happens to the nodes behind the proxy is not.
//!
//! A client that heard of such a node, coming or going, would connect to it, or call the proxy down.

use crate::protocol::cql::wire::Error;
use crate::protocol::cql::wire::primitive::StringList;
use crate::protocol::cql::wire::response::Event;

/// Kinds of events that are about nodes. Servers read them in any case.
const OF_NODES: [&str; 2] = ["TOPOLOGY_CHANGE", "STATUS_CHANGE"];

/// Of the kinds in a REGISTER, those that the server is to be asked for, in their order. Where none is left, the proxy answers READY
/// itself; what is no kind at all is left to the server to refuse.
pub fn forwarded<'a>(kinds: &StringList<'a>) -> Vec<&'a str> {
    kinds.iter().filter(|kind| !is_of_nodes(kind)).collect()
}

/// Whether the EVENT with this message goes to the client.
pub fn passes(message: &[u8]) -> Result<bool, Error> {
    Event::kind_of(message).map(|kind| !is_of_nodes(kind))
}

fn is_of_nodes(kind: &str) -> bool {
    OF_NODES.iter().any(|of_nodes| kind.eq_ignore_ascii_case(of_nodes))
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::protocol::cql::wire::Version;
    use crate::protocol::cql::wire::primitive::{Reader, put_string_list};
    use crate::protocol::cql::wire::response::{SchemaChange, SchemaObject};

    #[test]
    fn only_what_is_not_about_nodes_is_asked_of_the_server() {
        for (asked, wanted) in [
            (vec!["TOPOLOGY_CHANGE", "STATUS_CHANGE", "SCHEMA_CHANGE"], vec!["SCHEMA_CHANGE"]),
            (vec!["status_change", "Schema_Change"], vec!["Schema_Change"]),
            (vec!["STATUS_CHANGE"], vec![]),
            (vec!["NONSENSE", "STATUS_CHANGE"], vec!["NONSENSE"]),
            (vec![], vec![]),
        ] {
            let mut list = BytesMut::new();
            put_string_list(&mut list, asked.iter().copied(), "kinds").unwrap();
            let kinds = Reader::new(&list).string_list("kinds").unwrap();
            assert_eq!(forwarded(&kinds), wanted);
        }
    }

    #[test]
    fn schema_events_pass_and_events_of_nodes_do_not() {
        let node = ([127, 0, 0, 1].into(), 9042);
        let change = SchemaChange { change: "CREATED", keyspace: "k", object: SchemaObject::Table("t") };
        for (event, wanted) in [
            (Event::Schema(change), true),
            (Event::Topology("NEW_NODE", node), false),
            (Event::Status("DOWN", node), false),
        ] {
            let mut message = BytesMut::new();
            event.put(&mut message, Version::V5).unwrap();
            assert_eq!(passes(&message), Ok(wanted), "{event:?}");
        }
        assert!(passes(&[0]).is_err());
    }
}
