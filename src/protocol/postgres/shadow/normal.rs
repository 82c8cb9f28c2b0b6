//! Values in normal form: two forms are equal if and only if PostgreSQL would call the values the same, whatever scale,
//! sign of zero or white space they are written with. What is not known here is its bytes.
//!
//! Binary forms are those of the types' send functions, text forms those of their output functions, under settings that
//! are the same on both sides.

use crate::protocol::postgres::catalog::FIRST_NORMAL_OID;
use crate::protocol::postgres::wire::Fields;

/// `pg_type.dat`.
mod oid {
    pub(super) const TEXT: u32 = 25;
    pub(super) const JSON: u32 = 114;
    pub(super) const JSON_ARRAY: u32 = 199;
    pub(super) const FLOAT4: u32 = 700;
    pub(super) const FLOAT8: u32 = 701;
    pub(super) const UNKNOWN: u32 = 705;
    pub(super) const FLOAT4_ARRAY: u32 = 1021;
    pub(super) const FLOAT8_ARRAY: u32 = 1022;
    pub(super) const BPCHAR: u32 = 1042;
    pub(super) const VARCHAR: u32 = 1043;
    pub(super) const TIMESTAMPTZ: u32 = 1184;
    pub(super) const NUMERIC_ARRAY: u32 = 1231;
    pub(super) const NUMERIC: u32 = 1700;
    pub(super) const RECORD: u32 = 2249;
    pub(super) const RECORD_ARRAY: u32 = 2287;
    pub(super) const JSONB: u32 = 3802;
}

/// A value nested deeper is its bytes.
const DEPTH_MAX: usize = 8;

/// Append the normal form of a value, so that no two values of a row run into each other.
pub(super) fn put(out: &mut Vec<u8>, type_oid: u32, binary: bool, value: Option<&[u8]>) {
    let Some(value) = value else {
        out.push(0);
        return;
    };
    out.push(1);
    let at = out.len();
    out.extend_from_slice(&[0; 8]);
    form(out, type_oid, binary, value, 0);
    let len = (out.len() - at - 8) as u64;
    out[at..at + 8].copy_from_slice(&len.to_be_bytes());
}

/// Its sums are rounded.
pub(super) fn is_float(type_oid: u32) -> bool {
    [oid::FLOAT4, oid::FLOAT8].contains(&type_oid)
}

/// The value of a float in any format.
pub(super) fn float(type_oid: u32, binary: bool, value: &[u8]) -> Option<f64> {
    match (type_oid, binary) {
        (oid::FLOAT4, true) => Some(f64::from(f32::from_be_bytes(value.try_into().ok()?))),
        (oid::FLOAT8, true) => Some(f64::from_be_bytes(value.try_into().ok()?)),
        (oid::FLOAT4, false) => Some(f64::from(text(value)?.parse::<f32>().ok()?)),
        (oid::FLOAT8, false) => text(value)?.parse().ok(),
        _ => None,
    }
}

/// What a value shows beside numbers that may have been floats. `None`: it is of a type in which nobody shows floats.
pub(super) fn without_numbers(type_oid: u32, value: &[u8]) -> Option<Vec<u8>> {
    match type_oid {
        oid::NUMERIC | oid::FLOAT4_ARRAY | oid::FLOAT8_ARRAY | oid::NUMERIC_ARRAY => Some(Vec::new()),
        oid::TEXT | oid::VARCHAR | oid::BPCHAR | oid::UNKNOWN | oid::JSON | oid::JSONB => {
            let is_part = |byte: &u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
            let runs = value.chunk_by(|one, next| is_part(one) == is_part(next));
            let is_number = |run: &&[u8]| run.iter().any(u8::is_ascii_digit) && run.iter().all(is_part);
            Some(runs.filter(|run| !is_number(run)).flatten().copied().collect())
        }
        _ => None,
    }
}

fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok()
}

