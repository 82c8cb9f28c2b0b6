//! Types of answers as the bytes they came as.

use super::cql::Type;

/// The number of a simple type; 0 for others. The functions of 5.0 for old timeuuids call theirs by its class.
pub(crate) fn simple_number(of: &Type) -> u16 {
    match of {
        Type::Simple(number) => *number,
        Type::Custom(class) if class.ends_with(".LegacyTimeUUIDType") => 0x0F,
        _ => 0,
    }
}

/// `[option]` of the types in system tables, whose only collections of one are sets.
pub(crate) fn option_of(of: &Type) -> Vec<u8> {
    match of {
        Type::Simple(number) => number.to_be_bytes().to_vec(),
        Type::List(inner) => [vec![0x00, 0x22], option_of(inner)].concat(),
        Type::Map(key, value) => [vec![0x00, 0x21], option_of(key), option_of(value)].concat(),
        other => panic!("{other:?} in a system table"),
    }
}
