//! The protocol's notations, written and read. What a real server sent is well formed: reading panics on what is not.

use super::Value;

/// A body under construction.
#[derive(Default)]
pub(crate) struct Out(pub(crate) Vec<u8>);

impl Out {
    pub(crate) fn then(self, more: impl FnOnce(Out) -> Out) -> Out {
        more(self)
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Out {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn byte(self, byte: u8) -> Out {
        self.raw(&[byte])
    }

    pub(crate) fn short(self, number: usize) -> Out {
        self.raw(&u16::try_from(number).expect("16 bits").to_be_bytes())
    }

    pub(crate) fn int(self, number: i32) -> Out {
        self.raw(&number.to_be_bytes())
    }

    pub(crate) fn long(self, number: i64) -> Out {
        self.raw(&number.to_be_bytes())
    }

    pub(crate) fn string(self, text: &str) -> Out {
        self.short_bytes(text.as_bytes())
    }

    pub(crate) fn long_string(self, text: &str) -> Out {
        self.bytes(text.as_bytes())
    }

    pub(crate) fn short_bytes(self, bytes: &[u8]) -> Out {
        self.short(bytes.len()).raw(bytes)
    }

    pub(crate) fn bytes(self, bytes: &[u8]) -> Out {
        self.int(i32::try_from(bytes.len()).expect("31 bits")).raw(bytes)
    }

    pub(crate) fn string_map(self, pairs: &[(&str, &str)]) -> Out {
        pairs.iter().fold(self.short(pairs.len()), |out, (key, value)| out.string(key).string(value))
    }

    pub(crate) fn values(self, values: &[Value]) -> Out {
        values.iter().fold(self.short(values.len()), |out, value| match value {
            Value::Is(bytes) => out.bytes(bytes),
            Value::Null => out.int(-1),
            Value::Unset => out.int(-2),
        })
    }
}

/// A body that is read from its beginning.
#[derive(Clone)]
pub(crate) struct Parts<'a>(pub(crate) &'a [u8]);

impl<'a> Parts<'a> {
    pub(crate) fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.take(1)[0]
    }

    pub(crate) fn short(&mut self) -> u16 {
        u16::from_be_bytes(self.take(2).try_into().expect("two bytes"))
    }

    pub(crate) fn int(&mut self) -> i32 {
        i32::from_be_bytes(self.take(4).try_into().expect("four bytes"))
    }

    pub(crate) fn string(&mut self) -> String {
        String::from_utf8(self.short_bytes().to_vec()).expect("UTF-8")
    }

    pub(crate) fn short_bytes(&mut self) -> &'a [u8] {
        let length = self.short();
        self.take(usize::from(length))
    }

    /// `None`: null.
    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.int()).ok()?;
        Some(self.take(length))
    }

    pub(crate) fn strings(&mut self) -> Vec<String> {
        (0..self.short()).map(|_| self.string()).collect()
    }

    pub(crate) fn string_multimap(&mut self) -> Vec<(String, Vec<String>)> {
        (0..self.short()).map(|_| (self.string(), self.strings())).collect()
    }
}
