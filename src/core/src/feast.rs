//! Feast's online layout, byte for byte: entity keys, Redis keys and fields, values and timestamps (entity key serialization 3).
//!
//! Pure functions over bytes: what is written here is read by any Feast client. Knows no store and no Arrow.

use crate::api::{KeyType, ScalarType, ValueType};

/// The value of one join key. Timestamps are whole Unix seconds, as in Feast.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key<'a> {
    /// Raw bytes.
    Bytes(&'a [u8]),
    /// UTF-8 text.
    String(&'a str),
    /// Signed 32-bit integer.
    Int32(i32),
    /// Signed 64-bit integer.
    Int64(i64),
    /// Seconds since 1970-01-01T00:00:00Z.
    Timestamp(i64),
}

/// The value of one feature. Timestamps are whole Unix seconds; lists hold no nulls, as in Feast.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// No value: a field of zero length.
    Null,
    /// Raw bytes.
    Bytes(&'a [u8]),
    /// UTF-8 text.
    String(&'a str),
    /// Signed 32-bit integer.
    Int32(i32),
    /// Signed 64-bit integer.
    Int64(i64),
    /// Double precision, kept bit for bit.
    Float64(f64),
    /// Single precision, kept bit for bit.
    Float32(f32),
    /// True or false.
    Bool(bool),
    /// Seconds since 1970-01-01T00:00:00Z.
    Timestamp(i64),
    /// A list of byte strings.
    BytesList(Vec<&'a [u8]>),
    /// A list of texts.
    StringList(Vec<&'a str>),
    /// A list of 32-bit integers.
    Int32List(Vec<i32>),
    /// A list of 64-bit integers.
    Int64List(Vec<i64>),
    /// A list of doubles.
    Float64List(Vec<f64>),
    /// A list of single-precision numbers.
    Float32List(Vec<f32>),
    /// A list of booleans.
    BoolList(Vec<bool>),
    /// A list of seconds since 1970-01-01T00:00:00Z.
    TimestampList(Vec<i64>),
}

/// The Redis field of a feature, as a number: murmur3 (x86, 32 bits, seed 0) of `<view>:<feature>`.
///
/// Two features of one entity, in whatever views, must not share it: they would overwrite each other.
pub fn field_hash(view: &str, feature: &str) -> u32 {
    murmur3_32(format!("{view}:{feature}").as_bytes())
}

/// The Redis field of a feature: its hash, little-endian.
pub fn field(view: &str, feature: &str) -> [u8; 4] {
    field_hash(view, feature).to_le_bytes()
}

/// The Redis field that holds a view's event time.
pub fn timestamp_field(view: &str) -> String {
    format!("_ts:{view}")
}

/// The SQLite table of a view, unquoted.
pub fn sqlite_table(project: &str, view: &str) -> String {
    format!("{project}_{view}")
}

impl Value<'_> {
    /// The type of a feature that has this value; a null is one of every type.
    pub const fn value_type(&self) -> Option<ValueType> {
        let (scalar, list) = match self {
            Self::Null => return None,
            Self::Bytes(_) => (ScalarType::Bytes, false),
            Self::String(_) => (ScalarType::String, false),
            Self::Int32(_) => (ScalarType::Int32, false),
            Self::Int64(_) => (ScalarType::Int64, false),
            Self::Float64(_) => (ScalarType::Float64, false),
            Self::Float32(_) => (ScalarType::Float32, false),
            Self::Bool(_) => (ScalarType::Bool, false),
            Self::Timestamp(_) => (ScalarType::Timestamp, false),
            Self::BytesList(_) => (ScalarType::Bytes, true),
            Self::StringList(_) => (ScalarType::String, true),
            Self::Int32List(_) => (ScalarType::Int32, true),
            Self::Int64List(_) => (ScalarType::Int64, true),
            Self::Float64List(_) => (ScalarType::Float64, true),
            Self::Float32List(_) => (ScalarType::Float32, true),
            Self::BoolList(_) => (ScalarType::Bool, true),
            Self::TimestampList(_) => (ScalarType::Timestamp, true),
        };
        Some(ValueType { scalar, list })
    }
}

/// How the keys of one entity are laid out: the join keys in Feast's order and the bytes that all keys share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyLayout {
    order: Vec<usize>,
    types: Vec<KeyType>,
    prefix: Vec<u8>,
}

impl KeyLayout {
    /// The layout for join keys in the order of their declaration.
    pub fn new<'a>(join_keys: impl IntoIterator<Item = (&'a str, KeyType)>) -> Self {
        let mut keys: Vec<(&str, usize, KeyType)> =
            join_keys.into_iter().enumerate().map(|(position, (name, value_type))| (name, position, value_type)).collect();
        keys.sort_unstable_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
        let mut prefix = length(keys.len()).to_vec();
        for (name, _, _) in &keys {
            prefix.extend(STRING.to_le_bytes());
            prefix.extend(length(name.len()));
            prefix.extend(name.as_bytes());
        }
        Self { order: keys.iter().map(|key| key.1).collect(), types: keys.iter().map(|key| key.2).collect(), prefix }
    }

    /// The positions of the declared join keys in the order in which [`Self::encode`] wants their values.
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// Appends the entity key of `values`, given in [`Self::order`]. It is the SQLite key, and the Redis key up to the project.
    pub fn encode<'a>(&self, values: impl IntoIterator<Item = Key<'a>>, into: &mut Vec<u8>) {
        into.extend(&self.prefix);
        for value in values {
            match value {
                Key::Bytes(bytes) => push_key(into, BYTES, bytes),
                Key::String(text) => push_key(into, STRING, text.as_bytes()),
                Key::Int32(number) => push_key(into, INT32, &number.to_le_bytes()),
                Key::Int64(number) => push_key(into, INT64, &number.to_le_bytes()),
                Key::Timestamp(seconds) => push_key(into, UNIX_TIMESTAMP, &seconds.to_le_bytes()),
            }
        }
    }

    /// The values at the start of `bytes`, in [`Self::order`], and what follows them. `None` when the bytes are not a key of
    /// this layout: other join keys, other types, or cut short.
    pub fn decode<'a>(&self, bytes: &'a [u8]) -> Option<(Vec<Key<'a>>, &'a [u8])> {
        let mut rest = bytes.strip_prefix(self.prefix.as_slice())?;
        let mut values = Vec::with_capacity(self.types.len());
        for expected in &self.types {
            let (value_type, after) = take_u32(rest)?;
            let (len, after) = take_u32(after)?;
            let (value, after) = after.split_at_checked(usize::try_from(len).ok()?)?;
            values.push(match (expected, value_type) {
                (KeyType::Bytes, BYTES) => Key::Bytes(value),
                (KeyType::String, STRING) => Key::String(std::str::from_utf8(value).ok()?),
                (KeyType::Int32, INT32) => Key::Int32(i32::from_le_bytes(value.try_into().ok()?)),
                (KeyType::Int64, INT64) => Key::Int64(i64::from_le_bytes(value.try_into().ok()?)),
                (KeyType::Timestamp, UNIX_TIMESTAMP) => Key::Timestamp(i64::from_le_bytes(value.try_into().ok()?)),
                _ => return None,
            });
            rest = after;
        }
        Some((values, rest))
    }

    /// The entity key inside a Redis key, when it is one of this layout and of exactly this project.
    ///
    /// The project is a suffix without a separator, so a pattern for `demo` also matches `xdemo`: only decoding tells.
    pub fn entity_key_of<'a>(&self, redis_key: &'a [u8], project: &str) -> Option<&'a [u8]> {
        let (_, rest) = self.decode(redis_key)?;
        (rest == project.as_bytes()).then(|| &redis_key[..redis_key.len() - rest.len()])
    }

    /// A `SCAN … MATCH` pattern for every key of this layout and project; it may match more, see [`Self::entity_key_of`].
    pub fn scan_pattern(&self, project: &str) -> Vec<u8> {
        let mut pattern = Vec::with_capacity(self.prefix.len() + project.len() + 1);
        push_glob_escaped(&mut pattern, &self.prefix);
        pattern.push(b'*');
        push_glob_escaped(&mut pattern, project.as_bytes());
        pattern
    }
}

