//! What a session keeps of a read.

use std::hash::BuildHasher;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use foldhash::fast::FixedState;

use crate::protocol::postgres::plan::Read;
use crate::protocol::postgres::wire::{self, front};
use crate::record::Side;

/// A read, as it went to the primary, and the answer that came.
#[derive(Debug)]
pub struct Asked {
    /// What its text says of its answer.
    pub(in crate::protocol::postgres) read: Arc<Read>,
    /// The hash of its shape.
    pub(in crate::protocol::postgres) shape: u64,
    pub(in crate::protocol::postgres) text: Bytes,
    pub(in crate::protocol::postgres) form: Form,
    pub(in crate::protocol::postgres) asker: Arc<Asker>,
    /// SET statements of the session, oldest first.
    pub(in crate::protocol::postgres) settings: Vec<Bytes>,
    /// Messages, up to and with ReadyForQuery.
    pub(in crate::protocol::postgres) answer: Bytes,
}

/// How it was asked.
#[derive(Clone, Debug)]
pub(in crate::protocol::postgres) enum Form {
    /// By a simple Query.
    Simple,
    /// By Parse, Bind and Execute.
    Extended {
        /// Declared types of parameters.
        types: Arc<[u32]>,
        /// Formats and values of the Bind, as they came.
        values: Bytes,
        /// Its result formats, two bytes each.
        results: Bytes,
    },
}

/// As whom it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::protocol::postgres) struct Asker {
    pub(in crate::protocol::postgres) user: String,
    /// Parameters of the client's start-up packet, its encoding among them.
    pub(in crate::protocol::postgres) params: Vec<(String, String)>,
}

impl Asked {
    /// What must be known before it is executed.
    pub(super) fn put_parse(&self, out: &mut BytesMut, prefix: &[u8]) {
        let Form::Extended { types, .. } = &self.form else { return };
        wire::message(out, front::PARSE, |b| {
            b.put_u8(0);
            b.extend_from_slice(prefix);
            wire::cstr(b, &self.text);
            b.put_u16(types.len() as u16);
            types.iter().for_each(|&oid| b.put_u32(oid));
        });
    }

    /// Ask it, of the unnamed statement where it is one, and for a description. `results`: its own formats, or text.
    pub(super) fn put(&self, out: &mut BytesMut, prefix: &[u8], own_results: bool) {
        match &self.form {
            Form::Simple => wire::message(out, front::QUERY, |b| {
                b.extend_from_slice(prefix);
                wire::cstr(b, &self.text);
            }),
            Form::Extended { values, results, .. } => {
                let results = if own_results { &results[..] } else { &[] };
                wire::message(out, front::BIND, |b| {
                    b.put_u16(0); // Both names are empty.
                    b.extend_from_slice(values);
                    b.put_u16((results.len() / 2) as u16);
                    b.extend_from_slice(results);
                });
                wire::describe(out, b'P', b"");
                wire::execute(out, b"", 0);
                wire::bare(out, front::SYNC);
            }
        }
    }

    /// A hash of the text, its values, and who asked.
    pub(super) fn question(&self) -> u64 {
        let values = match &self.form {
            Form::Simple => &[],
            Form::Extended { values, .. } => &values[..],
        };
        FixedState::default().hash_one((&self.text[..], values, &self.asker.user, &self.settings))
    }

    /// What a side's plan of it depends on beside its catalog: whose tables are meant, and by which name.
    pub(super) fn planned_on(&self, side: Side) -> u64 {
        FixedState::default().hash_one((self.shape, side, &self.asker, &self.settings))
    }

    /// It is asked by Parse and Bind.
    pub(super) fn is_extended(&self) -> bool {
        matches!(self.form, Form::Extended { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_of_a_side_and_of_who_asks_with_which_settings() {
        let asked = |user: &str, settings: &[&'static str]| Asked {
            read: Arc::default(),
            shape: 7,
            text: Bytes::from_static(b"select 1"),
            form: Form::Simple,
            asker: Arc::new(Asker { user: user.to_owned(), params: Vec::new() }),
            settings: settings.iter().map(|text| Bytes::from_static(text.as_bytes())).collect(),
            answer: Bytes::new(),
        };
        let one = asked("app", &[]).planned_on(Side::Target);
        assert_eq!(one, asked("app", &[]).planned_on(Side::Target));
        for other in [asked("other", &[]), asked("app", &["set search_path = a"])] {
            assert_ne!(one, other.planned_on(Side::Target));
        }
        assert_ne!(one, asked("app", &[]).planned_on(Side::Origin));
    }
}
