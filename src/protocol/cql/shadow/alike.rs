//! Whether two cells show the same value, by its type.
//!
//! What is stored came to both sides as the same bytes, so nearly always equal bytes end it. What is left is what may be
//! written in several ways (the order of a frozen set's elements, fields that an older value of a type leaves out, numbers
//! that are longer than they need be), what the server computes, and what depends on the second in which it is read.

use bytes::BytesMut;

use crate::protocol::cql::wire::types::Type;
use crate::protocol::cql::wire::value::{Datum, Exact, Varint};

use super::reading::Form;

/// Seconds by which what is left of a life may differ: clients below v5 cannot say when theirs began, and both servers
/// have a clock.
const TTL_SLACK: i32 = 2;
/// Microseconds: steps of timestamps that the proxy gives are two, and a repeat for a list goes one higher.
const WRITETIME_SLACK: i64 = 2;
/// Of what a server computed.
const ROUNDING: f64 = 1e-9;

/// Whether both cells are the same, each of its side's type.
pub(super) fn alike(form: Form, kinds: (&Type, &Type), ours: Option<&[u8]>, theirs: Option<&[u8]>) -> bool {
    if ours == theirs {
        return true;
    }
    if form == Form::Document {
        return ours.zip(theirs).is_some_and(|(ours, theirs)| documents(ours, theirs));
    }
    let (Ok(ours), Ok(theirs)) = (Datum::decode(kinds.0, ours), Datum::decode(kinds.1, theirs)) else { return false };
    match form {
        Form::Ttl => lives(&ours, &theirs),
        form => same(form, &ours, &theirs),
    }
}

/// In a document decimals and varints are numbers: what a float cannot hold of them counts.
fn documents(ours: &[u8], theirs: &[u8]) -> bool {
    let read = |bytes| serde_json::from_slice::<serde_json::Value>(&with_exact_numbers(bytes)).ok();
    read(ours).is_some_and(|ours| Some(ours) == read(theirs))
}

/// The document with its numbers as texts, which its own texts are told apart from by their first letter.
fn with_exact_numbers(document: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(document.len() * 2);
    let (mut rest, mut inside) = (document, false);
    while let [first, behind @ ..] = rest {
        let is_number = !inside && (first.is_ascii_digit() || *first == b'-');
        let taken = match first {
            _ if is_number => rest.iter().position(|byte| !is_of_number(*byte)).unwrap_or(rest.len()),
            b'\\' if inside => 1 + behind.len().min(1),
            _ => 1,
        };
        let (part, behind) = rest.split_at(taken);
        match first {
            _ if is_number => {
                out.extend_from_slice(b"\"n");
                put_number(part, &mut out);
                out.push(b'"');
            }
            b'"' if !inside => out.extend_from_slice(b"\"s"),
            _ => out.extend_from_slice(part),
        }
        inside ^= *first == b'"';
        rest = behind;
    }
    out
}

fn is_of_number(byte: u8) -> bool {
    byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E')
}

/// Sign, digits without zeros at either end, and exponent: one number has one form, however many zeros a side writes.
fn put_number(text: &[u8], out: &mut Vec<u8>) {
    let at = text.iter().position(|byte| matches!(byte, b'e' | b'E'));
    let (mantissa, exponent) = text.split_at(at.unwrap_or(text.len()));
    let exponent = std::str::from_utf8(exponent.get(1..).unwrap_or_default()).unwrap_or_default();
    let exponent: Option<i64> = if exponent.is_empty() { Some(0) } else { exponent.parse().ok() };
    let point = mantissa.iter().position(|byte| *byte == b'.').map_or(0, |point| mantissa.len() - point - 1);
    let digits: Vec<u8> = mantissa.iter().copied().filter(u8::is_ascii_digit).collect();
    let ends = digits.iter().rposition(|digit| *digit != b'0').map_or(0, |last| last + 1);
    let begins = digits.iter().position(|digit| *digit != b'0').unwrap_or(0);
    let zeros = digits.len() - ends;
    let scale = || exponent?.checked_sub(i64::try_from(point).ok()?)?.checked_add(i64::try_from(zeros).ok()?);
    match scale() {
        None => out.extend_from_slice(text),
        Some(scale) => {
            out.extend(text.first().filter(|first| **first == b'-'));
            out.extend_from_slice(&digits[begins.min(ends)..ends]);
            if ends > 0 {
                out.extend_from_slice(format!("e{scale}").as_bytes());
            }
        }
    }
}