/// The Redis key of an entity: its entity key, then the project.
pub fn redis_key(entity_key: &[u8], project: &str) -> Vec<u8> {
    [entity_key, project.as_bytes()].concat()
}

/// A value as `feast.types.Value`.
pub fn encode_value(value: &Value<'_>, into: &mut Vec<u8>) {
    match value {
        Value::Null => {}
        Value::Bytes(bytes) => push_bytes(into, 1, bytes),
        Value::String(text) => push_bytes(into, 2, text.as_bytes()),
        Value::Int32(number) => push_number(into, 3, i64::from(*number)),
        Value::Int64(number) => push_number(into, 4, *number),
        Value::Float64(number) => {
            into.push(5 << 3 | WIRE_64);
            into.extend(number.to_le_bytes());
        }
        Value::Float32(number) => {
            into.push(6 << 3 | WIRE_32);
            into.extend(number.to_le_bytes());
        }
        Value::Bool(truth) => push_number(into, 7, i64::from(*truth)),
        Value::Timestamp(seconds) => push_number(into, 8, *seconds),
        Value::BytesList(list) => push_list(into, 11, |inner| list.iter().for_each(|bytes| push_bytes(inner, 1, bytes))),
        Value::StringList(list) => {
            push_list(into, 12, |inner| list.iter().for_each(|text| push_bytes(inner, 1, text.as_bytes())))
        }
        Value::Int32List(list) => push_packed(into, 13, list, |inner, number| push_varint(inner, i64::from(*number) as u64)),
        Value::Int64List(list) => push_packed(into, 14, list, |inner, number| push_varint(inner, *number as u64)),
        Value::Float64List(list) => push_packed(into, 15, list, |inner, number| inner.extend(number.to_le_bytes())),
        Value::Float32List(list) => push_packed(into, 16, list, |inner, number| inner.extend(number.to_le_bytes())),
        Value::BoolList(list) => push_packed(into, 17, list, |inner, truth| inner.push(u8::from(*truth))),
        Value::TimestampList(list) => push_packed(into, 18, list, |inner, seconds| push_varint(inner, *seconds as u64)),
    }
}

