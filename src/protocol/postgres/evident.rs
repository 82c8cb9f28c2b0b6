//! Reading keys off a statement's literals and parameters.
//!
//! A plan says *where* the key values stand ([`Operand`]); here they are read in canonical form. Whatever is not
//! certain is [`NotEvident`]: the server is asked instead. Findings 9 and 10 of the payment's contract are the reason
//! for every rule: a value that the server would round, truncate, fold or read by a setting is never taken.

mod array;

use crate::record::RecordBuf;

use super::catalog::Column;
use super::key::{self, Form, Layout, NotEvident, oid};
use super::lexer::{Kind, Tokens, continuation};
use super::plan::{Evident, EvidentKey, Operand};

/// The values bound to a statement's parameters.
pub trait Params {
    /// `$1` is index 0. `None`: not bound.
    fn get(&self, index: u16) -> Option<Param<'_>>;
}

/// One bound parameter.
#[derive(Clone, Copy, Debug)]
pub struct Param<'a> {
    /// The type that Parse (or ParameterDescription) gave it; 0 = the server infers it.
    pub declared: u32,
    /// Format code 1.
    pub binary: bool,
    /// The value; `None` = NULL.
    pub value: Option<&'a [u8]>,
}

/// A statement without parameters.
pub struct NoParams;

impl Params for NoParams {
    fn get(&self, _: u16) -> Option<Param<'_>> {
        None
    }
}

/// The text that a plan's token indexes point into.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// The statement's text.
    pub text: &'a [u8],
    /// Its tokens.
    pub tokens: &'a Tokens,
    /// `client_encoding` is UTF8: what is not ASCII can be read too.
    pub utf8: bool,
}

/// What SQL-level EXECUTE hands to the statement that was prepared: the arguments, where they stand, and the types
/// that PREPARE declared.
#[derive(Clone, Copy)]
pub struct Arguments<'a> {
    /// The text of EXECUTE.
    pub source: Source<'a>,
    /// Its arguments.
    pub args: &'a [Option<Operand>],
    /// Types from PREPARE; 0 or missing = inferred.
    pub types: &'a [u32],
}

/// Elements of arrays that one statement takes, all combinations of several arrays counted; more are asked instead.
const ELEMENTS_MAX: usize = 65_536;

impl Evident {
    /// Owe every key that the statement may change. On an error, what was added before it stays: a superset.
    pub fn keys(&self, source: Source<'_>, params: &impl Params, out: &mut RecordBuf) -> Result<(), NotEvident> {
        let (mut key, mut left) = (Vec::new(), ELEMENTS_MAX);
        self.keys.iter().try_for_each(|each| each.read(source, params, None, (&mut key, &mut left), out))
    }

    /// The same for a statement that runs by SQL-level EXECUTE; `source` is the text of its PREPARE.
    pub fn keys_executed(
        &self,
        source: Source<'_>,
        arguments: Arguments<'_>,
        params: &impl Params,
        out: &mut RecordBuf,
    ) -> Result<(), NotEvident> {
        let (mut key, mut left) = (Vec::new(), ELEMENTS_MAX);
        self.keys.iter().try_for_each(|each| each.read(source, params, Some(arguments), (&mut key, &mut left), out))
    }
}

impl Evident {
    /// Parameters that stand for key columns, and the types that PostgreSQL infers for them where none are declared.
    pub fn inferred(&self) -> impl Iterator<Item = (u16, u32)> {
        self.keys.iter().filter_map(|key| Some((key, key.tables.first()?))).flat_map(|(key, table)| {
            table.key_columns().zip(&key.columns).filter_map(|(column, operand)| match *operand {
                Operand::Param { index, cast, .. } if cast != 0 => Some((index, cast)),
                Operand::Param { index, sole: true, .. } => Some((index, column.base_oid)),
                Operand::Elements { index, cast, .. } if cast != 0 => Some((index, array::of(cast)?)),
                Operand::Elements { index, sole: true, .. } => Some((index, array::of(column.base_oid)?)),
                _ => None,
            })
        })
    }
}

