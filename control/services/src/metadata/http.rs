//! The head of an HTTP/1 request (RFC 9112): read strictly, and written anew for the service.
//!
//! What two readers could understand in two ways is refused, so that the service sees the request that was looked at here: no folded lines,
//! no second length, no encoding of the transfer, no bytes behind the one request.

use std::net::IpAddr;

use super::Identity;

/// Bytes of the longest head.
pub(super) const MAX_HEAD: usize = 8192;
/// More header fields than any client sends.
const MAX_FIELDS: usize = 64;
/// Longest method name.
const MAX_METHOD: usize = 16;

/// Why a request is not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    BadRequest,
    MethodNotAllowed,
    RequestTimeout,
    ContentTooLarge,
    HeadTooLarge,
    NotImplemented,
    BadGateway,
    GatewayTimeout,
}

impl Status {
    fn line(self) -> &'static str {
        match self {
            Status::BadRequest => "400 Bad Request",
            Status::MethodNotAllowed => "405 Method Not Allowed",
            Status::RequestTimeout => "408 Request Timeout",
            Status::ContentTooLarge => "413 Content Too Large",
            Status::HeadTooLarge => "431 Request Header Fields Too Large",
            Status::NotImplemented => "501 Not Implemented",
            Status::BadGateway => "502 Bad Gateway",
            Status::GatewayTimeout => "504 Gateway Timeout",
        }
    }

    /// The whole response.
    pub(super) fn response(self) -> Vec<u8> {
        let line = self.line();
        let length = line.len() + 1;
        format!(
            "HTTP/1.1 {line}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{line}\n"
        )
        .into_bytes()
    }
}

/// A request's head as the service gets it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// What is sent to the service.
    pub(super) rewritten: Vec<u8>,
    /// Bytes of the head that was read.
    pub(super) length: usize,
    /// Bytes of the body behind it.
    pub(super) body: u64,
}

/// Reads a head from the beginning of `bytes`; `None` if its end has not come yet.
pub(super) fn read(
    bytes: &[u8],
    identity: &Identity,
    peer: IpAddr,
    max_body: u64,
) -> Result<Option<Head>, Status> {
    let within = bytes.get(..MAX_HEAD).unwrap_or(bytes);
    let Some(end) = within.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if bytes.len() < MAX_HEAD { Ok(None) } else { Err(Status::HeadTooLarge) };
    };
    let text = within.get(..end).unwrap_or_default();
    let mut lines = split(text);
    let mut rewritten = Vec::with_capacity(end + 512);
    let modern = request_line(lines.next().unwrap_or_default(), &mut rewritten)?;
    let fields = lines.map(field).collect::<Result<Vec<_>, _>>()?;
    if fields.len() > MAX_FIELDS {
        return Err(Status::HeadTooLarge);
    }
    let body = body_length(&fields)?;
    if body > max_body {
        return Err(Status::ContentTooLarge);
    }
    let hosts = fields.iter().filter(|field| field.is(b"host")).count();
    if hosts > 1 || (modern && hosts == 0) {
        return Err(Status::BadRequest);
    }
    let named: Vec<&[u8]> =
        fields.iter().filter(|field| field.is(b"connection")).flat_map(Field::list).collect();
    let forwarded =
        fields.iter().filter(|field| !field.is_dropped() && !named.iter().any(|name| field.is(name)));
    for field in forwarded {
        rewritten.extend_from_slice(field.name);
        rewritten.extend_from_slice(b": ");
        rewritten.extend_from_slice(field.value);
        rewritten.extend_from_slice(b"\r\n");
    }
    // A length that `Connection` named must not get lost, or the body would be the next request.
    if body > 0 && named.iter().any(|name| name.eq_ignore_ascii_case(b"content-length")) {
        return Err(Status::BadRequest);
    }
    identify(&mut rewritten, identity, peer);
    Ok(Some(Head { rewritten, length: end + 4, body }))
}

/// The lines of a head; a lone CR or LF stays in its line, where it is refused.
fn split(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        match text.windows(2).position(|window| window == b"\r\n") {
            Some(at) => {
                rest = text.get(at + 2..);
                text.get(..at)
            }
            None => rest.take(),
        }
    })
}

/// Copies the request line; is it HTTP/1.1? Version 1.0 stays, so that the answer is not sent in a form that such a client cannot read.
fn request_line(line: &[u8], out: &mut Vec<u8>) -> Result<bool, Status> {
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Status::BadRequest);
    };
    if !is_token(method) || method.len() > MAX_METHOD {
        return Err(Status::BadRequest);
    }
    if method == b"CONNECT" || method == b"TRACE" {
        return Err(Status::MethodNotAllowed);
    }
    if target.first() != Some(&b'/') || !target.iter().all(u8::is_ascii_graphic) {
        return Err(Status::BadRequest);
    }
    let modern = match version {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        _ => return Err(Status::BadRequest),
    };
    out.extend_from_slice(line);
    out.extend_from_slice(b"\r\n");
    Ok(modern)
}