/// A life that is over is null.
fn lives(ours: &Datum, theirs: &Datum) -> bool {
    let left = |datum: &Datum| match datum {
        Datum::Int(seconds) => Some(*seconds),
        Datum::Null => Some(0),
        _ => None,
    };
    match (left(ours), left(theirs)) {
        (Some(ours), Some(theirs)) => ours.abs_diff(theirs) <= TTL_SLACK.cast_unsigned(),
        // 5.0: of a collection's elements.
        _ => match (ours, theirs) {
            (Datum::List(ours), Datum::List(theirs)) => all(ours, theirs, lives),
            _ => ours == theirs,
        },
    }
}

fn same(form: Form, ours: &Datum, theirs: &Datum) -> bool {
    let each = |ours: &Datum, theirs: &Datum| same(form, ours, theirs);
    match (ours, theirs) {
        (Datum::Bigint(ours), Datum::Bigint(theirs)) if form == Form::Writetime => {
            ours.abs_diff(*theirs) <= WRITETIME_SLACK.cast_unsigned()
        }
        (Datum::Double(Exact(ours)), Datum::Double(Exact(theirs))) => floats(form, *ours, *theirs),
        (Datum::Float(Exact(ours)), Datum::Float(Exact(theirs))) => floats(form, f64::from(*ours), f64::from(*theirs)),
        (Datum::Decimal { scale, unscaled }, Datum::Decimal { scale: their_scale, unscaled: their_unscaled }) => {
            (scale, unscaled) == (their_scale, their_unscaled)
                || form == Form::Computed && decimals((*scale, unscaled), (*their_scale, their_unscaled))
        }
        (Datum::Set(ours), Datum::Set(theirs)) => {
            all(&sorted(ours), &sorted(theirs), |ours, theirs| each(ours, theirs))
        }
        (Datum::Map(ours), Datum::Map(theirs)) => {
            let pair = |(key, value): &(Datum, Datum)| Datum::Tuple(vec![key.clone(), value.clone()]);
            let pairs = |entries: &[(Datum, Datum)]| sorted(&entries.iter().map(pair).collect::<Vec<_>>());
            all(&pairs(ours), &pairs(theirs), each)
        }
        (Datum::List(ours), Datum::List(theirs)) | (Datum::Vector(ours), Datum::Vector(theirs)) => {
            all(ours, theirs, each)
        }
        // A value may be older than fields of its type.
        (Datum::Udt(ours), Datum::Udt(theirs)) | (Datum::Tuple(ours), Datum::Tuple(theirs)) => {
            let fields = ours.len().max(theirs.len());
            (0..fields).all(|at| each(ours.get(at).unwrap_or(&Datum::Null), theirs.get(at).unwrap_or(&Datum::Null)))
        }
        _ => ours == theirs,
    }
}

fn all(ours: &[Datum], theirs: &[Datum], alike: impl Fn(&Datum, &Datum) -> bool) -> bool {
    ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(ours, theirs)| alike(ours, theirs))
}

/// In an order that is the same for the same elements.
fn sorted(elements: &[Datum]) -> Vec<Datum> {
    let mut sorted = elements.to_vec();
    sorted.sort_by_cached_key(|element| {
        let mut bytes = BytesMut::new();
        // What is too long for a frame was never read from one.
        let _ = element.put(&mut bytes);
        bytes
    });
    sorted
}

fn floats(form: Form, ours: f64, theirs: f64) -> bool {
    let near = || (ours - theirs).abs() <= ROUNDING * ours.abs().max(theirs.abs());
    ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan() || form == Form::Computed && near()
}

