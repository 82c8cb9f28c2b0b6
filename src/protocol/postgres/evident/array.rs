//! The elements of an array that a client bound, in text or binary. Whatever is not the plainest form is
//! [`NotEvident`]: an element that was missed would be a lost row.

use super::{ELEMENTS_MAX, NotEvident, Param};
use crate::protocol::postgres::key::oid;

/// One element, as a parameter would bring it.
pub(super) struct Value {
    pub(super) declared: u32,
    pub(super) binary: bool,
    /// `None` = NULL.
    pub(super) value: Option<Vec<u8>>,
}

/// Array types and their elements', from `pg_type.dat`.
const ARRAYS: &[(u32, u32)] = &[
    (1000, oid::BOOL),
    (1001, oid::BYTEA),
    (1005, oid::INT2),
    (1007, oid::INT4),
    (1016, oid::INT8),
    (1009, oid::TEXT),
    (1015, oid::VARCHAR),
    (1231, oid::NUMERIC),
    (2951, oid::UUID),
];

/// The array type of an element's.
pub(super) fn of(element: u32) -> Option<u32> {
    ARRAYS.iter().find(|(_, of)| *of == element).map(|(array, _)| *array)
}

/// Every element; none where the array itself is NULL, which equals nothing.
pub(super) fn elements(array: Param<'_>) -> Result<Vec<Value>, NotEvident> {
    let declared = match array.declared {
        0 | oid::UNKNOWN => 0,
        other => ARRAYS.iter().find(|(of, _)| *of == other).ok_or(NotEvident)?.1,
    };
    let Some(bytes) = array.value else { return Ok(Vec::new()) };
    if array.binary {
        return binary(bytes, declared);
    }
    let values = text(bytes)?;
    Ok(values.into_iter().map(|value| Value { declared, binary: false, value }).collect())
}

/// `array_send`: dimensions, a flag for NULLs, the element's type, a size and a lower bound for each dimension, then
/// each element with its length.
fn binary(bytes: &[u8], declared: u32) -> Result<Vec<Value>, NotEvident> {
    let mut words = Words(bytes);
    let (dimensions, _, of) = (words.next()?, words.next()?, words.next()?);
    if declared != 0 && declared != of || dimensions > 6 {
        return Err(NotEvident);
    }
    let mut count = usize::from(dimensions > 0);
    for _ in 0..dimensions {
        count = count.checked_mul(words.next()? as usize).filter(|&count| count <= ELEMENTS_MAX).ok_or(NotEvident)?;
        words.next()?;
    }
    let mut values = Vec::new();
    for _ in 0..count {
        let value = match words.next()? {
            u32::MAX => None,
            len => Some(words.take(len as usize)?.to_vec()),
        };
        values.push(Value { declared: of, binary: true, value });
    }
    if words.0.is_empty() { Ok(values) } else { Err(NotEvident) }
}

struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
    fn next(&mut self) -> Result<u32, NotEvident> {
        let (word, rest) = self.0.split_first_chunk().ok_or(NotEvident)?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*word))
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], NotEvident> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(NotEvident)?;
        self.0 = rest;
        Ok(head)
    }
}

/// `{1,2,"a b",NULL}`, of one dimension (documentation, "Array Input and Output Syntax").
fn text(bytes: &[u8]) -> Result<Vec<Option<Vec<u8>>>, NotEvident> {
    let inner = bytes.trim_ascii().strip_prefix(b"{").and_then(|rest| rest.strip_suffix(b"}")).ok_or(NotEvident)?;
    let mut rest = inner.trim_ascii();
    let mut values = Vec::new();
    if rest.is_empty() {
        return Ok(values);
    }
    loop {
        let (value, behind) = element(rest)?;
        values.push(value);
        match behind.trim_ascii_start() {
            [] => return Ok(values),
            [b',', more @ ..] if values.len() < ELEMENTS_MAX => rest = more.trim_ascii_start(),
            _ => return Err(NotEvident),
        }
    }
}

/// One element and what follows it.
fn element(rest: &[u8]) -> Result<(Option<Vec<u8>>, &[u8]), NotEvident> {
    if let [b'"', quoted @ ..] = rest {
        return quoted_element(quoted);
    }
    let end = rest.iter().position(|&byte| byte == b',').unwrap_or(rest.len());
    let (bare, behind) = rest.split_at(end);
    let bare = bare.trim_ascii_end();
    if bare.is_empty() || bare.iter().any(|byte| br#"{}"\"#.contains(byte)) {
        return Err(NotEvident);
    }
    let null = bare.eq_ignore_ascii_case(b"null");
    Ok(((!null).then(|| bare.to_vec()), behind))
}

fn quoted_element(mut rest: &[u8]) -> Result<(Option<Vec<u8>>, &[u8]), NotEvident> {
    let mut value = Vec::new();
    loop {
        match rest {
            [b'"', behind @ ..] => return Ok((Some(value), behind)),
            [b'\\', byte, more @ ..] | [byte, more @ ..] => {
                value.push(*byte);
                rest = more;
            }
            [] => return Err(NotEvident),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &[u8], binary: bool, declared: u32) -> Option<Vec<Option<String>>> {
        let values = elements(Param { declared, binary, value: Some(value) }).ok()?;
        Some(values.into_iter().map(|one| Some(one.value?.escape_ascii().to_string())).collect())
    }

    #[test]
    fn arrays_in_text_are_read_element_by_element_or_not_at_all() {
        let some = |values: &[&str]| Some(values.iter().map(|one| Some((*one).to_owned())).collect::<Vec<_>>());
        assert_eq!(read(b"{}", false, 1007), some(&[]));
        assert_eq!(read(b" { 1 , 22,3 } ", false, 1007), some(&["1", "22", "3"]));
        assert_eq!(
            read(br#"{"a,b","c\"d\\", e f ,"null",""}"#, false, 1009),
            some(&["a,b", "c\\\"d\\\\", "e f", "null", ""])
        );
        assert_eq!(read(b"{NULL,1}", false, 0), Some(vec![None, Some("1".to_owned())]));
        for odd in
            [&b"{{1},{2}}"[..], b"[0:1]={1,2}", b"{1,}", b"{,}", b"{1", b"1}", br"{a\b}", b"{\"a}", b"{\"a\"b}", b""]
        {
            assert_eq!(read(odd, false, 1007), None, "{}", odd.escape_ascii());
        }
        assert_eq!(read(b"{1}", false, 1115), None, "an array of another type");
    }

    #[test]
    fn arrays_in_binary_are_read_element_by_element_or_not_at_all() {
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>();
        let two = words(&[1, 0, 23, 2, 1, 4, 7, u32::MAX]);
        assert_eq!(read(&two, true, 1007), Some(vec![Some("\\x00\\x00\\x00\\x07".to_owned()), None]));
        assert_eq!(read(&words(&[0, 0, 23]), true, 1007), Some(Vec::new()));
        assert_eq!(read(&words(&[2, 0, 23, 1, 1, 1, 1, 4, 7]), true, 0).map(|all| all.len()), Some(1));
        assert_eq!(read(&two, true, 1016), None, "its elements are of another type");
        for cut in 0..two.len() {
            assert_eq!(read(&two[..cut], true, 1007), None);
        }
        assert_eq!(read(&words(&[1, 0, 23, u32::MAX, 1]), true, 1007), None);
    }
}
