//! DPDK's `rte_acl`, by hand: the crate's bindings are of what it uses itself.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tables::rules::{Flow, Remote};

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Field {
    value: u64,
    mask_range: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Rule {
    category_mask: u32,
    priority: i32,
    userdata: u32,
    fields: [Field; 4],
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct FieldDef {
    kind: u8,
    size: u8,
    field_index: u8,
    input_index: u8,
    offset: u32,
}

#[repr(C)]
struct Config {
    num_categories: u32,
    num_fields: u32,
    defs: [FieldDef; 64],
    max_size: usize,
}

#[repr(C)]
struct Param {
    name: *const c_char,
    socket_id: c_int,
    rule_size: u32,
    max_rule_num: u32,
}

#[link(name = "rte_acl")]
unsafe extern "C" {
    fn rte_acl_create(param: *const Param) -> *mut c_void;
    fn rte_acl_free(context: *mut c_void);
    fn rte_acl_add_rules(context: *mut c_void, rules: *const Rule, count: u32) -> c_int;
    fn rte_acl_build(context: *mut c_void, config: *const Config) -> c_int;
    fn rte_acl_dump(context: *const c_void);
    fn rte_acl_classify_alg(
        context: *const c_void,
        data: *const *const u8,
        results: *mut u32,
        count: u32,
        categories: u32,
        algorithm: u32,
    ) -> c_int;
}

const MASK: u8 = 0;
const RANGE: u8 = 1;
const BITMASK: u8 = 2;
/// Ways to look up, and their numbers.
pub(crate) const ALGORITHMS: [(&str, u32); 3] = [("AVX2", 3), ("AVX512 x 16", 6), ("AVX512 x 32", 7)];

/// A packet as `rte_acl` is given it.
pub(crate) fn bytes_of(flow: &Flow<'_>) -> [u8; 12] {
    let IpAddr::V4(remote) = flow.remote else { panic!("IPv4 only") };
    let [a, b, c, d] = remote.octets();
    let [high, low] =
        if [6, 17, 132].contains(&flow.protocol) { flow.destination_port.to_be_bytes() } else { [0; 2] };
    [flow.protocol, 0, 0, 0, a, b, c, d, 0, 0, high, low]
}

/// A rule of ours, with one range of ports at most, as `rte_acl`'s; `place` counts from the first in order.
pub(crate) fn rule_of(rule: &tables::rules::Rule, place: usize, count: usize) -> Rule {
    let (value, length) = match rule.remote {
        Remote::Prefix(IpNet::V4(net)) => (net.network().to_bits(), net.prefix_len()),
        _ => (0, 0),
    };
    let ports = rule.ports.first().map_or((0, u16::MAX), |range| (*range.start(), *range.end()));
    let field = |value: u64, mask_range: u64| Field { value, mask_range };
    Rule {
        category_mask: 1,
        priority: (count - place) as i32,
        userdata: rule.counter + 1,
        fields: [
            field(rule.protocol.unwrap_or(0).into(), if rule.protocol.is_some() { 0xff } else { 0 }),
            field(value.into(), length.into()),
            field(0, u16::MAX.into()),
            field(ports.0.into(), ports.1.into()),
        ],
    }
}

/// A compiled set of rules.
pub(crate) struct Acl(*mut c_void);

impl Acl {
    /// Compiles these, and says how long it took.
    pub(crate) fn build(name: &CStr, rules: &[Rule]) -> (Self, Duration) {
        let def = |kind, size, field_index, input_index, offset| FieldDef {
            kind,
            size,
            field_index,
            input_index,
            offset,
        };
        let mut defs = [FieldDef::default(); 64];
        defs[..4].copy_from_slice(&[
            def(BITMASK, 1, 0, 0, 0),
            def(MASK, 4, 1, 1, 4),
            def(RANGE, 2, 2, 2, 8),
            def(RANGE, 2, 3, 2, 10),
        ]);
        let config = Config { num_categories: 1, num_fields: 4, defs, max_size: 0 };
        let rule_size = (12 + 4 + 4 * 16) as u32;
        assert_eq!(rule_size as usize, size_of::<Rule>());
        let param = Param { name: name.as_ptr(), socket_id: -1, rule_size, max_rule_num: rules.len() as u32 };
        let started = Instant::now();
        // SAFETY: the EAL runs; the arguments are as rte_acl.h lays them out and live through the calls, which copy what they keep.
        let context = unsafe {
            let context = rte_acl_create(&raw const param);
            assert!(!context.is_null(), "rte_acl_create");
            assert_eq!(
                rte_acl_add_rules(context, rules.as_ptr(), rules.len() as u32),
                0,
                "rte_acl_add_rules"
            );
            assert_eq!(rte_acl_build(context, &raw const config), 0, "rte_acl_build");
            context
        };
        let took = started.elapsed();
        if std::env::var_os("DUMP").is_some() {
            // SAFETY: a context that was built.
            unsafe { rte_acl_dump(context) };
        }
        (Self(context), took)
    }

    /// Looks `data` up, 12 bytes each.
    #[inline(always)]
    pub(crate) fn classify(&self, data: &[*const u8], results: &mut [u32], algorithm: u32) {
        // SAFETY: a context that was built; as many pointers to 12 bytes and as many results as is said.
        let outcome = unsafe {
            rte_acl_classify_alg(self.0, data.as_ptr(), results.as_mut_ptr(), data.len() as u32, 1, algorithm)
        };
        assert_eq!(outcome, 0, "rte_acl_classify_alg");
    }
}

impl Drop for Acl {
    fn drop(&mut self) {
        // SAFETY: created once, freed once.
        unsafe { rte_acl_free(self.0) };
    }
}