fn form(out: &mut Vec<u8>, type_oid: u32, binary: bool, value: &[u8], depth: usize) {
    let start = out.len();
    let known = match (type_oid, binary) {
        (oid::FLOAT4 | oid::FLOAT8, _) => float(type_oid, binary, value).map(|float| put_float(out, float)),
        (oid::NUMERIC, true) => numeric_binary(out, value),
        (oid::NUMERIC, false) => numeric_text(out, value),
        (oid::TIMESTAMPTZ, false) => instant(value).map(|micros| out.extend_from_slice(&micros.to_be_bytes())),
        (oid::JSON, _) => {
            json(out, value);
            Some(())
        }
        (oid::FLOAT4_ARRAY | oid::FLOAT8_ARRAY | oid::NUMERIC_ARRAY, false) => {
            plain_array(out, type_oid, value);
            Some(())
        }
        (oid::RECORD, true) if depth < DEPTH_MAX => record(out, value, depth),
        (oid::FLOAT4_ARRAY | oid::FLOAT8_ARRAY | oid::NUMERIC_ARRAY | oid::RECORD_ARRAY | oid::JSON_ARRAY, true)
            if depth < DEPTH_MAX =>
        {
            array(out, value, depth)
        }
        (FIRST_NORMAL_OID.., true) if depth < DEPTH_MAX => {
            // What kind of type it is nobody told: its form does, because lengths inside must add up.
            array(out, value, depth).or_else(|| {
                out.truncate(start);
                record(out, value, depth)
            })
        }
        _ => None,
    };
    if known.is_none() {
        out.truncate(start);
        out.extend_from_slice(value);
    }
}

fn put_float(out: &mut Vec<u8>, float: f64) {
    let one = if float == 0.0 {
        0.0
    } else if float.is_nan() {
        f64::NAN
    } else {
        float
    };
    out.extend_from_slice(&one.to_be_bytes());
}

/// Digits without the scale that is shown (`numeric_send`: count, weight, sign, scale, digits of base 10 000).
fn numeric_binary(out: &mut Vec<u8>, value: &[u8]) -> Option<()> {
    let mut fields = Fields::new(b'D', value);
    let (count, weight, sign) = (fields.u16().ok()?, fields.i16().ok()?, fields.u16().ok()?);
    fields.u16().ok()?;
    let mut digits = fields.rest();
    if digits.len() != usize::from(count) * 2 {
        return None;
    }
    while let Some(shorter) = digits.strip_suffix(&[0, 0]) {
        digits = shorter;
    }
    let weight = if digits.is_empty() { 0 } else { weight };
    out.extend_from_slice(&weight.to_be_bytes());
    out.extend_from_slice(&sign.to_be_bytes());
    out.extend_from_slice(digits);
    Some(())
}

fn numeric_text(out: &mut Vec<u8>, value: &[u8]) -> Option<()> {
    let text = text(value)?;
    let short = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text };
    let short = if matches!(short, "-0" | "" | "-") { "0" } else { short };
    out.extend_from_slice(short.as_bytes());
    Some(())
}

/// White space between the words of JSON means nothing.
fn json(out: &mut Vec<u8>, value: &[u8]) {
    let (mut quoted, mut escaped) = (false, false);
    for &byte in value {
        if !quoted && matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            continue;
        }
        out.push(byte);
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            _ => {}
        }
    }
}

/// An array whose elements are never quoted.
fn plain_array(out: &mut Vec<u8>, type_oid: u32, value: &[u8]) {
    let element = match type_oid {
        oid::FLOAT4_ARRAY => oid::FLOAT4,
        oid::FLOAT8_ARRAY => oid::FLOAT8,
        _ => oid::NUMERIC,
    };
    for part in value.split_inclusive(|byte| b"{},".contains(byte)) {
        let (word, end) = match part.split_last() {
            Some((end, word)) if b"{},".contains(end) => (word, Some(*end)),
            _ => (part, None),
        };
        match word {
            b"" | b"NULL" => out.extend_from_slice(word),
            word => form(out, element, false, word, 0),
        }
        out.extend(end);
    }
}

/// `array_send`: dimensions, whether there are nulls, the element's type, sizes and lower bounds, elements.
fn array(out: &mut Vec<u8>, value: &[u8], depth: usize) -> Option<()> {
    let mut fields = Fields::new(b'D', value);
    let (dimensions, nulls, element) = (fields.i32().ok()?, fields.i32().ok()?, fields.u32().ok()?);
    if !(0..=6).contains(&dimensions) || !(0..=1).contains(&nulls) {
        return None;
    }
    out.extend_from_slice(&dimensions.to_be_bytes());
    let mut count: i64 = i64::from(dimensions > 0);
    for _ in 0..dimensions {
        let (size, low) = (fields.i32().ok()?, fields.i32().ok()?);
        count = count.checked_mul(i64::from(size)).filter(|&count| count >= 0)?;
        out.extend_from_slice(&size.to_be_bytes());
        out.extend_from_slice(&low.to_be_bytes());
    }
    for _ in 0..count {
        element_of(out, element, fields.value().ok()?, depth);
    }
    fields.rest().is_empty().then_some(())
}

