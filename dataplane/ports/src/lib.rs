//! Port drivers: vhost, null, loopback, pcap; and the conformance suite every driver passes.
