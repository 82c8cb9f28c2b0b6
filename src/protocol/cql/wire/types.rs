//! Types of columns and markers, and the metadata that names them.
//!
//! On the wire a type is an `[option]`. [`Columns`] is a view of metadata; a [`Type`] is built of a column only when
//! somebody asks. Types that a version does not know travel as "custom" with the name of the server's class, and so do
//! vectors in every version. Source: native_protocol_v5.spec section 4.2.5.2; for the classes, what servers send.

use bytes::{BufMut, BytesMut};

use super::Error;
use super::frame::Version;
use super::primitive::{Reader, put_short, put_string};

/// Types inside types: deeper ones are refused, because reading them takes stack.
const DEPTH_MAX: usize = 64;
/// Where the server's classes of types are.
const MARSHAL: &str = "org.apache.cassandra.db.marshal.";

macro_rules! natives {
    ($($name:ident $id:literal $since:ident $class:literal,)*) => {
        /// A type that is no more than its name.
        #[allow(missing_docs, reason = "named as the specification names them")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Native { $($name = $id,)* }

        impl Native {
            /// All of them.
            pub const ALL: &'static [Native] = &[$(Native::$name,)*];

            /// The first version that has it.
            pub fn since(self) -> Version {
                match self { $(Native::$name => Version::$since,)* }
            }

            /// The server's class, without its package.
            pub fn class(self) -> &'static str {
                match self { $(Native::$name => $class,)* }
            }
        }
    };
}

natives! {
    Ascii 0x01 V3 "AsciiType",
    Bigint 0x02 V3 "LongType",
    Blob 0x03 V3 "BytesType",
    Boolean 0x04 V3 "BooleanType",
    Counter 0x05 V3 "CounterColumnType",
    Decimal 0x06 V3 "DecimalType",
    Double 0x07 V3 "DoubleType",
    Float 0x08 V3 "FloatType",
    Int 0x09 V3 "Int32Type",
    Timestamp 0x0B V3 "TimestampType",
    Uuid 0x0C V3 "UUIDType",
    Varchar 0x0D V3 "UTF8Type",
    Varint 0x0E V3 "IntegerType",
    Timeuuid 0x0F V3 "TimeUUIDType",
    Inet 0x10 V3 "InetAddressType",
    Date 0x11 V4 "SimpleDateType",
    Time 0x12 V4 "TimeType",
    Smallint 0x13 V4 "ShortType",
    Tinyint 0x14 V4 "ByteType",
    Duration 0x15 V5 "DurationType",
}

const CUSTOM: u16 = 0x00;
const TEXT: u16 = 0x0A; // Of v1 and v2; some servers still say it.
const LIST: u16 = 0x20;
const MAP: u16 = 0x21;
const SET: u16 = 0x22;
const UDT: u16 = 0x30;
const TUPLE: u16 = 0x31;

/// A type, owned.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// The server's class, with its parameters.
    Custom(String),
    /// Without parts.
    Native(Native),
    /// Elements.
    List(Box<Type>),
    /// Keys and values.
    Map(Box<Type>, Box<Type>),
    /// Elements.
    Set(Box<Type>),
    /// A type that users made.
    Udt {
        /// Where it is.
        keyspace: String,
        /// Its name.
        name: String,
        /// Names and types.
        fields: Vec<(String, Type)>,
    },
    /// Its parts.
    Tuple(Vec<Type>),
    /// Elements and how many. On the wire a custom type.
    Vector(Box<Type>, u16),
}

impl Type {
    /// The type at the reader. Classes that are known become the type they are.
    pub fn read(reader: &mut Reader<'_>) -> Result<Type, Error> {
        Type::read_at(reader, DEPTH_MAX)
    }

    fn read_at(reader: &mut Reader<'_>, depth: usize) -> Result<Type, Error> {
        let inner = depth.checked_sub(1).ok_or(Error::Nested(DEPTH_MAX))?;
        let part = |reader: &mut Reader<'_>| Type::read_at(reader, inner);
        match reader.short("type")? {
            CUSTOM => reader.string("type class").map(Type::of_class),
            TEXT => Ok(Type::Native(Native::Varchar)),
            LIST => Ok(Type::List(Box::new(part(reader)?))),
            SET => Ok(Type::Set(Box::new(part(reader)?))),
            MAP => Ok(Type::Map(Box::new(part(reader)?), Box::new(part(reader)?))),
            TUPLE => {
                let count = reader.short("tuple")?;
                Ok(Type::Tuple((0..count).map(|_| part(reader)).collect::<Result<_, _>>()?))
            }
            UDT => {
                let (keyspace, name) = (reader.string("keyspace")?.to_owned(), reader.string("type name")?.to_owned());
                let count = reader.short("fields")?;
                let field = |_| Ok((reader.string("field name")?.to_owned(), Type::read_at(reader, inner)?));
                let fields = (0..count).map(field).collect::<Result<_, _>>()?;
                Ok(Type::Udt { keyspace, name, fields })
            }
            id => native(id).map(Type::Native),
        }
    }

