//! What a record says of a schema change: its text, and what the session read it under. A default, a bound or a predicate
//! may mean something else in another time zone, and a name in another schema.
//!
//! ```text
//! body := varint length of head, head, text
//! head := schemas as `SET search_path` takes them, (zero byte, value)*     values of SETTINGS, in their order
//! ```
//!
//! A body of an earlier version has fewer values, or none: the rest is what [`SETTINGS`] says.

use bytes::BytesMut;

use crate::record::{get_varint, put_varint};

/// Settings that decide what a text means, and what the mirror's own connections have.
pub(super) const SETTINGS: [(&str, &str); 4] =
    [("TimeZone", "UTC"), ("DateStyle", "ISO, YMD"), ("IntervalStyle", "postgres"), ("check_function_bodies", "on")];

/// What a text is read under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manner<'a> {
    /// The schemas that names mean.
    pub(super) path: &'a str,
    /// The value of each of [`SETTINGS`].
    pub(super) values: [&'a str; SETTINGS.len()],
}

impl<'a> Manner<'a> {
    /// That of the mirror's own connections, with these schemas.
    pub(super) fn plain(path: &'a str) -> Manner<'a> {
        Manner { path, values: SETTINGS.map(|(_, value)| value) }
    }
}

/// Is it one of [`SETTINGS`]?
pub(super) fn is_setting(name: &str) -> bool {
    SETTINGS.iter().any(|(setting, _)| setting.eq_ignore_ascii_case(name))
}

/// The body of a record. `values` are those of [`SETTINGS`] as far as they are known.
pub(super) fn encode(path: &str, values: &[String], sql: &[u8]) -> Vec<u8> {
    let head = values.iter().fold(path.to_owned(), |head, value| head + "\0" + value);
    let mut body = BytesMut::new();
    put_varint(&mut body, head.len() as u64);
    body.extend_from_slice(head.as_bytes());
    body.extend_from_slice(sql);
    body.to_vec()
}

/// What a body says; `None`: it is none.
pub(super) fn decode(mut body: &[u8]) -> Option<(Manner<'_>, &str)> {
    let len = usize::try_from(get_varint(&mut body)?).ok()?;
    let (head, sql) = body.split_at_checked(len)?;
    let mut parts = std::str::from_utf8(head).ok()?.split('\0');
    let mut manner = Manner::plain(parts.next()?);
    for value in &mut manner.values {
        *value = parts.next().unwrap_or(value);
    }
    let sql = std::str::from_utf8(sql).ok().filter(|sql| !sql.contains('\0'))?;
    parts.next().is_none().then_some((manner, sql))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_reads_back_and_so_does_one_of_an_earlier_version() {
        let values = ["Asia/Kolkata", "SQL, DMY", "iso_8601", "off"];
        let owned = values.map(str::to_owned);
        for known in [0, 3, 4] {
            let body = encode("\"a b\", public", &owned[..known], b"ALTER TABLE t");
            let (manner, sql) = decode(&body).expect("it was encoded");
            assert_eq!((manner.path, sql), ("\"a b\", public", "ALTER TABLE t"));
            assert_eq!(manner.values[..known], values[..known]);
            assert_eq!(manner.values[known..], Manner::plain("").values[known..]);
        }
        // As it was written before settings were.
        assert_eq!(decode(b"\x06publicDROP TABLE t"), Some((Manner::plain("public"), "DROP TABLE t")));
        for broken in [&b""[..], b"\x7fpublic", b"\x01\xffx", b"\x01xa\0b", b"\x06\0\0\0\0\0\0x"] {
            assert_eq!(decode(broken), None, "{broken:?}");
        }
    }
}