/// Whether both are the same number: digits of the larger scale that are zeros change nothing.
fn decimals((scale, unscaled): (i32, &Varint), (their_scale, their_unscaled): (i32, &Varint)) -> bool {
    let number = |unscaled: &Varint| {
        let bytes = unscaled.as_bytes();
        let sign = if bytes.first().is_some_and(|first| first & 0x80 != 0) { 0xFF } else { 0 };
        let mut wide = [sign; 16];
        let at = wide.len().checked_sub(bytes.len())?;
        wide[at..].copy_from_slice(bytes);
        Some(i128::from_be_bytes(wide))
    };
    let normal = |scale: i32, unscaled: &Varint| {
        let (mut scale, mut number) = (i64::from(scale), number(unscaled)?);
        while number != 0 && number % 10 == 0 {
            (scale, number) = (scale - 1, number / 10);
        }
        Some(if number == 0 { (0, 0) } else { (scale, number) })
    };
    let ours = normal(scale, unscaled);
    ours.is_some() && ours == normal(their_scale, their_unscaled)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::cql::wire::storm;
    use crate::protocol::cql::wire::types::Native;

    fn bytes(datum: &Datum) -> Option<Vec<u8>> {
        let mut out = BytesMut::new();
        datum.put(&mut out).expect("short");
        (*datum != Datum::Null).then(|| out[4..].to_vec())
    }

    fn are(form: Form, kind: &Type, ours: &Datum, theirs: &Datum) -> bool {
        alike(form, (kind, kind), bytes(ours).as_deref(), bytes(theirs).as_deref())
    }

    fn native(native: Native) -> Type {
        Type::Native(native)
    }

    #[test]
    fn values_are_alike_by_their_type() {
        let int = |n| Datum::Int(n);
        let decimal = |scale, n: i64| Datum::Decimal { scale, unscaled: n.into() };
        let double = |n: f64| Datum::Double(Exact(n));
        let set = Type::Set(Box::new(native(Native::Int)));
        let list = Type::List(Box::new(native(Native::Int)));
        let map = Type::Map(Box::new(native(Native::Int)), Box::new(native(Native::Varchar)));
        let text = |word: &str| Datum::Varchar(word.to_owned());
        let entry = |n, word| (int(n), text(word));
        let pair = Type::Tuple(vec![native(Native::Int), native(Native::Int)]);
        let nan = f64::from_bits(f64::NAN.to_bits() | 1);
        for (form, kind, ours, theirs, expected) in [
            (Form::Exact, native(Native::Int), int(1), int(1), true),
            (Form::Exact, native(Native::Int), int(1), int(2), false),
            (Form::Exact, native(Native::Int), Datum::Null, Datum::Empty, false),
            (Form::Exact, native(Native::Varchar), text(""), Datum::Null, false),
            (Form::Exact, native(Native::Double), double(f64::NAN), double(nan), true),
            (Form::Exact, native(Native::Double), double(0.0), double(-0.0), false),
            (Form::Exact, native(Native::Double), double(0.1 + 0.2), double(0.3), false),
            (Form::Computed, native(Native::Double), double(0.1 + 0.2), double(0.3), true),
            (Form::Computed, native(Native::Double), double(0.3), double(0.300_1), false),
            (Form::Exact, native(Native::Decimal), decimal(1, 10), decimal(2, 100), false),
            (Form::Computed, native(Native::Decimal), decimal(1, 10), decimal(2, 100), true),
            (Form::Computed, native(Native::Decimal), decimal(1, 0), decimal(9, 0), true),
            (Form::Computed, native(Native::Decimal), decimal(1, 10), decimal(2, 101), false),
            (Form::Ttl, native(Native::Int), int(100), int(98), true),
            (Form::Ttl, native(Native::Int), int(100), int(97), false),
            (Form::Ttl, native(Native::Int), int(1), Datum::Null, true),
            (Form::Ttl, native(Native::Int), int(9), Datum::Null, false),
            (Form::Writetime, native(Native::Bigint), Datum::Bigint(7), Datum::Bigint(9), true),
            (Form::Writetime, native(Native::Bigint), Datum::Bigint(7), Datum::Bigint(10), false),
            (Form::Exact, native(Native::Bigint), Datum::Bigint(7), Datum::Bigint(8), false),
            (Form::Exact, set.clone(), Datum::Set(vec![int(1), int(2)]), Datum::Set(vec![int(2), int(1)]), true),
            (Form::Exact, set, Datum::Set(vec![int(1), int(1)]), Datum::Set(vec![int(2), int(1)]), false),
            (Form::Exact, list, Datum::List(vec![int(1), int(2)]), Datum::List(vec![int(2), int(1)]), false),
            (
                Form::Exact,
                map.clone(),
                Datum::Map(vec![entry(1, "a"), entry(2, "b")]),
                Datum::Map(vec![entry(2, "b"), entry(1, "a")]),
                true,
            ),
            (
                Form::Exact,
                map,
                Datum::Map(vec![entry(1, "a"), entry(2, "b")]),
                Datum::Map(vec![entry(1, "b"), entry(2, "a")]),
                false,
            ),
            (Form::Exact, pair.clone(), Datum::Tuple(vec![int(1)]), Datum::Tuple(vec![int(1), Datum::Null]), true),
            (Form::Exact, pair, Datum::Tuple(vec![int(1)]), Datum::Tuple(vec![int(1), int(2)]), false),
        ] {
            assert_eq!(are(form, &kind, &ours, &theirs), expected, "{form:?} {ours:?} {theirs:?}");
            assert_eq!(are(form, &kind, &theirs, &ours), expected, "{form:?} {theirs:?} {ours:?}");
        }
        let document = |text: &'static str| Some(text.as_bytes());
        let kinds = (&native(Native::Varchar), &native(Native::Varchar));
        assert!(alike(Form::Document, kinds, document("{\"a\": 1, \"b\": 2}"), document("{\"b\":2,\"a\":1}")));
        assert!(!alike(Form::Document, kinds, document("{\"a\": 1}"), document("{\"a\": 2}")));
        assert!(!alike(Form::Document, kinds, document("{\"a\": 1}"), None));
    }

    #[test]
    fn numbers_in_documents_are_compared_digit_by_digit() {
        let are = |ours: &str, theirs: &str| {
            let kinds = (&native(Native::Varchar), &native(Native::Varchar));
            // Spaces make other bytes.
            let [ours, theirs] = [format!("{{\"a\": [{ours}]}}"), format!("{{ \"a\": [{theirs}]}}")];
            let one_way = alike(Form::Document, kinds, Some(ours.as_bytes()), Some(theirs.as_bytes()));
            assert_eq!(one_way, alike(Form::Document, kinds, Some(theirs.as_bytes()), Some(ours.as_bytes())));
            one_way
        };
        for (ours, theirs) in [
            ("12345678901234567.89", "12345678901234567.89"),
            ("1.50", "1.5"),
            ("100", "1E+2"),
            ("0.001", "1.0e-3"),
            ("0.0", "0"),
            ("\"1.50 \\\"2\\\\\"", "\"1.50 \\\"2\\\\\""),
            ("1e99999999999999999999", "1e99999999999999999999"),
        ] {
            assert!(are(ours, theirs), "{ours} {theirs}");
        }
        for (ours, theirs) in [
            ("12345678901234567.89", "12345678901234567.90"),
            ("18446744073709551617", "18446744073709551618"),
            ("1", "-1"),
            ("1", "10"),
            ("105", "15"),
            ("0.0", "-0.0"),
            ("1", "\"1\""),
            ("\"n1e0\"", "1"),
            ("\"1.50\"", "\"1.5\""),
            ("1e99999999999999999999", "2e99999999999999999999"),
        ] {
            assert!(!are(ours, theirs), "{ours} {theirs}");
        }
    }

    #[test]
    fn a_field_that_one_sides_type_lacks_is_null() {
        let udt = |names: &[&str]| Type::Udt {
            keyspace: "ks".into(),
            name: "u".into(),
            fields: names.iter().map(|name| ((*name).to_owned(), native(Native::Int))).collect(),
        };
        let (older, newer) = (udt(&["a"]), udt(&["a", "b"]));
        let (short, long) = (Datum::Udt(vec![Datum::Int(1)]), Datum::Udt(vec![Datum::Int(1), Datum::Null]));
        assert!(alike(Form::Exact, (&older, &newer), bytes(&short).as_deref(), bytes(&long).as_deref()));
    }

    proptest! {
        #[test]
        fn any_bytes_as_any_type_are_like_themselves_and_never_panic(
            ours in proptest::collection::vec(prop_oneof![0..3_u8, any::<u8>()], 0..40),
            theirs in proptest::collection::vec(prop_oneof![0..3_u8, any::<u8>()], 0..40),
        ) {
            for kind in storm::types() {
                for form in [Form::Exact, Form::Computed, Form::Ttl, Form::Writetime, Form::Document] {
                    let kinds = (&kind, &kind);
                    prop_assert!(alike(form, kinds, Some(&ours), Some(&ours)));
                    let one_way = alike(form, kinds, Some(&ours), Some(&theirs));
                    prop_assert_eq!(one_way, alike(form, kinds, Some(&theirs), Some(&ours)));
                }
            }
        }

        #[test]
        fn sets_are_alike_in_any_order_and_lists_are_not(
            elements in proptest::collection::btree_set(any::<i32>(), 2..9), turn in 1..8_usize, other: i32,
        ) {
            let ours: Vec<Datum> = elements.iter().copied().map(Datum::Int).collect();
            let mut theirs = ours.clone();
            theirs.rotate_left(turn % ours.len());
            let of = |kind: fn(Box<Type>) -> Type| kind(Box::new(native(Native::Int)));
            prop_assert!(are(Form::Exact, &of(Type::Set), &Datum::Set(ours.clone()), &Datum::Set(theirs.clone())));
            let is_turned = ours != theirs;
            let lists = are(Form::Exact, &of(Type::List), &Datum::List(ours.clone()), &Datum::List(theirs.clone()));
            prop_assert_eq!(lists, !is_turned);
            prop_assume!(!elements.contains(&other));
            theirs[0] = Datum::Int(other);
            prop_assert!(!are(Form::Exact, &of(Type::Set), &Datum::Set(ours), &Datum::Set(theirs)));
        }
    }
}