    /// Append it as this version says it.
    pub fn put(&self, out: &mut BytesMut, version: Version) -> Result<(), Error> {
        match self {
            Type::Native(native) if version >= native.since() => out.put_u16(*native as u16),
            Type::Native(_) | Type::Vector(..) => put_custom(out, &self.class())?,
            Type::Custom(class) => put_custom(out, class)?,
            Type::List(element) => put_parts(out, LIST, [element], version)?,
            Type::Set(element) => put_parts(out, SET, [element], version)?,
            Type::Map(key, value) => put_parts(out, MAP, [key, value], version)?,
            Type::Tuple(parts) => {
                out.put_u16(TUPLE);
                put_short(out, parts.len(), "tuple")?;
                parts.iter().try_for_each(|part| part.put(out, version))?;
            }
            Type::Udt { keyspace, name, fields } => {
                out.put_u16(UDT);
                put_string(out, keyspace, "keyspace")?;
                put_string(out, name, "type name")?;
                put_short(out, fields.len(), "fields")?;
                for (name, kind) in fields {
                    put_string(out, name, "field name")?;
                    kind.put(out, version)?;
                }
            }
        }
        Ok(())
    }

    /// The type of a class like `org.apache.cassandra.db.marshal.VectorType(org.apache.cassandra.db.marshal.FloatType , 3)`.
    /// What is not known stays custom.
    pub fn of_class(class: &str) -> Type {
        parse_class(class, DEPTH_MAX).unwrap_or_else(|| Type::Custom(class.to_owned()))
    }

    /// The server's class of it. Types of users are written as servers write them, names in hexadecimal.
    pub fn class(&self) -> String {
        let of = |name: &str, parts: &[&Type]| {
            let parts: Vec<_> = parts.iter().map(|part| part.class()).collect();
            format!("{MARSHAL}{name}({})", parts.join(","))
        };
        match self {
            Type::Custom(class) => class.clone(),
            Type::Native(native) => format!("{MARSHAL}{}", native.class()),
            Type::List(element) => of("ListType", &[element]),
            Type::Set(element) => of("SetType", &[element]),
            Type::Map(key, value) => of("MapType", &[key, value]),
            Type::Tuple(parts) => of("TupleType", &parts.iter().collect::<Vec<_>>()),
            Type::Vector(element, len) => format!("{MARSHAL}VectorType({} , {len})", element.class()),
            Type::Udt { keyspace, name, fields } => {
                let fields = fields.iter().map(|(name, kind)| format!(",{}:{}", hex(name), kind.class()));
                format!("{MARSHAL}UserType({keyspace},{}{})", hex(name), fields.collect::<String>())
            }
        }
    }

    /// Bytes of every value of it, where all have the same: elements of such types lie in a vector without lengths.
    /// Source: `valueLengthIfFixed` of Cassandra's types, which is not what one would expect of time, date and the small integers.
    pub fn fixed_len(&self) -> Option<usize> {
        use Native::{Bigint, Boolean, Double, Float, Int, Timestamp, Timeuuid, Uuid};
        match self {
            Type::Native(Boolean) => Some(1),
            Type::Native(Int | Float) => Some(4),
            Type::Native(Bigint | Double | Timestamp) => Some(8),
            Type::Native(Uuid | Timeuuid) => Some(16),
            Type::Vector(element, len) => element.fixed_len()?.checked_mul(usize::from(*len)),
            _ => None,
        }
    }
}

fn native(id: u16) -> Result<Native, Error> {
    let known = Native::ALL.iter().find(|native| **native as u16 == id);
    known.copied().ok_or(Error::Invalid { field: "type", value: id.into() })
}

fn put_custom(out: &mut BytesMut, class: &str) -> Result<(), Error> {
    out.put_u16(CUSTOM);
    put_string(out, class, "type class")
}

