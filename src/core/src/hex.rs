//! Bytes as people write and read them: two hexadecimal digits each.

use serde::{Deserialize, Deserializer, Serializer, de};
use std::fmt::Write;

/// The digits of `bytes`, in lower case.
pub fn encode(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes of digits in either case. `None` for an odd number of digits, or anything else.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    bytes.collect::<Option<Vec<u8>>>().filter(|_| rest.is_empty())
}

/// For `#[serde(with = "hex")]`.
pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&encode(bytes))
}

/// For `#[serde(with = "hex")]`.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    decode(&text).ok_or_else(|| de::Error::custom(format!("\"{text}\" is no number of bytes in hexadecimal digits")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_and_bytes_are_the_same() {
        for (bytes, text) in [(&[][..], ""), (&[0, 255, 16], "00ff10"), (b"LX", "4c58")] {
            assert_eq!((encode(bytes), decode(text)), (text.to_owned(), Some(bytes.to_vec())));
        }
        assert_eq!(decode("4C58"), decode("4c58"));
        for text in ["0", "0x", "zz", "00 1", "+1", "é"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
