//! `DESCRIBE CLUSTER`, answered for the proxy: a server would tell which node behind it owns which token.

use bytes::{BufMut, BytesMut};

use super::Identity;
use crate::protocol::cql::wire::primitive::put_bytes;
use crate::protocol::cql::wire::response::{Metadata, put_metadata, put_rows};
use crate::protocol::cql::wire::types::{Native, Type};
use crate::protocol::cql::wire::{Envelope, Error, Opcode, Version};

/// What a cluster of one datacenter has, as the proxy says that it is.
const SNITCH: &[u8] = b"SimpleSnitch";

impl Identity {
    /// Append the frame that answers it for a client that reached the proxy at `address`; `owned`: the session has a keyspace,
    /// so that servers say who owns what.
    ///
    /// # Errors
    /// Nothing that this identity says can be too long.
    pub fn put_description(
        &self,
        out: &mut BytesMut,
        (version, stream): (Version, i16),
        address: std::net::SocketAddr,
        owned: bool,
    ) -> Result<(), Error> {
        let text = Type::Native(Native::Varchar);
        let owners = Type::Map(Box::new(text.clone()), Box::new(Type::List(Box::new(text.clone()))));
        let partitioner = self.partitioner.rsplit('.').next().unwrap_or_default();
        let mut columns = vec![("cluster", &text), ("partitioner", &text), ("snitch", &text)];
        let mut row = vec![Some(self.cluster_name.as_bytes()), Some(partitioner.as_bytes()), Some(SNITCH)];
        let ownership = self.ownership(address)?;
        if owned {
            columns.push(("range_ownership", &owners));
            row.push(Some(&ownership));
        }
        let mut bytes = BytesMut::new();
        put_metadata(&mut bytes, version, ("system", "describe"), &columns)?;
        let metadata = Metadata::parse(version, &bytes)?;
        let envelope = Envelope::new(version, stream, Opcode::Result);
        envelope.put(out, |out| put_rows(out, version, &metadata, [row.as_slice()]))
    }

    /// Each token, and the list of those who own it: the proxy.
    fn ownership(&self, address: std::net::SocketAddr) -> Result<BytesMut, Error> {
        let mut map = BytesMut::new();
        map.put_i32(self.tokens.len() as i32);
        for token in &self.tokens {
            let mut owners = BytesMut::new();
            owners.put_i32(1);
            put_bytes(&mut owners, Some(address.ip().to_string().as_bytes()), "owner")?;
            put_bytes(&mut map, Some(token.as_bytes()), "token")?;
            put_bytes(&mut map, Some(&owners), "owners")?;
        }
        Ok(map)
    }
}