/// The value of a `feast.types.Value`; `None` when the bytes are not one, or of a kind that feature sets do not have.
pub fn decode_value(bytes: &[u8]) -> Option<Value<'_>> {
    if bytes.is_empty() {
        return Some(Value::Null);
    }
    let mut reader = Reader(bytes);
    let (number, content) = reader.field()?;
    if !reader.0.is_empty() {
        return None;
    }
    Some(match (number, content) {
        (1, Content::Bytes(bytes)) => Value::Bytes(bytes),
        (2, Content::Bytes(bytes)) => Value::String(std::str::from_utf8(bytes).ok()?),
        (3, Content::Varint(number)) => Value::Int32(number as i32),
        (4, Content::Varint(number)) => Value::Int64(number as i64),
        (5, Content::Fixed64(bytes)) => Value::Float64(f64::from_le_bytes(bytes)),
        (6, Content::Fixed32(bytes)) => Value::Float32(f32::from_le_bytes(bytes)),
        (7, Content::Varint(number)) => Value::Bool(number != 0),
        (8, Content::Varint(number)) => Value::Timestamp(number as i64),
        (11, Content::Bytes(inner)) => Value::BytesList(elements(inner)?),
        (12, Content::Bytes(inner)) => {
            Value::StringList(elements(inner)?.into_iter().map(std::str::from_utf8).collect::<Result<_, _>>().ok()?)
        }
        (13, Content::Bytes(inner)) => Value::Int32List(varints(inner)?.into_iter().map(|number| number as i32).collect()),
        (14, Content::Bytes(inner)) => Value::Int64List(varints(inner)?.into_iter().map(|number| number as i64).collect()),
        (15, Content::Bytes(inner)) => Value::Float64List(fixed(inner)?.into_iter().map(f64::from_le_bytes).collect()),
        (16, Content::Bytes(inner)) => Value::Float32List(fixed(inner)?.into_iter().map(f32::from_le_bytes).collect()),
        (17, Content::Bytes(inner)) => Value::BoolList(varints(inner)?.into_iter().map(|number| number != 0).collect()),
        (18, Content::Bytes(inner)) => Value::TimestampList(varints(inner)?.into_iter().map(|number| number as i64).collect()),
        _ => return None,
    })
}

/// An event time, in microseconds since 1970, as `google.protobuf.Timestamp`.
pub fn encode_timestamp(micros: i64, into: &mut Vec<u8>) {
    // A plain proto3 message: unlike in a oneof, zeros are not written.
    let (seconds, nanos) = (micros.div_euclid(MICROS), micros.rem_euclid(MICROS) * 1000);
    if seconds != 0 {
        push_number(into, 1, seconds);
    }
    if nanos != 0 {
        push_number(into, 2, nanos);
    }
}

/// The event time of a `google.protobuf.Timestamp`, in microseconds since 1970, cut down; `None` when the bytes are not one.
pub fn decode_timestamp(bytes: &[u8]) -> Option<i64> {
    let mut reader = Reader(bytes);
    let (mut seconds, mut nanos) = (0_i64, 0_i64);
    while !reader.0.is_empty() {
        match reader.field()? {
            (1, Content::Varint(number)) => seconds = number as i64,
            (2, Content::Varint(number)) => nanos = number as i64,
            _ => return None,
        }
    }
    seconds.checked_mul(MICROS)?.checked_add(nanos.div_euclid(1000))
}

