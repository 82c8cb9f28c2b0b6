//! Constants and parameters: from a node of the tree to the token that holds the value.

use std::collections::HashMap;

use pg_query::NodeEnum;
use pg_query::protobuf::{AConst, Node, ParamRef, TypeCast, TypeName, a_const::Val};

use super::super::key::oid;
use super::super::lexer::Kind;
use super::super::plan::Operand;
use super::Scope;

/// A type of PREPARE or of a cast that the proxy does not follow.
pub(super) const OTHER_TYPE: u32 = u32::MAX;

impl Scope<'_> {
    /// A plain constant or parameter, perhaps cast once; `None`: an expression.
    pub(super) fn operand(&self, node: &Node) -> Option<Operand> {
        match node.node.as_ref()? {
            NodeEnum::AConst(constant) => self.constant(constant),
            NodeEnum::ParamRef(param) => self.param(param),
            NodeEnum::TypeCast(cast) => self.cast(cast),
            _ => None,
        }
    }

    fn constant(&self, constant: &AConst) -> Option<Operand> {
        if constant.isnull {
            return Some(Operand::Null);
        }
        if let Some(Val::Boolval(value)) = &constant.val {
            return Some(Operand::Bool(value.boolval));
        }
        // The grammar folds a minus sign into the constant and leaves the sign's position.
        let at = self.tokens.at(usize::try_from(constant.location).ok()?)?;
        let negative = self.is_op(at, b"-");
        let token = at + usize::from(negative);
        let literal = self.tokens.get(token)?.kind.is_literal();
        literal.then_some(Operand::Literal { token, negative, cast: 0 })
    }

    fn param(&self, param: &ParamRef) -> Option<Operand> {
        let number = u16::try_from(param.number).ok().filter(|&number| number > 0)?;
        let sole = self.uses.get_or_init(|| self.count_uses()).get(&number) == Some(&1);
        Some(Operand::Param { index: number - 1, sole, cast: 0 })
    }

    fn count_uses(&self) -> HashMap<u16, usize> {
        let mut uses = HashMap::new();
        let list = self.tokens.list().get(self.span.clone()).unwrap_or_default();
        list.iter()
            .filter_map(|token| self.param_number(token))
            .for_each(|number| *uses.entry(number).or_default() += 1);
        uses
    }

    fn cast(&self, cast: &TypeCast) -> Option<Operand> {
        let to = self.type_oid(cast.type_name.as_ref()?);
        let mut operand = self.operand(cast.arg.as_deref()?)?;
        match &mut operand {
            Operand::Literal { cast, negative: false, .. } | Operand::Param { cast, .. } if *cast == 0 => *cast = to,
            Operand::Null => {}
            Operand::Bool(_) if to == oid::BOOL => {}
            _ => return None,
        }
        (to != OTHER_TYPE).then_some(operand)
    }

    /// The elements of an array parameter, perhaps cast once.
    pub(super) fn elements(&self, node: &Node) -> Option<Operand> {
        match node.node.as_ref()? {
            NodeEnum::ParamRef(param) => match self.param(param)? {
                Operand::Param { index, sole, cast } => Some(Operand::Elements { index, sole, cast }),
                _ => None,
            },
            NodeEnum::TypeCast(cast) => {
                let name = cast.type_name.as_ref().filter(|name| name.array_bounds.len() == 1)?;
                let element = self.type_oid(&TypeName { array_bounds: Vec::new(), ..name.clone() });
                match self.elements(cast.arg.as_deref()?)? {
                    Operand::Elements { index, sole, cast: 0 } if element != OTHER_TYPE => {
                        Some(Operand::Elements { index, sole, cast: element })
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// The oid of a built-in type that keys can be evident with, written without modifier.
    pub(super) fn type_oid(&self, name: &TypeName) -> u32 {
        let names: Vec<&str> = name.names.iter().filter_map(string).collect();
        let plain = name.typmods.is_empty() && name.array_bounds.is_empty() && !name.setof && !name.pct_type;
        let bare = match names.as_slice() {
            ["pg_catalog", bare] if plain => bare,
            [bare] if plain && !self.catalog.user_types.contains(*bare) => bare,
            _ => return OTHER_TYPE,
        };
        match *bare {
            "bool" => oid::BOOL,
            "bytea" => oid::BYTEA,
            "int2" => oid::INT2,
            "int4" => oid::INT4,
            "int8" => oid::INT8,
            "numeric" => oid::NUMERIC,
            "text" => oid::TEXT,
            "uuid" => oid::UUID,
            "varchar" => oid::VARCHAR,
            _ => OTHER_TYPE,
        }
    }

    /// The name in a literal (`PREPARE TRANSACTION 'x'`): the next string token at or behind `from`.
    pub(super) fn string_token(&self, from: usize) -> Option<usize> {
        let strings = [Kind::String, Kind::Escaped, Kind::Dollar, Kind::Unicode];
        (from..self.span.end).find(|&at| self.tokens.get(at).is_some_and(|token| strings.contains(&token.kind)))
    }
}

/// The text of a String node.
pub(super) fn string(node: &Node) -> Option<&str> {
    match node.node.as_ref()? {
        NodeEnum::String(text) => Some(&text.sval),
        _ => None,
    }
}
