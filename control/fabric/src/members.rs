//! Behind which tunnel end points a subnet has stations: where its broadcasts go.

use std::collections::BTreeMap;

/// Stations per subnet and tunnel end point.
#[derive(Debug, Default)]
pub(crate) struct Members(BTreeMap<u16, BTreeMap<u16, u32>>);

impl Members {
    pub(crate) fn add(&mut self, subnet: u16, vtep: u16) {
        *self.0.entry(subnet).or_default().entry(vtep).or_default() += 1;
    }

    pub(crate) fn remove(&mut self, subnet: u16, vtep: u16) {
        let Some(vteps) = self.0.get_mut(&subnet) else { return };
        if let Some(count) = vteps.get_mut(&vtep) {
            *count -= 1;
            if *count == 0 {
                vteps.remove(&vtep);
            }
        }
        if vteps.is_empty() {
            self.0.remove(&subnet);
        }
    }

    /// The tunnel end points of a subnet, in order.
    pub(crate) fn of(&self, subnet: u16) -> impl Iterator<Item = u16> {
        self.0.get(&subnet).into_iter().flat_map(|vteps| vteps.keys().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::Members;

    #[test]
    fn a_tunnel_end_point_counts_as_long_as_a_station_is_there() {
        let mut members = Members::default();
        for (subnet, vtep) in [(1, 7), (1, 7), (1, 3), (2, 7)] {
            members.add(subnet, vtep);
        }
        assert_eq!(members.of(1).collect::<Vec<_>>(), [3, 7]);
        members.remove(1, 7);
        members.remove(1, 3);
        members.remove(1, 3);
        assert_eq!(members.of(1).collect::<Vec<_>>(), [7]);
        members.remove(1, 7);
        members.remove(2, 7);
        assert!(members.0.is_empty());
    }
}