impl EvidentKey {
    fn read(
        &self,
        source: Source<'_>,
        params: &dyn Params,
        arguments: Option<Arguments<'_>>,
        (key, left): (&mut Vec<u8>, &mut usize),
        out: &mut RecordBuf,
    ) -> Result<(), NotEvident> {
        let array = self.columns.iter().position(|operand| matches!(operand, Operand::Elements { .. }));
        if let Some(at) = array {
            return self.read_each(at, source, params, arguments, left, out);
        }
        // All tables of one entry have the same key forms.
        let Some(first) = self.tables.first() else { return Ok(()) };
        key.clear();
        Layout::default().begin(key);
        let mut value = Vec::new();
        for (column, operand) in first.key_columns().zip(&self.columns) {
            value.clear();
            let known = match (arguments, operand) {
                (Some(arguments), Operand::Param { index, sole, cast }) => {
                    let operand = arguments.substitute(*index, *sole, *cast)?;
                    read(column, operand, arguments.source, params, &mut value)?
                }
                _ => read(column, *operand, source, params, &mut value)?,
            };
            if !known {
                return Ok(()); // NULL is no key.
            }
            key::push(key, &value);
        }
        key::owe(&self.tables, key, self.moved, out);
        Ok(())
    }
}

impl EvidentKey {
    /// One key for each element of the array at this column.
    fn read_each(
        &self,
        at: usize,
        source: Source<'_>,
        params: &dyn Params,
        arguments: Option<Arguments<'_>>,
        left: &mut usize,
        out: &mut RecordBuf,
    ) -> Result<(), NotEvident> {
        let Some(&Operand::Elements { index, sole, cast }) = self.columns.get(at) else { return Err(NotEvident) };
        if arguments.is_some() {
            return Err(NotEvident);
        }
        let bound = params.get(index).ok_or(NotEvident)?;
        let mut one = self.clone();
        one.columns[at] = Operand::Param { index, sole, cast };
        let mut key = Vec::new();
        for value in array::elements(bound)? {
            *left = left.checked_sub(1).ok_or(NotEvident)?;
            let element = Element { of: params, index, param: value };
            one.read(source, &element, None, (&mut key, left), out)?;
        }
        Ok(())
    }
}

/// The parameters, with one element in the place of an array.
struct Element<'a> {
    of: &'a dyn Params,
    index: u16,
    param: array::Value,
}

impl Params for Element<'_> {
    fn get(&self, index: u16) -> Option<Param<'_>> {
        if index != self.index {
            return self.of.get(index);
        }
        let array::Value { declared, binary, value } = &self.param;
        Some(Param { declared: *declared, binary: *binary, value: value.as_deref() })
    }
}

impl Arguments<'_> {
    fn substitute(&self, index: u16, sole: bool, cast: u32) -> Result<Operand, NotEvident> {
        let index = usize::from(index);
        let declared = self.types.get(index).copied().unwrap_or(0);
        let target = match (declared, cast) {
            (0, 0) if sole => 0,
            (0, cast) if cast != 0 => cast,
            (declared, cast) if declared != 0 && (cast == 0 || cast == declared) => declared,
            _ => return Err(NotEvident),
        };
        let mut operand = self.args.get(index).copied().flatten().ok_or(NotEvident)?;
        if let Operand::Literal { cast, .. } | Operand::Param { cast, .. } = &mut operand {
            if *cast != 0 && *cast != target {
                return Err(NotEvident);
            }
            *cast = target;
        }
        Ok(operand)
    }
}

/// Read one value; `false`: NULL.
fn read(
    column: &Column,
    operand: Operand,
    source: Source<'_>,
    params: &dyn Params,
    out: &mut Vec<u8>,
) -> Result<bool, NotEvident> {
    let form = Form::of(column);
    match operand {
        Operand::Null => return Ok(false),
        Operand::Elements { .. } => return Err(NotEvident),
        Operand::Bool(value) if form == Form::Bool => out.push(u8::from(value)),
        Operand::Bool(_) => return Err(NotEvident),
        Operand::Literal { token, negative, cast } => literal(column, source, token, negative, cast, out)?,
        Operand::Param { index, sole, cast } => {
            let param = params.get(index).ok_or(NotEvident)?;
            let Some(value) = param.value else { return Ok(false) };
            let declared = declared(column, param.declared, sole, cast)?;
            if !source.utf8 && !value.is_ascii() && matches!(form, Form::Utf8) {
                return Err(NotEvident);
            }
            if param.binary {
                key::binary(form, column.typmod, declared, value, out)?;
            } else {
                if !same_family(form, declared) {
                    return Err(NotEvident);
                }
                if matches!(form, Form::Int(_)) {
                    within(declared, key::int_text(value)?)?;
                }
                key::parse(form, column.typmod, value, out)?;
            }
        }
    }
    Ok(true)
}