/// RFC 9110 section 5.6.2.
fn is_token(word: &[u8]) -> bool {
    !word.is_empty()
        && word.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// A header field.
#[derive(Clone, Copy, Debug)]
struct Field<'a> {
    name: &'a [u8],
    value: &'a [u8],
}

fn field(line: &[u8]) -> Result<Field<'_>, Status> {
    let colon = line.iter().position(|byte| *byte == b':').ok_or(Status::BadRequest)?;
    let (name, value) = line.split_at(colon);
    let value = value.get(1..).unwrap_or_default().trim_ascii();
    let allowed = |byte: &u8| matches!(byte, b'\t' | 0x20..=0x7e | 0x80..);
    // No space may precede the colon, nor a folded line begin with one: a name is a token.
    if !is_token(name) || !value.iter().all(allowed) {
        Err(Status::BadRequest)
    } else {
        Ok(Field { name, value })
    }
}

/// Fields that belong to one connection (RFC 9110 section 7.6.1), or that this proxy does not do.
const HOP_BY_HOP: &[&[u8]] = &[
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"expect",
    b"http2-settings",
];
/// Fields by which a service could be told who asks. Some services read `_` as `-`, so names are compared that way.
const IDENTIFYING: &[&[u8]] = &[b"forwarded", b"x-real-ip", b"via"];
const IDENTIFYING_PREFIXES: &[&[u8]] = &[b"x-towpath-", b"x-forwarded-", b"proxy-"];

impl<'a> Field<'a> {
    fn is(&self, name: &[u8]) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    fn is_dropped(&self) -> bool {
        let folded: Vec<u8> = self
            .name
            .iter()
            .map(|byte| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() })
            .collect();
        let one_of = |list: &[&[u8]]| list.contains(&folded.as_slice());
        one_of(HOP_BY_HOP)
            || one_of(IDENTIFYING)
            || IDENTIFYING_PREFIXES.iter().any(|prefix| folded.starts_with(prefix))
    }

    /// The elements of a list.
    fn list(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
    }
}

