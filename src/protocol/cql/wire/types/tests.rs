use super::*;
use crate::protocol::cql::wire::storm;

fn round(kind: &Type, version: Version) -> Type {
    let mut out = BytesMut::new();
    kind.put(&mut out, version).unwrap();
    let mut reader = Reader::new(&out);
    skip(&mut reader, DEPTH_MAX).unwrap();
    assert!(reader.rest().is_empty());
    for end in 0..out.len() {
        assert!(Type::read(&mut Reader::new(&out[..end])).is_err());
    }
    Type::read(&mut Reader::new(&out)).unwrap()
}

#[test]
fn every_type_is_the_same_in_every_version() {
    for (kind, version) in storm::types().iter().flat_map(|kind| Version::ALL.map(|version| (kind, version))) {
        assert_eq!(round(kind, version), *kind, "{version}");
    }
}

/// What servers do for versions that do not know a type.
#[test]
fn a_type_that_the_version_does_not_know_is_the_servers_class() {
    let put = |native, version| {
        let mut out = BytesMut::new();
        Type::Native(native).put(&mut out, version).unwrap();
        out
    };
    assert_eq!(put(Native::Date, Version::V4)[..], [0, 0x11]);
    assert_eq!(put(Native::Date, Version::V3)[4..], b"org.apache.cassandra.db.marshal.SimpleDateType"[..]);
    assert_eq!(put(Native::Duration, Version::V4)[4..], b"org.apache.cassandra.db.marshal.DurationType"[..]);
    assert_eq!(put(Native::Duration, Version::V5)[..], [0, 0x15]);
}

#[test]
fn classes_are_read_as_servers_write_them() {
    let marshal = |class: &str| Type::of_class(&class.replace('$', MARSHAL));
    let float = Type::Native(Native::Float);
    assert_eq!(marshal("$VectorType($FloatType , 3)"), Type::Vector(Box::new(float.clone()), 3));
    let list = Type::List(Box::new(Type::Map(Box::new(Type::Native(Native::Int)), Box::new(float))));
    assert_eq!(marshal("$FrozenType($ListType($MapType($Int32Type,$FloatType)))"), list);
    for strange in
        ["", "com.example.X", "$NewType", "$VectorType($FloatType)", "$ListType($NewType)", "$ListType((", "$()"]
    {
        assert_eq!(marshal(strange), Type::Custom(strange.replace('$', MARSHAL)));
    }
    let deep = format!("{}{}", format!("{MARSHAL}ListType(").repeat(5000), ")".repeat(5000));
    assert!(matches!(Type::of_class(&deep), Type::Custom(_)));
}

#[test]
fn types_are_not_nested_without_end() {
    let bytes: Vec<u8> = [0, LIST as u8].repeat(100_000);
    assert_eq!(Type::read(&mut Reader::new(&bytes)), Err(Error::Nested(DEPTH_MAX)));
    assert_eq!(skip(&mut Reader::new(&bytes), DEPTH_MAX), Err(Error::Nested(DEPTH_MAX)));
    let unknown = Err(Error::Invalid { field: "type", value: 0x16 });
    assert_eq!(Type::read(&mut Reader::new(&[0, 0x16])), unknown);
}

#[test]
fn columns_say_their_table_once_or_each() {
    let each = [&[0, 2][..], b"ks", &[0, 1], b"t", &[0, 1], b"a", &[0, 9]].concat();
    let columns = Columns::read(&mut Reader::new(&each), 1, false).unwrap();
    let column = columns.iter().next().unwrap();
    assert_eq!((column.keyspace, column.table, column.name, columns.table()), ("ks", "t", "a", None));
    assert!(column.is(Native::Int) && !column.is(Native::Bigint));
    let mut out = BytesMut::new();
    columns.put(&mut out, Version::V4, Version::V3).unwrap();
    assert_eq!(out, each);
    let once = [&[0, 2][..], b"ks", &[0, 1], b"t", &[0, 1], b"a", &[0, 9], &[0, 1], b"b", &[0, 0x11]].concat();
    let columns = Columns::read(&mut Reader::new(&once), 2, true).unwrap();
    assert_eq!(columns.iter().map(|column| column.name).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(columns.table(), Some(("ks", "t")));
    assert!((0..once.len()).all(|end| Columns::read(&mut Reader::new(&once[..end]), 2, true).is_err()));
}
