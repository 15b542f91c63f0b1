use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn encoded(value: &Value<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_value(value, &mut bytes);
    bytes
}

fn driver() -> KeyLayout {
    KeyLayout::new([("driver_id", KeyType::Int64)])
}

fn driver_key(id: i64) -> Vec<u8> {
    let mut key = Vec::new();
    driver().encode([Key::Int64(id)], &mut key);
    key
}

#[test]
fn a_field_is_the_hash_that_feast_computes() {
    assert_eq!(field_hash("driver_stats", "conv_rate"), 336_622_586);
    assert_eq!(hex(&field("driver_stats", "conv_rate")), "fa731014");
    assert_eq!(field_hash("driver_stats", "trips"), 883_190_338);
    assert_eq!(hex(&field("driver_stats", "trips")), "426aa434");
}

#[test]
fn murmur3_matches_published_vectors_for_every_tail_length() {
    for (text, hash) in [("", 0), ("a", 0x3c25_69b2), ("ab", 0x9bbf_d75f), ("abc", 0xb3dd_93fa), ("abcd", 0x43ed_676a)] {
        assert_eq!(murmur3_32(text.as_bytes()), hash, "{text}");
    }
}

#[test]
fn a_redis_key_is_the_one_that_feast_writes() {
    let key = redis_key(&driver_key(1001), "demo");
    assert_eq!(hex(&key), "0100000002000000090000006472697665725f69640400000008000000e90300000000000064656d6f");
    assert_eq!(driver().entity_key_of(&key, "demo"), Some(driver_key(1001).as_slice()));
}

#[test]
fn join_keys_are_sorted_by_name_and_values_follow_them() {
    let layout = KeyLayout::new([("z", KeyType::String), ("a", KeyType::Int32)]);
    assert_eq!(layout.order(), [1, 0]);
    let mut key = Vec::new();
    layout.encode([Key::Int32(-1), Key::String("ü\0")], &mut key);
    assert_eq!(
        hex(&key),
        concat!("02000000", "020000000100000061", "02000000010000007a", "0300000004000000ffffffff", "0200000003000000c3bc00")
    );
    assert_eq!(layout.decode(&key), Some((vec![Key::Int32(-1), Key::String("ü\0")], &[][..])));
}

#[test]
fn keys_of_another_project_type_or_layout_are_not_ours() {
    assert_eq!(driver().entity_key_of(&redis_key(&driver_key(1), "xdemo"), "demo"), None);
    assert_eq!(driver().entity_key_of(&redis_key(&driver_key(1), "dem"), "demo"), None);
    assert_eq!(KeyLayout::new([("driver_id", KeyType::Int32)]).decode(&driver_key(1)), None);
    assert_eq!(KeyLayout::new([("driver", KeyType::Int64)]).decode(&driver_key(1)), None);
    assert_eq!(driver().decode(&driver_key(1)[..30]), None);
    assert_eq!(driver().decode(b""), None);
}

#[test]
fn glob_characters_in_names_are_escaped() {
    let pattern = KeyLayout::new([("a*b", KeyType::Int64)]).scan_pattern("p?");
    assert!(pattern.ends_with(b"a\\*b*p\\?"), "{}", String::from_utf8_lossy(&pattern));
}

#[test]
fn values_are_the_bytes_that_feast_writes() {
    assert_eq!(hex(&encoded(&Value::Float64(0.5))), "29000000000000e03f");
    assert_eq!(hex(&encoded(&Value::Int64(7))), "2007");
    assert_eq!(hex(&encoded(&Value::Int64(0))), "2000", "a oneof writes its zero");
    assert_eq!(hex(&encoded(&Value::String("LX"))), "12024c58");
    assert_eq!(hex(&encoded(&Value::Null)), "");
    assert_eq!(hex(&encoded(&Value::Int64List(vec![]))), "7200");
    assert_eq!(hex(&encoded(&Value::Int32List(vec![1, -1]))), "6a0d0a0b01ffffffffffffffffff01");
}

#[test]
fn values_survive_the_way_there_and_back() {
    for value in [
        Value::Null,
        Value::Bytes(b"\0\xff"),
        Value::String(""),
        Value::Int32(i32::MIN),
        Value::Int64(i64::MIN),
        Value::Float64(-0.0),
        Value::Float32(f32::INFINITY),
        Value::Bool(false),
        Value::Timestamp(-1),
        Value::BytesList(vec![b"", b"a"]),
        Value::StringList(vec!["", "ü"]),
        Value::Int32List(vec![i32::MIN, 0, i32::MAX]),
        Value::Int64List(vec![i64::MIN, 0, i64::MAX]),
        Value::Float64List(vec![f64::MIN, -0.0]),
        Value::Float32List(vec![1.5]),
        Value::BoolList(vec![true, false]),
        Value::TimestampList(vec![-1, 0, 1]),
        Value::StringList(vec![]),
        Value::Float64List(vec![]),
    ] {
        let bytes = encoded(&value);
        assert_eq!(decode_value(&bytes).as_ref(), Some(&value));
        for cut in 1..bytes.len() {
            assert_ne!(decode_value(&bytes[..cut]), Some(value.clone()), "cut short");
        }
    }
    let nan = f64::from_bits(0x7ff8_0000_0000_0123);
    let bytes = encoded(&Value::Float64(nan));
    assert!(matches!(decode_value(&bytes), Some(Value::Float64(number)) if number.to_bits() == nan.to_bits()));
}

#[test]
fn timestamps_are_the_bytes_that_feast_writes() {
    let golden =
        [(1_767_312_000_000_000, "088095dcca06"), (0, ""), (500_000, "1080cab5ee01"), (-1, "08ffffffffffffffffff0110988cebdc03")];
    for (micros, bytes) in golden {
        let mut encoded = Vec::new();
        encode_timestamp(micros, &mut encoded);
        assert_eq!(hex(&encoded), bytes);
        assert_eq!(decode_timestamp(&encoded), Some(micros));
    }
    assert_eq!(decode_timestamp(b"\x10\x01"), Some(0), "nanoseconds are cut down");
    assert_eq!(decode_timestamp(b"junk"), None);
}
