//! Any frame through the parser and everything that reads or answers what it found: nothing panics, nothing is read that
//! the frame does not have, ports are the frame's own.
#![no_main]

use libfuzzer_sys::fuzz_target;
use packet::{Fragment, HEAD_LENGTH, Headers, L4, MacAddr, announce, arp, ndp, parse, vrrp};

fuzz_target!(|data: &[u8]| {
    // The first byte shortens the head, as a caller that keeps less than 128 bytes would.
    let Some((&keep, frame)) = data.split_first() else { return };
    let head = &frame[..frame.len().min(HEAD_LENGTH)];
    let whole = parse(head, frame.len() as u32);
    let short = &head[..head.len().min(usize::from(keep))];
    if let Ok(headers) = parse(short, frame.len() as u32) {
        assert_eq!(Ok(headers), whole, "a shorter head changed the answer");
    }
    let Ok(headers) = whole else { return };
    check(frame, &headers);
    let _ = ndp::parse(head, &headers);
    let _ = vrrp::parse(head, &headers);
    if let Some(found) = announce::detect(head, &headers) {
        assert!(found.addresses().count() <= HEAD_LENGTH / 4);
    }
    let mac = MacAddr([2, 0, 0, 0, 0, 1]);
    let mut buffer = [0; HEAD_LENGTH];
    buffer[..head.len()].copy_from_slice(head);
    if let Some(length) = arp::reply_in_place(&mut buffer, &headers, mac) {
        assert!(parse(&buffer[..length as usize], length).is_ok());
    }
    if let Ok(ndp::Message::Solicitation(solicitation)) = ndp::parse(head, &headers) {
        let length = ndp::advertise_in_place(&mut buffer, &headers, &solicitation, mac, ndp::Role::Host)
            .expect("128 bytes suffice") as usize;
        let answer = parse(&buffer[..length], length as u32).expect("the answer is a packet");
        let answer = ndp::parse(&buffer[..length], &answer).expect("the answer is valid");
        assert!(matches!(answer, ndp::Message::Advertisement(said) if said.target == solicitation.target));
    }
});

fn check(frame: &[u8], headers: &Headers) {
    let end = headers.l3_end() as usize;
    assert!(end <= frame.len());
    let offsets = [headers.l3_offset, headers.l4_offset, headers.payload_offset].map(usize::from);
    assert!(offsets.is_sorted() && offsets[2] <= end.min(HEAD_LENGTH), "{headers:?}");
    let ports = if headers.has_ports() {
        let at = offsets[1];
        (u16::from_be_bytes([frame[at], frame[at + 1]]), u16::from_be_bytes([frame[at + 2], frame[at + 3]]))
    } else {
        (0, 0)
    };
    assert_eq!((headers.source_port, headers.destination_port), ports);
    assert!(headers.fragment != Fragment::Later || headers.l4 == L4::None);
}
