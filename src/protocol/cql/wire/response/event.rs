//! EVENT: what servers push, and the schema change that is also the result of DDL.
//!
//! Source: native_protocol_v5.spec section 4.2.6.

use std::net::IpAddr;

use bytes::{BufMut, BytesMut};

use crate::protocol::cql::wire::Error;
use crate::protocol::cql::wire::frame::Version;
use crate::protocol::cql::wire::primitive::{Reader, StringList, put_inetaddr, put_string};

/// Something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// `NEW_NODE`, `REMOVED_NODE` or `MOVED_NODE`, and where the node is.
    Topology(&'a str, (IpAddr, i32)),
    /// `UP` or `DOWN`, and where the node is.
    Status(&'a str, (IpAddr, i32)),
    /// DDL was done.
    Schema(SchemaChange<'a>),
}

/// What DDL did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchemaChange<'a> {
    /// `CREATED`, `UPDATED` or `DROPPED`.
    pub change: &'a str,
    /// Where.
    pub keyspace: &'a str,
    /// To what.
    pub object: SchemaObject<'a>,
}

/// What DDL changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaObject<'a> {
    /// The keyspace itself.
    Keyspace,
    /// A table or what belongs to it.
    Table(&'a str),
    /// A type of users.
    Type(&'a str),
    /// A function, with the types of its arguments. Since v4.
    Function(&'a str, StringList<'a>),
    /// An aggregate, with the types of its arguments. Since v4.
    Aggregate(&'a str, StringList<'a>),
}

impl<'a> Event<'a> {
    /// The kind of an EVENT as REGISTER names it, and nothing else of it.
    pub fn kind_of(message: &'a [u8]) -> Result<&'a str, Error> {
        Reader::new(message).string("event type")
    }

    /// Read an EVENT.
    pub fn parse(message: &'a [u8]) -> Result<Event<'a>, Error> {
        let mut reader = Reader::new(message);
        match reader.string("event type")? {
            "TOPOLOGY_CHANGE" => Ok(Event::Topology(reader.string("change")?, reader.inet("node")?)),
            "STATUS_CHANGE" => Ok(Event::Status(reader.string("change")?, reader.inet("node")?)),
            "SCHEMA_CHANGE" => SchemaChange::read(&mut reader).map(Event::Schema),
            _ => Err(Error::Invalid { field: "event type", value: 0 }),
        }
    }

    /// Append the message.
    pub fn put(&self, out: &mut BytesMut, version: Version) -> Result<(), Error> {
        let (kind, change, (address, port)) = match self {
            Event::Topology(change, node) => ("TOPOLOGY_CHANGE", change, *node),
            Event::Status(change, node) => ("STATUS_CHANGE", change, *node),
            Event::Schema(schema) => {
                put_string(out, "SCHEMA_CHANGE", "event type")?;
                return schema.put(out, version);
            }
        };
        put_string(out, kind, "event type")?;
        put_string(out, change, "change")?;
        put_inetaddr(out, address);
        out.put_i32(port);
        Ok(())
    }
}

impl<'a> SchemaChange<'a> {
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<SchemaChange<'a>, Error> {
        let change = reader.string("change")?;
        let target = reader.string("target")?;
        let keyspace = reader.string("keyspace")?;
        let object = match target {
            "KEYSPACE" => SchemaObject::Keyspace,
            "TABLE" => SchemaObject::Table(reader.string("table")?),
            "TYPE" => SchemaObject::Type(reader.string("type name")?),
            "FUNCTION" => SchemaObject::Function(reader.string("function")?, reader.string_list("argument types")?),
            "AGGREGATE" => SchemaObject::Aggregate(reader.string("aggregate")?, reader.string_list("argument types")?),
            _ => return Err(Error::Invalid { field: "target of a schema change", value: 0 }),
        };
        Ok(SchemaChange { change, keyspace, object })
    }

    /// Append it. v3 has no words for functions and aggregates: like servers, it is told that the keyspace changed.
    pub(super) fn put(&self, out: &mut BytesMut, version: Version) -> Result<(), Error> {
        let (target, name, arguments) = match self.object {
            SchemaObject::Function(..) | SchemaObject::Aggregate(..) if version < Version::V4 => {
                ("KEYSPACE", None, None)
            }
            SchemaObject::Keyspace => ("KEYSPACE", None, None),
            SchemaObject::Table(name) => ("TABLE", Some(name), None),
            SchemaObject::Type(name) => ("TYPE", Some(name), None),
            SchemaObject::Function(name, arguments) => ("FUNCTION", Some(name), Some(arguments)),
            SchemaObject::Aggregate(name, arguments) => ("AGGREGATE", Some(name), Some(arguments)),
        };
        let change =
            if target == "KEYSPACE" && self.object != SchemaObject::Keyspace { "UPDATED" } else { self.change };
        for text in [change, target, self.keyspace].into_iter().chain(name) {
            put_string(out, text, "schema change")?;
        }
        arguments.into_iter().for_each(|arguments| arguments.put(out));
        Ok(())
    }
}
