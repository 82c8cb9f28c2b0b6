use super::*;

/// native_protocol_v5.spec section 3.
#[test]
fn values_tell_null_from_unset_since_v4() {
    fn read(version: Version, bytes: &[u8; 4]) -> Result<Value<'_>, Error> {
        Reader::new(bytes).value(version, "value")
    }
    let (null, unset, other) = ([0xFF; 4], [0xFF, 0xFF, 0xFF, 0xFE], [0xFF, 0xFF, 0xFF, 0xFD]);
    assert_eq!(read(Version::V4, &null), Ok(Value::Null));
    assert_eq!(read(Version::V4, &unset), Ok(Value::Unset));
    assert_eq!(read(Version::V4, &other), Err(Error::ValueLength(-3)));
    assert_eq!(read(Version::V3, &unset), Ok(Value::Null));
    assert_eq!(read(Version::V3, &other), Ok(Value::Null));
    assert_eq!(Reader::new(&[0, 0, 0, 1, 7]).value(Version::V5, "value"), Ok(Value::Set(&[7])));
}

#[test]
fn bytes_of_any_negative_length_are_null() {
    assert_eq!(Reader::new(&[0xFF, 0xFF, 0xFF, 0xF0]).bytes("token"), Ok(None));
    assert_eq!(Reader::new(&[0; 4]).bytes("token"), Ok(Some(&[][..])));
}

#[test]
fn a_length_that_lies_is_an_error_with_the_name_of_its_field() {
    let short = |need, left| Err(Error::Short { field: "it", need, left });
    assert_eq!(Reader::new(&[0x7F, 0xFF, 0xFF, 0xFF, 1]).bytes("it").map(drop), short(0x7FFF_FFFF, 1));
    assert_eq!(Reader::new(&[0xFF, 0xFF, 1]).string("it").map(drop), short(0xFFFF, 1));
    assert_eq!(Reader::new(&[0xFF, 0xFF, 0, 0]).string_list("it").map(drop), short(2, 0));
    assert_eq!(Reader::new(&[1]).int("it").map(drop), short(4, 1));
    let negative = Error::Invalid { field: "it", value: -1 };
    assert_eq!(Reader::new(&[0xFF; 4]).long_string("it"), Err(negative));
    assert_eq!(Reader::new(&[0, 1, 0xFF]).string("it"), Err(Error::Utf8("it")));
}

#[test]
fn addresses_have_four_or_sixteen_bytes() {
    assert_eq!(Reader::new(&[4, 127, 0, 0, 1, 0, 0, 0x23, 0x52]).inet("node"), Ok(([127, 0, 0, 1].into(), 9042)));
    let v6 = [&[16][..], &[0; 15], &[1]].concat();
    assert_eq!(Reader::new(&v6).inetaddr("node"), Ok(std::net::Ipv6Addr::LOCALHOST.into()));
    assert_eq!(Reader::new(&[5; 9]).inetaddr("node"), Err(Error::Invalid { field: "node", value: 5 }));
    let mut out = BytesMut::new();
    put_inetaddr(&mut out, std::net::Ipv6Addr::LOCALHOST.into());
    assert_eq!(out, v6);
}

#[test]
fn consistencies_have_the_codes_of_the_specification() {
    assert_eq!(Consistency::from_code(6), Some(Consistency::LocalQuorum));
    assert_eq!(Consistency::from_code(0x0A), Some(Consistency::LocalOne));
    assert_eq!(Consistency::from_code(0x0C), None);
    for (code, level) in Consistency::ALL.into_iter().enumerate() {
        assert_eq!((usize::from(level.code()), level.to_string().parse()), (code, Ok(level)));
    }
}

#[test]
fn maps_and_lists_are_views_that_put_themselves_again() {
    let map = [0, 2, 0, 1, b'a', 0, 1, b'1', 0, 1, b'b', 0, 0];
    let view = Reader::new(&map).string_map("map").unwrap();
    assert_eq!((view.len(), view.get("a"), view.get("b"), view.get("c")), (2, Some("1"), Some(""), None));
    let mut out = BytesMut::new();
    view.put(&mut out);
    assert_eq!(out[..], map);
    let multimap = [0, 1, 0, 1, b'a', 0, 2, 0, 1, b'x', 0, 1, b'y', 9];
    let mut reader = Reader::new(&multimap);
    let view = reader.string_multimap("map").unwrap();
    assert_eq!(view.get("a").unwrap().iter().collect::<Vec<_>>(), ["x", "y"]);
    assert_eq!(reader.rest(), [9]);
    for end in 0..map.len() {
        assert!(Reader::new(&map[..end]).string_map("map").is_err());
    }
}

#[test]
fn debug_shows_no_values() {
    let map = Reader::new(&[0, 1, 0, 1, b'a', 0, 1, b'7']).string_map("map").unwrap();
    assert_eq!(format!("{:?} {map:?}", Value::Set(b"secret")), r#"Set(6 bytes) {"a"}"#);
}

#[test]
fn a_part_of_a_message_is_found_in_it() {
    let (whole, other) = (*b"0123456789", *b"0");
    assert_eq!(range_in(&whole, &whole[3..5]), Some(3..5));
    assert_eq!(range_in(&whole, &whole[10..]), Some(10..10));
    assert_eq!(range_in(&whole[2..5], &whole[4..6]), None);
    assert_eq!(range_in(&whole[2..5], &whole[1..2]), None);
    assert_eq!(range_in(&whole, &other), None);
}

#[test]
fn what_is_too_long_for_its_length_is_an_error() {
    let mut out = BytesMut::new();
    let long = "x".repeat(65_536);
    assert_eq!(put_string(&mut out, &long, "name"), Err(Error::TooLong { field: "name", len: 65_536 }));
    assert_eq!(put_string(&mut out, &long[1..], "name"), Ok(()));
    let unset = put_value(&mut out, Value::Unset, Version::V3);
    assert_eq!(unset, Err(Error::Inexpressible { field: "unset value", version: Version::V3 }));
}