/// Bytes of the body (RFC 9112 section 6.3). A body without a length of its own is not taken.
fn body_length(fields: &[Field<'_>]) -> Result<u64, Status> {
    if fields.iter().any(|field| field.is(b"transfer-encoding")) {
        return Err(Status::NotImplemented);
    }
    let mut lengths = fields.iter().filter(|field| field.is(b"content-length"));
    let Some(length) = lengths.next() else { return Ok(0) };
    let digits =
        std::str::from_utf8(length.value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    match (digits.and_then(|text| text.parse().ok()), lengths.next()) {
        (Some(length), None) => Ok(length),
        _ => Err(Status::BadRequest),
    }
}

/// Says who asks, and ends the head.
fn identify(out: &mut Vec<u8>, identity: &Identity, peer: IpAddr) {
    let peer = peer.to_string();
    let fields = [
        ("X-Towpath-Port", identity.port.as_str()),
        ("X-Towpath-Project", &identity.project),
        ("X-Towpath-Vpc", &identity.vpc),
        ("X-Forwarded-For", &peer),
        ("Connection", "close"),
    ];
    for (name, value) in fields {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        // Names are checked where they are configured; that none can end a line is seen to here as well.
        out.extend(value.bytes().map(|byte| if byte.is_ascii_graphic() { byte } else { b'?' }));
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn identity() -> Identity {
        Identity {
            port: "vm1-eth0".into(),
            project: "default".into(),
            vpc: "blue".into(),
            mac: packet::MacAddr([2, 0, 0, 0, 0, 1]),
            gateway_mac: packet::MacAddr([2, 0, 0, 0, 0, 2]),
            addresses: Vec::new(),
            mtu: 1500,
            service: "127.0.0.1:8775".into(),
        }
    }

    fn of(text: &str) -> Result<Option<Head>, Status> {
        read(text.as_bytes(), &identity(), "10.0.1.10".parse().unwrap(), 1000)
    }

    fn rewritten(text: &str) -> String {
        String::from_utf8(of(text).unwrap().unwrap().rewritten).unwrap()
    }

    const OURS: &str = "X-Towpath-Port: vm1-eth0\r\nX-Towpath-Project: default\r\nX-Towpath-Vpc: blue\r\nX-Forwarded-For: 10.0.1.10\r\nConnection: close\r\n\r\n";

    #[test]
    fn the_port_is_named_and_nothing_else_changes() {
        let text =
            "GET /latest/meta-data/?a=b HTTP/1.1\r\nHost: 169.254.169.254\r\nAccept:  */* \r\n\r\nrest";
        assert_eq!(
            rewritten(text),
            format!("GET /latest/meta-data/?a=b HTTP/1.1\r\nHost: 169.254.169.254\r\nAccept: */*\r\n{OURS}")
        );
        assert_eq!(of(text).unwrap().unwrap().length, text.len() - 4);
        assert_eq!(rewritten("GET / HTTP/1.0\r\n\r\n"), format!("GET / HTTP/1.0\r\n{OURS}"));
    }

    #[test]
    fn a_guest_cannot_say_who_it_is() {
        for name in [
            "X-Towpath-Port",
            "x-towpath-port",
            "X_Towpath_Port",
            "X-Towpath_Project",
            "x-towpath-anything",
            "X-Forwarded-For",
            "X_FORWARDED_FOR",
            "X-Forwarded-Host",
            "Forwarded",
            "X-Real-IP",
            "Via",
            "Proxy-Authorization",
            "Transfer_Encoding",
            "Upgrade",
            "TE",
            "Expect",
        ] {
            let text = format!(
                "GET / HTTP/1.1\r\nHost: a\r\n{name}: evil\r\nConnection: x-secret\r\nX-Secret: 1\r\n\r\n"
            );
            assert_eq!(rewritten(&text), format!("GET / HTTP/1.1\r\nHost: a\r\n{OURS}"), "{name}");
        }
        let odd = Identity { port: "a\r\nX-Evil: 1".into(), ..identity() };
        let head = read(b"GET / HTTP/1.0\r\n\r\n", &odd, "::1".parse().unwrap(), 0).unwrap().unwrap();
        assert!(String::from_utf8(head.rewritten).unwrap().contains("X-Towpath-Port: a??X-Evil:?1\r\n"));
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        let fields =
            |fields: &str| of(&format!("PUT / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n")).unwrap_err();
        for bad in [
            "Content-Length: 1\r\nContent-Length: 1",
            "Content-Length: +1",
            "Content-Length: 1, 1",
            "Content-Length:",
            "Content-Length: 99999999999999999999",
            "Content-Length : 1",
            "Host: b",
            "A: b\r\n folded",
            "A: b\nB: c",
            "A: b\rB: c",
            "A: \0",
            ": x",
            "no colon",
            "Content-Length: 5\r\nConnection: content-length",
        ] {
            assert_eq!(fields(bad), Status::BadRequest, "{bad:?}");
        }
        assert_eq!(fields("Transfer-Encoding: chunked"), Status::NotImplemented);
        assert_eq!(fields("Content-Length: 1001"), Status::ContentTooLarge);
        assert_eq!(fields(&"A: b\r\n".repeat(70)[..68 * 6 - 2]), Status::HeadTooLarge);
        for bad in [
            "GET / HTTP/2.0",
            "GET /",
            "GET  / HTTP/1.1",
            "GET http://a/ HTTP/1.1",
            "GET * HTTP/1.1",
            "G(T / HTTP/1.1",
            " GET / HTTP/1.1",
            "GET / HTTP/1.1 ",
            "GET /\u{e9} HTTP/1.1",
            "",
        ] {
            assert_eq!(of(&format!("{bad}\r\nHost: a\r\n\r\n")), Err(Status::BadRequest), "{bad:?}");
        }
        assert_eq!(of("GET / HTTP/1.1\r\n\r\n"), Err(Status::BadRequest), "no host");
        assert_eq!(of("CONNECT /a HTTP/1.1\r\nHost: a\r\n\r\n"), Err(Status::MethodNotAllowed));
    }

    #[test]
    fn a_head_is_waited_for_and_bounded() {
        assert_eq!(of("GET / HTTP/1.1\r\nHost: a\r\n"), Ok(None));
        assert_eq!(of(&"x".repeat(MAX_HEAD - 1)), Ok(None));
        assert_eq!(of(&"x".repeat(MAX_HEAD)), Err(Status::HeadTooLarge));
        assert_eq!(of("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\n\r\n").unwrap().unwrap().body, 7);
    }

    proptest! {
        #[test]
        fn no_text_panics_or_smuggles(text in "(GET|PUT) /[a-z]{0,3} HTTP/1.[01]\r\n(([A-Za-z_-]{1,12}|X-Towpath-Port|Host|Connection) ?:[ -~\r\n]{0,10}\r\n){0,4}\r\n.{0,9}") {
            if let Ok(Some(head)) = of(&text) {
                let out = String::from_utf8(head.rewritten).unwrap();
                prop_assert_eq!(out.matches("\r\n\r\n").count(), 1);
                prop_assert!(out.ends_with(OURS));
                prop_assert_eq!(out.to_lowercase().replace('_', "-").matches("\nx-towpath-port").count(), 1);
            }
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes, &identity(), "::1".parse().unwrap(), 0);
        }
    }
}
