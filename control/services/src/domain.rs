//! Domain names in the encoding of DNS (RFC 1035 section 3.1), without compression.

/// Longest name on the wire, its final zero included.
const MAX_LENGTH: usize = 255;
/// Longest label.
const MAX_LABEL: usize = 63;

/// Appends the name to `out`. A name that cannot be one (an empty or too long label, too long in all) is left out.
pub(crate) fn put(out: &mut Vec<u8>, name: &str) {
    let name = name.strip_suffix('.').unwrap_or(name);
    let fits =
        name.len() + 2 <= MAX_LENGTH && name.split('.').all(|label| (1..=MAX_LABEL).contains(&label.len()));
    if !fits {
        return;
    }
    for label in name.split('.') {
        out.push(label.len() as u8);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
}

#[cfg(test)]
mod tests {
    use super::put;

    fn of(name: &str) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, name);
        out
    }

    #[test]
    fn labels_are_counted_and_impossible_names_left_out() {
        assert_eq!(of("blue.internal"), b"\x04blue\x08internal\0");
        assert_eq!(of("blue."), b"\x04blue\0");
        for name in ["", ".", "a..b", &"x".repeat(64), &"abc.".repeat(64)] {
            assert!(of(name).is_empty(), "{name}");
        }
    }
}
