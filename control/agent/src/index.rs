//! Small numbers for ports and subnets of this host.

/// Gives out the lowest free number.
#[derive(Debug, Default)]
pub(crate) struct Indices {
    used: Vec<bool>,
}

impl Indices {
    /// The lowest number below `limit` that is free.
    pub(crate) fn take(&mut self, limit: usize) -> Option<u16> {
        let free = self.used.iter().position(|used| !used).unwrap_or(self.used.len());
        if free >= limit.min(usize::from(u16::MAX)) {
            return None;
        }
        if free == self.used.len() {
            self.used.push(true);
        } else {
            self.used[free] = true;
        }
        Some(free as u16)
    }

    pub(crate) fn give_back(&mut self, index: u16) {
        if let Some(used) = self.used.get_mut(usize::from(index)) {
            *used = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Indices;

    #[test]
    fn numbers_are_reused_only_when_given_back() {
        let mut indices = Indices::default();
        assert_eq!(
            [indices.take(3), indices.take(3), indices.take(3), indices.take(3)],
            [Some(0), Some(1), Some(2), None]
        );
        indices.give_back(1);
        assert_eq!([indices.take(3), indices.take(3)], [Some(1), None]);
    }
}