/// `record_send`: how many columns, then the type and the value of each.
fn record(out: &mut Vec<u8>, value: &[u8], depth: usize) -> Option<()> {
    let mut fields = Fields::new(b'D', value);
    let count = u16::try_from(fields.i32().ok()?).ok()?;
    for _ in 0..count {
        let type_oid = fields.u32().ok()?;
        let shown = if type_oid < FIRST_NORMAL_OID { type_oid } else { 0 };
        out.extend_from_slice(&shown.to_be_bytes());
        element_of(out, type_oid, fields.value().ok()?, depth);
    }
    fields.rest().is_empty().then_some(())
}

fn element_of(out: &mut Vec<u8>, type_oid: u32, value: Option<&[u8]>, depth: usize) {
    let Some(value) = value else {
        out.push(0);
        return;
    };
    let mut inner = Vec::with_capacity(value.len());
    form(&mut inner, type_oid, true, value, depth + 1);
    out.push(1);
    out.extend_from_slice(&(inner.len() as u64).to_be_bytes());
    out.extend_from_slice(&inner);
}

/// Microseconds since 1970 of `YYYY-MM-DD HH:MM:SS[.ffffff]±HH[:MM[:SS]]`; other styles are their text.
fn instant(value: &[u8]) -> Option<i64> {
    let text = text(value)?;
    let (date, time) = text.split_once(' ')?;
    let zone_at = time.rfind(['+', '-'])?;
    let (clock, zone) = time.split_at(zone_at);
    let mut days = date.split('-').map(str::parse::<i64>);
    let (year, month, day) = (days.next()?.ok()?, days.next()?.ok()?, days.next()?.ok()?);
    let (whole, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    if fraction.len() > 6 || days.next().is_some() {
        return None;
    }
    let micros: i64 = format!("{fraction:0<6}").parse().ok()?;
    let offset = seconds(&zone[1..])? * if zone.starts_with('-') { -1 } else { 1 };
    let seconds = day_number(year, month, day) * 86_400 + seconds(whole)? - offset;
    seconds.checked_mul(1_000_000)?.checked_add(micros)
}

fn seconds(clock: &str) -> Option<i64> {
    let mut parts = clock.split(':').map(str::parse::<i64>);
    let hours = parts.next()?.ok()?;
    let minutes = parts.next().unwrap_or(Ok(0)).ok()?;
    let seconds = parts.next().unwrap_or(Ok(0)).ok()?;
    parts.next().is_none().then_some(hours * 3_600 + minutes * 60 + seconds)
}

/// Days since 1970-01-01 in the Gregorian calendar: years begin in March, so that the odd day is their last.
fn day_number(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(type_oid: u32, binary: bool, value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, type_oid, binary, Some(value));
        out
    }

    fn same(type_oid: u32, one: &str, other: &str) -> bool {
        normal(type_oid, false, one.as_bytes()) == normal(type_oid, false, other.as_bytes())
    }

    #[test]
    fn what_is_one_value_has_one_form() {
        for (type_oid, one, other) in [
            (oid::FLOAT8, "-0", "0"),
            (oid::FLOAT8, "1e2", "100"),
            (oid::FLOAT8, "NaN", "nan"),
            (oid::FLOAT4, "0.1", "1e-1"),
            (oid::NUMERIC, "1.500", "1.5"),
            (oid::NUMERIC, "0.00", "0"),
            (oid::NUMERIC, "100", "100.0"),
            (oid::JSON, "{ \"a b\" : 1 }", "{\"a b\":1}"),
            (oid::JSON, "{\"a\\\" \": [1,\n2]}", "{\"a\\\" \":[1, 2]}"),
            (oid::FLOAT8_ARRAY, "{1.0,NULL,-0}", "{1,NULL,0}"),
            (oid::NUMERIC_ARRAY, "{{1.10},{2}}", "{{1.1},{2.0}}"),
            (oid::TIMESTAMPTZ, "2026-03-01 00:30:00+02", "2026-02-28 22:30:00+00"),
            (oid::TIMESTAMPTZ, "2026-01-01 00:00:00.5-03:30", "2026-01-01 03:30:00.500000+00"),
        ] {
            assert!(same(type_oid, one, other), "{one} {other}");
        }
    }

    #[test]
    fn what_is_another_value_has_another_form() {
        for (type_oid, one, other) in [
            (oid::FLOAT8, "0.1", "0.10000000000000002"),
            (oid::NUMERIC, "100", "1"),
            (oid::NUMERIC, "1.05", "1.5"),
            (oid::JSON, "{\"a b\":1}", "{\"ab\":1}"),
            (oid::FLOAT8_ARRAY, "{1,2}", "{{1,2}}"),
            (oid::FLOAT8_ARRAY, "{1,NULL}", "{1}"),
            (oid::TIMESTAMPTZ, "2026-03-01 00:30:00+02", "2026-03-01 00:30:00+01"),
            (oid::TIMESTAMPTZ, "infinity", "-infinity"),
            (25, "1.0", "1"),
            (25, "", " "),
        ] {
            assert!(!same(type_oid, one, other), "{one} {other}");
        }
        assert_ne!(normal(25, false, b""), [0], "empty is not NULL");
    }

    #[test]
    fn days_are_counted() {
        assert_eq!((day_number(1970, 1, 1), day_number(2000, 3, 1), day_number(1969, 12, 31)), (0, 11_017, -1));
    }

    #[test]
    fn numbers_in_binary_form_have_no_scale() {
        // 1.5 and 1.50 (documentation of numeric_send: digits are of base 10 000).
        let with_scale = |scale: u8| [0, 2, 0, 0, 0, 0, 0, scale, 0, 1, 0x13, 0x88];
        assert_eq!(normal(oid::NUMERIC, true, &with_scale(1)), normal(oid::NUMERIC, true, &with_scale(2)));
        let longer = [0, 3, 0, 0, 0, 0, 0, 1, 0, 1, 0x13, 0x88, 0, 0];
        assert_eq!(normal(oid::NUMERIC, true, &with_scale(1)), normal(oid::NUMERIC, true, &longer));
        assert_ne!(normal(oid::NUMERIC, true, &with_scale(1)), normal(oid::NUMERIC, true, &[0, 0, 0, 0, 0, 0, 0, 0]));
    }

    /// An array of one element of a type of the user's, which has this oid here.
    fn of_moods(element: u32, mood: &[u8]) -> Vec<u8> {
        let head = [1_i32.to_be_bytes(), [0; 4], element.to_be_bytes(), 1_i32.to_be_bytes(), 1_i32.to_be_bytes()];
        [&head.concat()[..], &(mood.len() as i32).to_be_bytes(), mood].concat()
    }

    #[test]
    fn oids_of_user_types_inside_of_values_are_no_difference() {
        let (here, there) = (of_moods(16_400, b"sad"), of_moods(17_000, b"sad"));
        assert_eq!(normal(16_401, true, &here), normal(16_401, true, &there));
        assert_ne!(normal(16_401, true, &here), normal(16_401, true, &of_moods(16_400, b"mad")));
        let row = |oid: u32, value: &[u8]| {
            [&1_i32.to_be_bytes()[..], &oid.to_be_bytes(), &(value.len() as i32).to_be_bytes(), value].concat()
        };
        assert_eq!(normal(oid::RECORD, true, &row(16_401, &here)), normal(oid::RECORD, true, &row(17_001, &there)));
        assert_ne!(normal(oid::RECORD, true, &row(25, b"a")), normal(oid::RECORD, true, &row(25, b"b")));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_have_a_form_and_equal_bytes_one(
            kind in proptest::sample::select(vec![25, 114, 199, 700, 701, 1022, 1184, 1231, 1700, 2249, 2287, 16_500]),
            binary: bool,
            value: Vec<u8>,
        ) {
            proptest::prop_assert_eq!(normal(kind, binary, &value), normal(kind, binary, &value.clone()));
        }

        #[test]
        fn floats_have_equal_forms_exactly_when_they_are_equal(one: f64, other: f64) {
            let forms = |float: f64| normal(oid::FLOAT8, false, float.to_string().as_bytes());
            proptest::prop_assert_eq!(forms(one) == forms(other), one == other || one.is_nan() && other.is_nan());
            proptest::prop_assert_eq!(forms(one), normal(oid::FLOAT8, true, &one.to_be_bytes()));
        }
    }
}
