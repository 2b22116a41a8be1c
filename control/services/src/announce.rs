//! Announcements of a port's addresses, for when it comes up or moves: gratuitous ARP, unsolicited neighbour advertisement, RARP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use packet::{HEAD_LENGTH, MacAddr, announce, ndp};

/// The frame that an emitter of `packet` writes.
fn frame(emit: impl FnOnce(&mut [u8]) -> Option<u32>) -> Vec<u8> {
    let mut head = vec![0; HEAD_LENGTH];
    // The emitters need at most 86 of the 128 bytes.
    let length = emit(&mut head).unwrap_or(0);
    head.truncate(length as usize);
    head
}

/// A broadcast ARP request by which `mac` says that it has `address` (RFC 5227 section 3): 60 bytes.
#[must_use]
pub fn gratuitous_arp(mac: MacAddr, address: Ipv4Addr) -> Vec<u8> {
    frame(|head| announce::gratuitous_arp(head, mac, address))
}

/// A neighbour advertisement to all nodes by which `mac` says that it has `address` (RFC 4861 section 7.2.6): 86 bytes.
#[must_use]
pub fn unsolicited_na(mac: MacAddr, address: Ipv6Addr) -> Vec<u8> {
    frame(|head| ndp::announce(head, mac, address, ndp::Role::Host))
}

/// A broadcast RARP request, from which switches learn where `mac` is: 60 bytes.
#[must_use]
pub fn rarp(mac: MacAddr) -> Vec<u8> {
    frame(|head| announce::rarp(head, mac))
}

/// What says that `mac` has `address`: [`gratuitous_arp`] or [`unsolicited_na`].
#[must_use]
pub fn of_address(mac: MacAddr, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => gratuitous_arp(mac, address),
        IpAddr::V6(address) => unsolicited_na(mac, address),
    }
}

/// All that a port with this MAC address and these addresses has to say: one frame for each address, then one for the MAC address.
pub fn of_port(mac: MacAddr, addresses: impl IntoIterator<Item = IpAddr>) -> Vec<Vec<u8>> {
    let mut frames: Vec<Vec<u8>> = addresses.into_iter().map(|address| of_address(mac, address)).collect();
    frames.push(rarp(mac));
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_announces_each_address_and_its_mac() {
        let mac = MacAddr([2, 0, 0, 0, 0, 7]);
        let addresses: [IpAddr; 2] = ["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
        let frames = of_port(mac, addresses);
        assert_eq!(frames.iter().map(Vec::len).collect::<Vec<_>>(), [60, 86, 60]);
        for (frame, address) in frames.iter().zip(addresses) {
            let headers = packet::parse(frame, frame.len() as u32).unwrap();
            let said = announce::detect(frame, &headers).expect("an announcement");
            assert_eq!((said.mac(), said.addresses().collect::<Vec<_>>()), (mac, vec![address]));
        }
    }
}