fn put_parts<const N: usize>(out: &mut BytesMut, id: u16, parts: [&Type; N], version: Version) -> Result<(), Error> {
    out.put_u16(id);
    parts.into_iter().try_for_each(|part| part.put(out, version))
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_class(class: &str, depth: usize) -> Option<Type> {
    let depth = depth.checked_sub(1)?;
    let class = class.trim();
    let Some((name, parameters)) = class.strip_suffix(')').and_then(|class| class.split_once('(')) else {
        let name = class.strip_prefix(MARSHAL)?;
        return Native::ALL.iter().find(|native| native.class() == name).map(|native| Type::Native(*native));
    };
    let parts = split_parameters(parameters);
    let part = |at: usize| parts.get(at).and_then(|part| parse_class(part, depth)).map(Box::new);
    match (name.strip_prefix(MARSHAL)?, parts.len()) {
        ("FrozenType", 1) => part(0).map(|inner| *inner),
        ("ListType", 1) => Some(Type::List(part(0)?)),
        ("SetType", 1) => Some(Type::Set(part(0)?)),
        ("MapType", 2) => Some(Type::Map(part(0)?, part(1)?)),
        ("TupleType", _) => {
            Some(Type::Tuple(parts.iter().map(|part| parse_class(part, depth)).collect::<Option<_>>()?))
        }
        ("VectorType", 2) => Some(Type::Vector(part(0)?, parts[1].trim().parse().ok()?)),
        _ => None,
    }
}

/// At the commas that are in no parentheses.
fn split_parameters(parameters: &str) -> Vec<&str> {
    let mut open = 0_usize;
    let at_top = |letter: char| {
        match letter {
            '(' => open += 1,
            ')' => open = open.saturating_sub(1),
            _ => {}
        }
        letter == ',' && open == 0
    };
    parameters.split(at_top).collect()
}

/// Read over a type without building it.
fn skip(reader: &mut Reader<'_>, depth: usize) -> Result<(), Error> {
    let inner = depth.checked_sub(1).ok_or(Error::Nested(DEPTH_MAX))?;
    match reader.short("type")? {
        CUSTOM => reader.string("type class").map(drop),
        LIST | SET => skip(reader, inner),
        MAP => skip(reader, inner).and_then(|()| skip(reader, inner)),
        TUPLE => (0..reader.short("tuple")?).try_for_each(|_| skip(reader, inner)),
        UDT => {
            reader.string("keyspace")?;
            reader.string("type name")?;
            (0..reader.short("fields")?).try_for_each(|_| {
                reader.string("field name")?;
                skip(reader, inner)
            })
        }
        TEXT => Ok(()),
        id => native(id).map(drop),
    }
}

/// A column of a result, or a marker of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column<'a> {
    /// Of the table.
    pub keyspace: &'a str,
    /// The table.
    pub table: &'a str,
    /// Its name, its alias, or the name of the marker.
    pub name: &'a str,
    /// Its type, not read yet.
    kind: &'a [u8],
}

impl Column<'_> {
    /// Its type.
    pub fn kind(&self) -> Type {
        // The option was walked when the metadata was read; what cannot be read again would be a defect here.
        Type::read(&mut Reader::new(self.kind)).unwrap_or(Type::Native(Native::Blob))
    }

    /// Its type is this one; nothing is built.
    pub fn is(&self, native: Native) -> bool {
        self.kind == (native as u16).to_be_bytes()
    }
}

/// The columns of metadata, checked when they were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Columns<'a> {
    count: usize,
    /// Keyspace and table of all of them, if it is said once.
    global: Option<(&'a str, &'a str)>,
    bytes: &'a [u8],
}

impl<'a> Columns<'a> {
    /// No columns.
    pub const NONE: Columns<'static> = Columns { count: 0, global: None, bytes: &[] };

    pub(super) fn read(reader: &mut Reader<'a>, count: usize, global: bool) -> Result<Columns<'a>, Error> {
        let table = |reader: &mut Reader<'a>| Ok((reader.string("keyspace")?, reader.string("table")?));
        let global = global.then(|| table(reader)).transpose()?;
        let bytes = reader.covered(|reader| {
            (0..count).try_for_each(|_| {
                if global.is_none() {
                    table(reader)?;
                }
                reader.string("column name")?;
                skip(reader, DEPTH_MAX)
            })
        })?;
        Ok(Columns { count, global, bytes })
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.count
    }

    /// None.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Keyspace and table of all of them, where they are said once.
    pub fn table(&self) -> Option<(&'a str, &'a str)> {
        self.global
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = Column<'a>> + 'a {
        let (mut reader, global) = (Reader::new(self.bytes), self.global);
        (0..self.count).map_while(move |_| column(&mut reader, global).ok())
    }

    /// Append table and columns: as they were read, or each type in the words of another version.
    pub(super) fn put(&self, out: &mut BytesMut, from: Version, to: Version) -> Result<(), Error> {
        if let Some((keyspace, table)) = self.global {
            put_string(out, keyspace, "keyspace")?;
            put_string(out, table, "table")?;
        }
        if from == to {
            out.extend_from_slice(self.bytes);
            return Ok(());
        }
        self.iter().try_for_each(|column| {
            if self.global.is_none() {
                put_string(out, column.keyspace, "keyspace")?;
                put_string(out, column.table, "table")?;
            }
            put_string(out, column.name, "column name")?;
            column.kind().put(out, to)
        })
    }
}

fn column<'a>(reader: &mut Reader<'a>, global: Option<(&'a str, &'a str)>) -> Result<Column<'a>, Error> {
    let (keyspace, table) = match global {
        Some(table) => table,
        None => (reader.string("keyspace")?, reader.string("table")?),
    };
    let name = reader.string("column name")?;
    let kind = reader.covered(|reader| skip(reader, DEPTH_MAX))?;
    Ok(Column { keyspace, table, name, kind })
}

#[cfg(test)]
mod tests;