/// The type of a parameter's value: declared, else what PostgreSQL infers where it stands.
fn declared(column: &Column, declared: u32, sole: bool, cast: u32) -> Result<u32, NotEvident> {
    match (declared, cast) {
        (0 | oid::UNKNOWN, 0) if sole => Ok(column.base_oid),
        (0 | oid::UNKNOWN, 0) => Err(NotEvident),
        (0 | oid::UNKNOWN, cast) => Ok(cast),
        (declared, cast) if cast == 0 || cast == declared => Ok(declared),
        // Among integers a cast changes nothing but the range, and the column's range is checked.
        (oid::INT2 | oid::INT4 | oid::INT8, oid::INT2 | oid::INT4 | oid::INT8) => Ok(declared),
        _ => Err(NotEvident),
    }
}

/// A value of this type becomes, or is compared as, the column's own value unchanged.
fn same_family(form: Form, of: u32) -> bool {
    match form {
        Form::Int(_) => matches!(of, oid::INT2 | oid::INT4 | oid::INT8),
        Form::Uuid => of == oid::UUID,
        Form::Utf8 => matches!(of, oid::TEXT | oid::VARCHAR),
        Form::Bool => of == oid::BOOL,
        Form::Bytea => of == oid::BYTEA,
        Form::Numeric => of == oid::NUMERIC,
        Form::Binary | Form::Text => false,
    }
}

/// The value fits the type that it is written as.
fn within(of: u32, value: i64) -> Result<(), NotEvident> {
    let fits = match of {
        oid::INT2 => i16::try_from(value).is_ok(),
        oid::INT4 => i32::try_from(value).is_ok(),
        _ => true,
    };
    if fits { Ok(()) } else { Err(NotEvident) }
}

fn literal(
    column: &Column,
    source: Source<'_>,
    token: usize,
    negative: bool,
    cast: u32,
    out: &mut Vec<u8>,
) -> Result<(), NotEvident> {
    let form = Form::of(column);
    let token = source.tokens.get(token).ok_or(NotEvident)?;
    if cast != 0 && !same_family(form, cast) {
        return Err(NotEvident);
    }
    let text = token.text(source.text);
    match token.kind {
        Kind::Int | Kind::Float => {
            let mut signed = Vec::with_capacity(text.len() + 1);
            if negative {
                signed.push(b'-');
            }
            signed.extend_from_slice(text);
            match form {
                Form::Int(width) => {
                    let value = key::int_text(&signed)?;
                    within(cast, value)?;
                    key::int(width, value, out)
                }
                Form::Numeric => key::parse(form, column.typmod, &signed, out),
                _ => Err(NotEvident),
            }
        }
        _ if negative => Err(NotEvident),
        kind => {
            let content = content(kind, text)?;
            if !source.utf8 && !content.is_ascii() {
                return Err(NotEvident);
            }
            if matches!(form, Form::Int(_)) {
                within(cast, key::int_text(&content)?)?;
            }
            key::parse(form, column.typmod, &content, out)
        }
    }
}

/// What a string literal stands for.
pub(super) fn content(kind: Kind, text: &[u8]) -> Result<Vec<u8>, NotEvident> {
    match kind {
        Kind::String => unquote(text, false),
        Kind::Escaped => unquote(text.get(1..).ok_or(NotEvident)?, true),
        Kind::Dollar => {
            let tag = text.iter().skip(1).position(|&byte| byte == b'$').ok_or(NotEvident)? + 2;
            Ok(text.get(tag..text.len().saturating_sub(tag)).ok_or(NotEvident)?.to_vec())
        }
        _ => Err(NotEvident),
    }
}

fn unquote(text: &[u8], escapes: bool) -> Result<Vec<u8>, NotEvident> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 1;
    loop {
        match (text.get(at).ok_or(NotEvident)?, text.get(at + 1)) {
            (b'\'', Some(b'\'')) => {
                out.push(b'\'');
                at += 2;
            }
            (b'\'', None) => return Ok(out),
            (b'\'', Some(_)) => at = continuation(text, at + 1).ok_or(NotEvident)?,
            (b'\\', next) if escapes => {
                out.push(escape(*next.ok_or(NotEvident)?)?);
                at += 2;
            }
            (&byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
}

/// The plain escapes; octal, hex and Unicode ones are asked.
fn escape(byte: u8) -> Result<u8, NotEvident> {
    Ok(match byte {
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => return Err(NotEvident), // 16 and later; a plain `v` before.
        b'0'..=b'7' | b'x' | b'u' | b'U' => return Err(NotEvident),
        other if other.is_ascii() => other,
        _ => return Err(NotEvident),
    })
}

#[cfg(test)]
mod tests;
