//! Names: what they may look like, how objects are found by them, and what was probably meant.

use super::Rejection;
use crate::condition::Reason;
use kube::ResourceExt;

/// How many names a message lists.
const LISTED_MAX: usize = 10;

/// A DNS label that begins with a letter, as every object of this group is named.
pub fn check_label(field: &str, name: &str, reason: Reason) -> Result<(), Rejection> {
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    let fits = name.len() <= 63
        && name.as_bytes().first().is_some_and(u8::is_ascii_lowercase)
        && name.bytes().all(|b| inner(&b))
        && !name.ends_with('-');
    if fits {
        return Ok(());
    }
    let message = format!(
        "{field}: \"{name}\" is not a DNS label: write at most 63 of a-z, 0-9 and -, beginning with a letter and not ending with -"
    );
    Err(Rejection::new(reason, message))
}

/// A name for columns and sources, which is safe to quote in every engine.
pub fn check_column(field: &str, name: &str, reason: Reason) -> Result<(), Rejection> {
    let first = name.as_bytes().first().is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_');
    if first && name.len() <= 128 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Ok(());
    }
    let message =
        format!("{field}: \"{name}\" is not a name: write at most 128 of A-Z, a-z, 0-9 and _, not beginning with a digit");
    Err(Rejection::new(reason, message))
}

/// The object of that name, or a rejection that lists what there is.
pub fn find<'a, K: ResourceExt>(
    kind: &str,
    name: &str,
    namespace: &str,
    objects: &[&'a K],
    reason: Reason,
) -> Result<&'a K, Rejection> {
    let known = |object: &&'a K| object.meta().name.as_deref() == Some(name);
    objects.iter().copied().find(known).ok_or_else(|| {
        let names: Vec<_> = objects.iter().filter_map(|object| object.meta().name.as_deref()).collect();
        Rejection::new(reason, format!("no {kind} \"{name}\" in \"{namespace}\"{}", hint(name, &names)))
    })
}

/// What was probably meant, and what there is: `; did you mean "small"? there are: nano, small`.
pub fn hint(name: &str, names: &[&str]) -> String {
    let mut sorted = names.to_vec();
    sorted.sort_unstable();
    let nearest =
        sorted.iter().map(|known| (distance(name, known), *known)).min().filter(|(steps, _)| *steps <= 1 + name.len() / 4);
    let meant = nearest.map_or_else(String::new, |(_, known)| format!("; did you mean \"{known}\"?"));
    let listed = match sorted.len() {
        0 => "; there is none yet".to_owned(),
        count if count <= LISTED_MAX => format!("{} there are: {}", if meant.is_empty() { ";" } else { "" }, sorted.join(", ")),
        count => {
            let first = sorted.iter().take(LISTED_MAX).copied().collect::<Vec<_>>().join(", ");
            format!("{} there are {count}, among them: {first}", if meant.is_empty() { ";" } else { "" })
        }
    };
    format!("{meant}{listed}")
}

/// How many letters must be changed, added or left out to make one name of the other, in any case.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, a) in left.to_lowercase().chars().enumerate() {
        let mut diagonal = index;
        let mut before = index + 1;
        for (b, above) in right.iter().zip(row.iter_mut().skip(1)) {
            let changed = diagonal + usize::from(a != *b);
            diagonal = *above;
            before = changed.min(before + 1).min(*above + 1);
            *above = before;
        }
        if let Some(first) = row.first_mut() {
            *first = index + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_single_letters_in_any_case() {
        for (left, right, expected) in
            [("", "", 0), ("a", "", 1), ("", "ab", 2), ("small", "SMALL", 0), ("smal", "small", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!(distance(left, right), expected, "{left} {right}");
        }
    }

    #[test]
    fn a_hint_names_the_nearest_and_at_most_ten() {
        assert_eq!(hint("clicks", &[]), "; there is none yet");
        assert_eq!(hint("clicks", &["views"]), "; there are: views");
        assert_eq!(hint("LRAGE", &["small", "large"]), "; did you mean \"large\"? there are: large, small");
        let many: Vec<String> = (0..12).map(|index| format!("n{index:02}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(hint("zzz", &many), "; there are 12, among them: n00, n01, n02, n03, n04, n05, n06, n07, n08, n09");
    }
}
