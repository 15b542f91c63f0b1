//! Kubernetes quantities in bytes.

/// A quantity that is not a number of bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: \"{value}\" is not a size; write for instance 512Mi, 4Gi or 1.5Gi")]
pub struct QuantityError {
    /// The field as in the manifest.
    pub field: String,
    /// The text as given.
    pub value: String,
}

/// The suffixes of quantities; an exponent such as `e9` is read too. `m` is left out: there are no thousandths of a byte.
const SUFFIXES: [(&str, u64); 12] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("Ei", 1 << 60),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000),
];

/// Reads a Kubernetes quantity as whole bytes, at least one. A fraction of a byte is rounded up, as Kubernetes does.
///
/// `field` is the field's name, for the message.
pub fn parse_quantity(field: &str, text: &str) -> Result<u64, QuantityError> {
    bytes(text).filter(|bytes| *bytes > 0).ok_or_else(|| QuantityError { field: field.to_owned(), value: text.to_owned() })
}

fn bytes(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, suffix) = text.split_at_checked(digits)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || fraction.len() > 9 {
        return None;
    }
    let factor = factor(suffix)?;
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let number: u128 = format!("0{whole}{fraction}").parse().ok()?;
    u64::try_from(number.checked_mul(u128::from(factor))?.div_ceil(scale)).ok()
}

fn factor(suffix: &str) -> Option<u64> {
    if suffix.is_empty() {
        return Some(1);
    }
    match suffix.strip_prefix(['e', 'E']) {
        Some(exponent) if !exponent.is_empty() && exponent.bytes().all(|b| b.is_ascii_digit()) => {
            10_u64.checked_pow(exponent.parse().ok()?)
        }
        _ => SUFFIXES.iter().find(|(known, _)| *known == suffix).map(|(_, factor)| *factor),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_does() {
        for (text, expected) in [
            ("1", 1),
            ("128974848", 128_974_848),
            ("129e6", 129_000_000),
            ("1E3", 1_000),
            ("129M", 129_000_000),
            ("123Mi", 128_974_848),
            ("4Gi", 4_294_967_296),
            ("1.5Gi", 1_610_612_736),
            (".5Ki", 512),
            ("1.Ki", 1_024),
            ("0.1", 1),
            ("1E", 1_000_000_000_000_000_000),
            ("15Ei", 17_293_822_569_102_704_640),
        ] {
            assert_eq!(parse_quantity("memory", text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn other_texts_are_no_sizes() {
        for text in [
            "",
            "0",
            "0Gi",
            "-1Gi",
            "+1Gi",
            "4 Gi",
            "4GiB",
            "4gb",
            "4K",
            "100m",
            "Gi",
            ".",
            "1.2.3",
            "1e",
            "e9",
            "16Ei",
            "1e20",
            "99999999999999999999",
            "４Gi",
        ] {
            let error = parse_quantity("spec.memory", text).expect_err(text);
            assert_eq!(
                error.to_string(),
                format!("spec.memory: \"{text}\" is not a size; write for instance 512Mi, 4Gi or 1.5Gi")
            );
        }
    }
}
