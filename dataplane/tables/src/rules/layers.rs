//! Which lengths of prefixes share a table.
//!
//! In a table, what a prefix says is merged into all prefixes inside it, so that one look decides. Where many rules have a prefix that contains many others, this
//! would take memory and time that grow with the product. Such lengths get tables of their own, and a look-up goes through each: so
//! few tables as keep what is merged to [`COPIES`] times the rules.

/// How often, on average, the rules of a table may be in it.
const COPIES: u64 = 64;
/// What a table may hold beyond that: small ones are never divided.
const SPARE: u64 = 1024;
/// One more than the greatest length.
const LENGTHS: usize = 129;

/// A prefix: its first and last address, its length, and how many ranges its rules have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub(super) first: u128,
    pub(super) last: u128,
    pub(super) length: u8,
    pub(super) ranges: u64,
}

/// Calls `seen` with the length of each prefix, and of each that contains it, itself first, and how many ranges that one's rules have.
fn chains(prefixes: impl Iterator<Item = Extent>, mut seen: impl FnMut(u8, u8, u64)) {
    let mut outer: Vec<Extent> = Vec::new();
    for prefix in prefixes {
        while outer.last().is_some_and(|outer| outer.last < prefix.first) {
            outer.pop();
        }
        seen(prefix.length, prefix.length, prefix.ranges);
        outer.iter().for_each(|outer| seen(prefix.length, outer.length, outer.ranges));
        outer.push(prefix);
    }
}

/// The least lengths of the tables, in order, for these prefixes, given in order of addresses and then lengths.
pub(super) fn layers(prefixes: impl Iterator<Item = Extent> + Clone) -> Vec<u8> {
    let (mut ranges, mut copies, mut least) = (0, 0, None);
    chains(prefixes.clone(), |inner, outer, count| {
        if inner == outer {
            ranges += count;
            least = least.map_or(Some(inner), |least: u8| Some(least.min(inner)));
        }
        copies += count;
    });
    match least {
        None => Vec::new(),
        Some(least) if copies <= COPIES * ranges + SPARE => vec![least],
        Some(_) => fewest(prefixes),
    }
}

/// The fewest tables that stay within the bound.
fn fewest(prefixes: impl Iterator<Item = Extent>) -> Vec<u8> {
    // How many copies those of one length (the column) cause in those of another (the row).
    let mut copies = vec![[0u64; LENGTHS]; LENGTHS];
    chains(prefixes, |inner, outer, count| {
        let to = copies.get_mut(usize::from(inner)).and_then(|row| row.get_mut(usize::from(outer)));
        if let Some(to) = to {
            *to += count;
        }
    });
    let of =
        |inner: usize, outer: usize| copies.get(inner).and_then(|row| row.get(outer)).copied().unwrap_or(0);
    let used: Vec<usize> = (0..LENGTHS).filter(|length| of(*length, *length) > 0).collect();
    // For the first i lengths: the fewest tables, and where the last of them begins.
    let mut best: Vec<(usize, usize)> = vec![(0, 0)];
    for end in 0..used.len() {
        let (mut ranges, mut total, mut found) = (0, 0, (usize::MAX, end));
        for begin in (0..=end).rev() {
            let table = used.get(begin..=end).unwrap_or_default();
            let Some(outer) = table.first() else { continue };
            ranges += of(*outer, *outer);
            total += table.iter().map(|inner| of(*inner, *outer)).sum::<u64>();
            let fits = begin == end || total <= COPIES * ranges + SPARE;
            let before = best.get(begin).map_or(0, |(tables, _)| *tables);
            if fits && before + 1 < found.0 {
                found = (before + 1, begin);
            }
        }
        best.push(found);
    }
    let (mut least, mut end) = (Vec::new(), used.len());
    while end > 0 {
        let begin = best.get(end).map_or(0, |(_, begin)| *begin);
        least.extend(used.get(begin).map(|length| *length as u8));
        end = begin;
    }
    least.reverse();
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(first: u32, length: u8, ranges: u64) -> Extent {
        let first = u128::from(first) << 96;
        Extent { first, last: first | u128::MAX >> length, length, ranges }
    }

    #[test]
    fn ordinary_prefixes_share_one_table() {
        assert_eq!(layers([].into_iter()), [0u8; 0]);
        let prefixes = [extent(0x0a00_0000, 8, 500), extent(0x0a00_0000, 24, 3), extent(0x0a00_0100, 24, 3)];
        assert_eq!(layers(prefixes.into_iter()), [8]);
    }

    #[test]
    fn rules_of_a_prefix_with_many_inside_are_in_a_table_of_their_own() {
        let hosts = (0..5000).map(|host| extent(0x0a00_0000 + host, 32, 1));
        let prefixes = std::iter::once(extent(0x0a00_0000, 8, 5000)).chain(hosts.clone());
        assert_eq!(layers(prefixes), [8, 32]);
        let prefixes = std::iter::once(extent(0x0a00_0000, 8, 5)).chain(hosts.clone());
        assert_eq!(layers(prefixes), [8]);
        let prefixes = [extent(0x0a00_0000, 8, 5000), extent(0x0a00_0000, 9, 500)].into_iter().chain(hosts);
        assert_eq!(layers(prefixes), [8, 32]);
    }
}