const MICROS: i64 = 1_000_000;

// `feast.types.ValueType`, as far as keys have it.
const BYTES: u32 = 1;
const STRING: u32 = 2;
const INT32: u32 = 3;
const INT64: u32 = 4;
const UNIX_TIMESTAMP: u32 = 8;

// Wire types of protobuf.
const WIRE_64: u8 = 1;
const WIRE_BYTES: u8 = 2;
const WIRE_32: u8 = 5;

fn length(len: usize) -> [u8; 4] {
    u32::try_from(len).expect("keys and names are far below 4 GiB: guards and limits refuse them").to_le_bytes()
}

fn push_key(into: &mut Vec<u8>, value_type: u32, bytes: &[u8]) {
    into.extend(value_type.to_le_bytes());
    into.extend(length(bytes.len()));
    into.extend(bytes);
}

fn take_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*head), rest))
}

fn push_glob_escaped(pattern: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        if b"*?[]^-\\".contains(byte) {
            pattern.push(b'\\');
        }
        pattern.push(*byte);
    }
}

fn push_varint(into: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        into.push(number as u8 | 0x80);
        number >>= 7;
    }
    into.push(number as u8);
}

fn push_number(into: &mut Vec<u8>, field: u8, number: i64) {
    into.push(field << 3);
    push_varint(into, number as u64);
}

fn push_bytes(into: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    push_varint(into, u64::from(field) << 3 | u64::from(WIRE_BYTES));
    push_varint(into, bytes.len() as u64);
    into.extend(bytes);
}

fn push_list(into: &mut Vec<u8>, field: u8, content: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    content(&mut inner);
    push_bytes(into, field, &inner);
}

/// A list message of numbers: `repeated … val = 1`, packed, hence absent when empty.
fn push_packed<T>(into: &mut Vec<u8>, field: u8, list: &[T], push: impl Fn(&mut Vec<u8>, &T)) {
    push_list(into, field, |inner| {
        if !list.is_empty() {
            push_list(inner, 1, |packed| list.iter().for_each(|element| push(packed, element)));
        }
    });
}

/// What a field of a message holds.
enum Content<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(&'a [u8]),
    Fixed32([u8; 4]),
}

/// The rest of a message.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..70).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.varint()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    fn chunk<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*bytes)
    }

    fn field(&mut self) -> Option<(u64, Content<'a>)> {
        let tag = self.varint()?;
        let content = match (tag & 7) as u8 {
            0 => Content::Varint(self.varint()?),
            WIRE_64 => Content::Fixed64(self.chunk()?),
            WIRE_BYTES => Content::Bytes(self.bytes()?),
            WIRE_32 => Content::Fixed32(self.chunk()?),
            _ => return None,
        };
        Some((tag >> 3, content))
    }
}

/// The elements of a list of byte strings.
fn elements(inner: &[u8]) -> Option<Vec<&[u8]>> {
    let mut reader = Reader(inner);
    let mut list = Vec::new();
    while !reader.0.is_empty() {
        let (1, Content::Bytes(bytes)) = reader.field()? else { return None };
        list.push(bytes);
    }
    Some(list)
}

/// The packed content of a list of numbers.
fn packed(inner: &[u8]) -> Option<&[u8]> {
    match elements(inner)?.as_slice() {
        [] => Some(&[]),
        [bytes] => Some(bytes),
        _ => None,
    }
}

fn varints(inner: &[u8]) -> Option<Vec<u64>> {
    let mut reader = Reader(packed(inner)?);
    let mut list = Vec::new();
    while !reader.0.is_empty() {
        list.push(reader.varint()?);
    }
    Some(list)
}

fn fixed<const N: usize>(inner: &[u8]) -> Option<Vec<[u8; N]>> {
    let (chunks, rest) = packed(inner)?.as_chunks::<N>();
    rest.is_empty().then(|| chunks.to_vec())
}

fn murmur3_32(bytes: &[u8]) -> u32 {
    let scramble = |k: u32| k.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    let (blocks, tail) = bytes.as_chunks::<4>();
    let mut hash = 0_u32;
    for block in blocks {
        hash = (hash ^ scramble(u32::from_le_bytes(*block))).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    let mut last = [0; 4];
    last[..tail.len()].copy_from_slice(tail);
    hash ^= scramble(u32::from_le_bytes(last));
    hash ^= bytes.len() as u32;
    hash = (hash ^ hash >> 16).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ hash >> 13).wrapping_mul(0xc2b2_ae35);
    hash ^ hash >> 16
}

#[cfg(test)]
mod tests;
