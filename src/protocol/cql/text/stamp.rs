//! The timestamps that a text gives to what it modifies: `USING TIMESTAMP`.

use super::literal::encode;
use super::schema::Source;
use super::statement::{Modification, Statement};

/// The timestamp of a modification of `statement`, if `text` gives it one, or gives one to its batch; a marker in it is bound to
/// what `bound` gives.
pub fn stamp<'v>(
    text: &[u8],
    statement: &Statement,
    modification: &Modification,
    bound: impl Fn(usize) -> Option<&'v [u8]>,
) -> Option<i64> {
    let of_all = || statement.using().and_then(|using| using.timestamp.as_ref());
    let bytes = match modification.using.timestamp.as_ref().or_else(of_all)?.source() {
        Source::Marker(number) => bound(number)?.try_into().ok()?,
        Source::Literal(literal, span) => encode(literal, span.of(text), "bigint").ok()?.try_into().ok()?,
        Source::Null | Source::Computed(_) => return None,
    };
    Some(i64::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::*;

    #[test]
    fn a_modification_has_its_own_timestamp_or_its_batchs_or_none() {
        let bound = 9_i64.to_be_bytes();
        for (text, expected) in [
            ("UPDATE t USING TIMESTAMP 200 SET v = 1 WHERE k = 1", vec![Some(200)]),
            ("UPDATE t USING TTL 5 AND TIMESTAMP ? SET v = 1 WHERE k = 1", vec![Some(9)]),
            ("INSERT INTO t (k) VALUES (1) USING TIMESTAMP -3", vec![Some(-3)]),
            ("DELETE FROM t USING TIMESTAMP :at WHERE k = 1", vec![Some(9)]),
            ("DELETE FROM t WHERE k = 1", vec![None]),
            ("UPDATE t USING TIMESTAMP 99999999999999999999 SET v = 1 WHERE k = 1", vec![None]),
            (
                "BEGIN BATCH USING TIMESTAMP 7 DELETE FROM t WHERE k = 1; DELETE FROM t WHERE k = 2; APPLY BATCH",
                vec![Some(7), Some(7)],
            ),
            (
                "BEGIN BATCH DELETE FROM t USING TIMESTAMP 8 WHERE k = 1; DELETE FROM t WHERE k = 2; APPLY BATCH",
                vec![Some(8), None],
            ),
        ] {
            let statement = parse(text.as_bytes());
            let stamps: Vec<Option<i64>> = (statement.modifications().iter())
                .map(|one| stamp(text.as_bytes(), &statement, one, |_| Some(&bound[..])))
                .collect();
            assert_eq!(stamps, expected, "{text}");
        }
        let text = "DELETE FROM t USING TIMESTAMP ? WHERE k = 1";
        let statement = parse(text.as_bytes());
        assert_eq!(stamp(text.as_bytes(), &statement, &statement.modifications()[0], |_| None), None, "not set");
    }
}
