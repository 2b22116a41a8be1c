//! The nearest known word to one that is not known.

/// Names the candidate with the fewest edits to `word`; letter case counts as half an edit.
///
/// Returns `None` only without candidates. Words longer than 64 characters are compared by their first 64.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates.into_iter().min_by_key(|candidate| distance(word, candidate))
}

/// Twice the edit distance (insert, delete, replace, swap of neighbours), where a difference in case counts one.
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().take(64).collect();
    let right: Vec<char> = right.chars().take(64).collect();
    let mut before: Vec<usize> = Vec::new();
    let mut previous: Vec<usize> = (0..=right.len()).map(|column| column * 2).collect();
    for (row, a) in left.iter().enumerate() {
        let mut current = vec![(row + 1) * 2];
        for (column, b) in right.iter().enumerate() {
            let replace = match a == b {
                true => 0,
                false if a.eq_ignore_ascii_case(b) => 1,
                false => 2,
            };
            let mut best =
                (previous[column] + replace).min(previous[column + 1] + 2).min(current[column] + 2);
            let swapped = row > 0 && column > 0 && left[row - 1] == *b && *a == right[column - 1];
            if swapped {
                best = best.min(before[column - 1] + 2);
            }
            current.push(best);
        }
        before = std::mem::replace(&mut previous, current);
    }
    previous[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typos_find_their_word() {
        let kinds = ["Host", "Vpc", "Subnet", "Port"];
        for (typo, word) in
            [("Subnt", "Subnet"), ("port", "Port"), ("VPC", "Vpc"), ("Prot", "Port"), ("Hots", "Host")]
        {
            assert_eq!(nearest(typo, kinds), Some(word), "{typo}");
        }
        assert_eq!(nearest("x", []), None);
    }

    #[test]
    fn distance_counts_edits_twice() {
        assert_eq!(distance("abc", "abc"), 0);
        assert_eq!(distance("abc", "abd"), 2);
        assert_eq!(distance("abc", "acb"), 2);
        assert_eq!(distance("abc", "Abc"), 1);
        assert_eq!(distance("", "abc"), 6);
    }
}
