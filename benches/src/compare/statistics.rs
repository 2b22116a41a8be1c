//! Medians with their interval, from samples of one kind.

use serde::Serialize;

/// A median, the middle half around it, and how many values it rests on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Summary {
    /// Median.
    pub(super) median: f64,
    /// First quartile.
    pub q1: f64,
    /// Third quartile.
    pub q3: f64,
    /// Values.
    pub(super) n: usize,
}

impl Summary {
    /// Summarizes values; `None` without any.
    #[must_use]
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        if values.is_empty() {
            return None;
        }
        values.sort_by(f64::total_cmp);
        Some(Self { median: at(&values, 0.5), q1: at(&values, 0.25), q3: at(&values, 0.75), n: values.len() })
    }

    /// `97.1 [95.0-99.2] n=12`, with so many decimals.
    #[must_use]
    pub(super) fn text(&self, decimals: usize) -> String {
        format!("{:.decimals$} [{:.decimals$}-{:.decimals$}] n={}", self.median, self.q1, self.q3, self.n)
    }
}

/// A quantile of sorted values, interpolated between neighbours.
fn at(sorted: &[f64], quantile: f64) -> f64 {
    let position = quantile * (sorted.len() - 1) as f64;
    let low = position.floor();
    let value = |index: f64| sorted.get(index as usize).copied().unwrap_or(f64::NAN);
    value(low) + (value(position.ceil()) - value(low)) * (position - low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_are_interpolated() {
        let summary = Summary::of([4.0, 1.0, 3.0, 2.0, f64::NAN]).unwrap();
        assert_eq!((summary.median, summary.q1, summary.q3, summary.n), (2.5, 1.75, 3.25, 4));
        assert_eq!(Summary::of([7.0]).map(|s| (s.median, s.q1, s.q3)), Some((7.0, 7.0, 7.0)));
        assert_eq!(Summary::of([]), None);
    }
}
