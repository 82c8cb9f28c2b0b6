use proptest::prelude::*;

use super::*;
use crate::protocol::cql::wire::storm;

fn decode(native: Native, bytes: &[u8]) -> Result<Datum, Error> {
    Datum::decode(&Type::Native(native), Some(bytes))
}

fn encoded(datum: &Datum) -> Vec<u8> {
    let mut out = BytesMut::new();
    datum.put(&mut out).unwrap();
    out[4..].to_vec()
}

/// native_protocol_v5.spec section 5.24.
#[test]
fn varints_are_encoded_as_the_specification_says() {
    let cases: [(i64, &[u8]); 8] = [
        (0, &[0x00]),
        (1, &[0x01]),
        (127, &[0x7F]),
        (128, &[0x00, 0x80]),
        (129, &[0x00, 0x81]),
        (-1, &[0xFF]),
        (-128, &[0x80]),
        (-129, &[0xFF, 0x7F]),
    ];
    for (number, bytes) in cases {
        assert_eq!(encoded(&Datum::Varint(number.into())), bytes);
        assert_eq!(decode(Native::Varint, bytes), Ok(Datum::Varint(number.into())));
        let sign = if number < 0 { 0xFF } else { 0 };
        assert_eq!(decode(Native::Varint, &[&[sign, sign], bytes].concat()), Ok(Datum::Varint(number.into())));
    }
}

/// native_protocol_v5.spec section 3: 256 000 is 110_00011 11101000 00000000.
#[test]
fn vints_are_encoded_as_the_specification_says() {
    let cases: [(u64, &[u8]); 5] =
        [(0, &[0]), (127, &[127]), (128, &[0x80, 0x80]), (256_000, &[0xC3, 0xE8, 0]), (u64::MAX, &[0xFF; 9])];
    for (number, bytes) in cases {
        let mut out = BytesMut::new();
        put_unsigned_vint(&mut out, number);
        assert_eq!((&out[..], unsigned_vint(&mut Reader::new(bytes), "vint")), (bytes, Ok(number)));
    }
}

#[test]
fn durations_have_three_parts() {
    let duration = Datum::Duration { months: -1, days: -2, nanoseconds: -3 };
    assert_eq!(encoded(&duration), [1, 3, 5]);
    assert_eq!(decode(Native::Duration, &[1, 3, 5]), Ok(duration));
    assert!(decode(Native::Duration, &[1, 3]).is_err());
    assert!(decode(Native::Duration, &[1, 3, 5, 7]).is_err());
    assert!(decode(Native::Duration, &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0]).is_err());
}

#[test]
fn null_empty_and_no_text_are_three_things() {
    let (int, text) = (Type::Native(Native::Int), Type::Native(Native::Varchar));
    assert_eq!(Datum::decode(&int, None), Ok(Datum::Null));
    assert_eq!(Datum::decode(&int, Some(&[])), Ok(Datum::Empty));
    assert_eq!(Datum::decode(&text, Some(&[])), Ok(Datum::Varchar(String::new())));
    assert!(decode(Native::Int, &[0, 0, 0]).is_err());
    assert!(decode(Native::Inet, &[0; 5]).is_err());
    assert!(decode(Native::Ascii, &[0x80]).is_err());
    assert!(decode(Native::Varchar, &[0x80]).is_err());
}

#[test]
fn floats_equal_themselves() {
    let nan = decode(Native::Double, &f64::NAN.to_be_bytes()).unwrap();
    assert_eq!(nan, nan);
    assert_ne!(decode(Native::Double, &0_f64.to_be_bytes()), decode(Native::Double, &(-0_f64).to_be_bytes()));
}

/// As Cassandra 5.0 stores them: floats side by side, texts with their lengths.
#[test]
fn vectors_have_lengths_only_before_elements_that_need_them() {
    let of = |native, len| Type::Vector(Box::new(Type::Native(native)), len);
    let floats = [1_f32.to_be_bytes(), 2_f32.to_be_bytes()].concat();
    let datum = Datum::Vector(vec![Datum::Float(Exact(1.0)), Datum::Float(Exact(2.0))]);
    assert_eq!((Datum::decode(&of(Native::Float, 2), Some(&floats)), encoded(&datum)), (Ok(datum), floats.clone()));
    assert!(Datum::decode(&of(Native::Float, 3), Some(&floats)).is_err());
    assert!(Datum::decode(&of(Native::Float, 1), Some(&floats)).is_err());
    let texts = Datum::Vector(vec![Datum::Varchar("ab".into()), Datum::Varchar("c".into())]);
    assert_eq!(encoded(&texts), b"\x02ab\x01c");
    assert_eq!(Datum::decode(&of(Native::Varchar, 2), Some(b"\x02ab\x01c")), Ok(texts));
}

#[test]
fn collections_and_fields_may_hold_null_and_values_may_lack_fields() {
    let int = || Type::Native(Native::Int);
    let list = [&[0, 0, 0, 2][..], &[0, 0, 0, 4, 0, 0, 0, 7], &[0xFF; 4]].concat();
    let datum = Datum::List(vec![Datum::Int(7), Datum::Null]);
    assert_eq!((Datum::decode(&Type::List(Box::new(int())), Some(&list)), encoded(&datum)), (Ok(datum), list));
    let tuple = Type::Tuple(vec![int(), int()]);
    let one = [0, 0, 0, 4, 0, 0, 0, 7];
    assert_eq!(Datum::decode(&tuple, Some(&one)), Ok(Datum::Tuple(vec![Datum::Int(7), Datum::Null])));
    assert!(Datum::decode(&tuple, Some(&[one, one, one].concat())).is_err());
}

#[test]
fn a_lie_about_the_number_of_elements_takes_no_memory() {
    let int = || Box::new(Type::Native(Native::Int));
    for kind in [Type::List(int()), Type::Set(int()), Type::Map(int(), int())] {
        assert!(Datum::decode(&kind, Some(&[0x7F, 0xFF, 0xFF, 0xFF])).is_err());
        assert!(Datum::decode(&kind, Some(&[0xFF; 4])).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_bytes_as_any_type_never_panic(bytes in proptest::collection::vec(prop_oneof![0..3_u8, any::<u8>()], 0..40)) {
        storm::types().iter().for_each(|kind| storm::value(kind, Some(&bytes)));
    }

    #[test]
    fn vints_survive(number: i64, bits in 0..64_u32) {
        let (mut out, number) = (BytesMut::new(), number >> bits);
        put_vint(&mut out, number);
        prop_assert_eq!(vint(&mut Reader::new(&out), "vint"), Ok(number));
    }
}
