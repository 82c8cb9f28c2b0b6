//! Sets of owed keys, a million of them at a time: short keys lie in the table itself, so that neither owing nor
//! paying one takes an allocation, and the hash is a fast one. Clients choose keys, so it is seeded for each set, and
//! keys that collide in one set do not in another.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::ops::Deref;

/// Owed keys of one table; `true`: the row may have been deleted or re-keyed, so rows that point at it are owed too.
pub type Keys = HashMap<Key, bool, foldhash::fast::RandomState>;

/// Bytes that lie in place: with the length and the tag 24, as much as a boxed key and its length would need alone.
const SHORT: usize = 22;

/// A canonical key, opaque here; equal to its bytes in every respect.
#[derive(Clone)]
pub struct Key(Bytes);

#[derive(Clone)]
enum Bytes {
    Short { len: u8, bytes: [u8; SHORT] },
    Long(Box<[u8]>),
}

impl From<&[u8]> for Key {
    fn from(key: &[u8]) -> Key {
        if key.len() > SHORT {
            return Key(Bytes::Long(key.into()));
        }
        let mut bytes = [0; SHORT];
        bytes[..key.len()].copy_from_slice(key);
        Key(Bytes::Short { len: key.len() as u8, bytes })
    }
}

impl From<Vec<u8>> for Key {
    fn from(key: Vec<u8>) -> Key {
        if key.len() > SHORT { Key(Bytes::Long(key.into())) } else { Key::from(&key[..]) }
    }
}

impl Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Bytes::Short { len, bytes } => &bytes[..usize::from(*len)],
            Bytes::Long(bytes) => bytes,
        }
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        **self == **other
    }
}

impl Eq for Key {}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a key of {} bytes", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_any_length_is_found_by_its_bytes() {
        let mut keys = Keys::default();
        for len in 0..60_u8 {
            keys.insert(Key::from(&vec![len; usize::from(len)][..]), len % 2 == 0);
        }
        for len in 0..60_u8 {
            let bytes = vec![len; usize::from(len)];
            assert_eq!(keys.get(&bytes[..]), Some(&(len % 2 == 0)));
            assert_eq!(&*Key::from(bytes.clone()), &bytes[..]);
        }
        assert_eq!(keys.len(), 60);
    }

    #[test]
    fn a_key_shows_nothing_of_a_row_promise_13() {
        assert_eq!(format!("{:?}", Key::from(&b"secret"[..])), "a key of 6 bytes");
    }

    #[test]
    fn a_short_key_takes_no_more_than_a_box_would() {
        assert_eq!(size_of::<Key>(), 24);
    }
}
