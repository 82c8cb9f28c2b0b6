use super::*;
use proptest::prelude::*;

fn parsed(form: Form, typmod: i32, text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    parse(form, typmod, text.as_bytes(), &mut out).ok().map(|()| out)
}

#[test]
fn integers_are_read_as_the_server_reads_them_or_not_at_all() {
    for (text, expected) in
        [("7", Some(7)), (" 007\n", Some(7)), ("-0", Some(0)), ("+5", Some(5)), ("2147483647", Some(i32::MAX))]
    {
        assert_eq!(parsed(Form::Int(4), -1, text), expected.map(|value: i32| value.to_be_bytes().to_vec()), "{text:?}");
    }
    for text in ["", " ", "-", "1.0", "1e0", "0x1f", "1_000", "2147483648", "- 5", "١", "5 5"] {
        assert_eq!(parsed(Form::Int(4), -1, text), None, "{text:?}");
    }
    assert_eq!(parsed(Form::Int(8), -1, "-9223372036854775808"), Some(i64::MIN.to_be_bytes().to_vec()));
    assert_eq!(parsed(Form::Int(2), -1, "32768"), None);
}

#[test]
fn a_uuid_has_many_spellings_and_one_key() {
    let plain = parsed(Form::Uuid, -1, "a0eebc999c0b4ef8bb6d6bb9bd380a11").expect("plain");
    for text in [
        "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
        "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
        "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
        "{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}",
    ] {
        assert_eq!(parsed(Form::Uuid, -1, text).as_ref(), Some(&plain), "{text}");
    }
    for text in ["", "a0eebc99", "{a0eebc999c0b4ef8bb6d6bb9bd380a11", "a0eebc999c0b4ef8bb6d6bb9bd380a11-", "é"] {
        assert_eq!(parsed(Form::Uuid, -1, text), None, "{text}");
    }
}

#[test]
fn numbers_that_are_equal_have_one_key() {
    for same in [
        &["1", "1.0", "01.00", "1e0", "0.1e1", "+1", " 1 ", "10e-1"][..],
        &["0", "-0", "0.000", "0e5"],
        &["NaN", "nan"],
        &["Infinity", "inf", "+inf"],
        &["12345.678", "12345678e-3"],
        &["0.00001", "1e-5"],
    ] {
        let first = parsed(Form::Numeric, -1, same[0]).expect("a number");
        assert!(same.iter().all(|text| parsed(Form::Numeric, -1, text).as_ref() == Some(&first)), "{same:?}");
    }
    // numeric_send of 12345.678: two groups before the point, one behind.
    let sent = [3_u16, 1, 0, 3, 1, 2345, 6780].iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>();
    assert_eq!(parsed(Form::Numeric, -1, "12345.678"), Some(sent));
    for text in ["", ".", "1e", "e5", "1.2.3", "1 2", "0x1", "1_0", "1e99999", "- 1"] {
        assert_eq!(parsed(Form::Numeric, -1, text), None, "{text:?}");
    }
    assert_eq!(parsed(Form::Numeric, 655_366, "1.005"), None, "the server would round it");
}

#[test]
fn text_with_a_limit_is_taken_only_if_it_fits() {
    assert_eq!(parsed(Form::Utf8, 7, "äöü"), Some("äöü".as_bytes().to_vec()));
    assert_eq!(parsed(Form::Utf8, 7, "abc "), None);
    assert_eq!(parsed(Form::Utf8, -1, "abc "), Some(b"abc ".to_vec()));
}

#[test]
fn bytea_reads_hex_and_escape() {
    assert_eq!(parsed(Form::Bytea, -1, "\\x00fF"), Some(vec![0, 255]));
    assert_eq!(parsed(Form::Bytea, -1, "\\x0 0"), None);
    assert_eq!(parsed(Form::Bytea, -1, "a\\\\b\\377"), Some(b"a\\b\xff".to_vec()));
    assert_eq!(parsed(Form::Bytea, -1, "a\\4"), None);
}

#[test]
fn bool_knows_unique_prefixes() {
    for (text, value) in [("T", 1), (" yes ", 1), ("on", 1), ("1", 1), ("of", 0), ("n", 0), ("FALSE", 0)] {
        assert_eq!(parsed(Form::Bool, -1, text), Some(vec![value]), "{text}");
    }
    assert_eq!(parsed(Form::Bool, -1, "o"), None);
}

#[test]
fn a_key_reads_back_by_column() {
    let mut key = Vec::new();
    let layout = Layout::of([("a", "pg_catalog.text"), ("b", "pg_catalog.bytea"), ("c", "pg_catalog.text")]);
    layout.begin(&mut key);
    push(&mut key, b"a");
    push(&mut key, &[7; 300]);
    push(&mut key, b"");
    let lengths: Vec<_> = columns(&key).map(<[u8]>::len).collect();
    assert_eq!((Layout::of_key(&key), lengths), (Some(layout), vec![1, 300, 0]));
}

#[test]
fn keys_of_other_columns_have_another_layout() {
    let of = |columns: &[(&'static str, &'static str)]| Layout::of(columns.iter().copied());
    let layouts = [
        of(&[("a", "int4")]),
        of(&[("a", "int8")]),
        of(&[("b", "int4")]),
        of(&[("a", "int4"), ("b", "int4")]),
        of(&[("b", "int4"), ("a", "int4")]),
        of(&[("ain", "t4")]),
    ];
    for (at, layout) in layouts.iter().enumerate() {
        assert!(!layouts[..at].contains(layout), "{at}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_without_panic(text in proptest::collection::vec(any::<u8>(), 0..40)) {
        for form in [Form::Int(2), Form::Int(8), Form::Uuid, Form::Utf8, Form::Bool, Form::Bytea, Form::Numeric] {
            let _ = parse(form, -1, &text, &mut Vec::new());
            for declared in [oid::INT4, oid::UUID, oid::TEXT, oid::BOOL, oid::BYTEA, oid::NUMERIC] {
                let _ = binary(form, -1, declared, &text, &mut Vec::new());
            }
        }
    }

    #[test]
    fn a_numeric_is_the_same_as_text_and_as_binary(digits in "[0-9]{1,30}", point in 0_usize..30, negative in any::<bool>()) {
        let point = point.min(digits.len());
        let text = format!("{}{}.{}", if negative { "-" } else { "" }, &digits[..point], &digits[point..]);
        prop_assume!(text.bytes().any(|byte| byte.is_ascii_digit()));
        let by_text = parsed(Form::Numeric, -1, &text).expect("a number");
        let mut by_binary = Vec::new();
        binary(Form::Numeric, -1, oid::NUMERIC, &by_text, &mut by_binary).expect("its own form");
        prop_assert_eq!(by_text, by_binary);
    }
}
