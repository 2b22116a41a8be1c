//! Look-up tables (temporary).
#![allow(missing_docs, reason = "temporary")]
mod profile;
pub use profile::{AllowedAddress, PortProfile, link_local};
use packet::MacAddr;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, RwLock};
pub struct MacTable;
impl MacTable {
    pub const ABSENT: u32 = u32::MAX;
    pub fn key(subnet: u16, mac: MacAddr) -> u64 { u64::from(subnet) << 48 | mac.to_u64() }
}
type M = Arc<RwLock<HashMap<u64, u32>>>;
pub struct MacReader(M);
impl MacReader {
    pub fn refresh(&mut self) {}
    pub fn off_line(&mut self) {}
    pub fn lookup_batch(&self, keys: &[u64], out: &mut [u32]) {
        let map = self.0.read().unwrap();
        for (key, out) in keys.iter().zip(out) { *out = map.get(key).copied().unwrap_or(MacTable::ABSENT); }
    }
}
pub struct MacWriter(M);
impl MacWriter {
    pub fn new(_: [u64; 2]) -> Self { Self(M::default()) }
    pub fn reader(&self) -> MacReader { MacReader(self.0.clone()) }
    pub fn insert(&mut self, k: u64, v: u32) { self.0.write().unwrap().insert(k, v); }
    pub fn get(&self, k: u64) -> Option<u32> { self.0.read().unwrap().get(&k).copied() }
    pub fn remove(&mut self, k: u64) { self.0.write().unwrap().remove(&k); }
    pub fn reclaim(&mut self) {}
}
#[derive(Clone, Copy)]
pub struct AddressEntry { pub mac: MacAddr, pub port: u32 }
type A = Arc<RwLock<HashMap<(u16, IpAddr), AddressEntry>>>;
pub struct AddressReader(A);
impl AddressReader {
    pub fn refresh(&mut self) {}
    pub fn off_line(&mut self) {}
    pub fn lookup(&self, s: u16, a: IpAddr) -> Option<AddressEntry> { self.0.read().unwrap().get(&(s, a)).copied() }
}
pub struct AddressWriter(A);
impl AddressWriter {
    pub fn new(_: [u64; 2]) -> Self { Self(A::default()) }
    pub fn reader(&self) -> AddressReader { AddressReader(self.0.clone()) }
    pub fn insert(&mut self, s: u16, a: IpAddr, e: AddressEntry) { self.0.write().unwrap().insert((s, a), e); }
    pub fn get(&self, s: u16, a: IpAddr) -> Option<AddressEntry> { self.0.read().unwrap().get(&(s, a)).copied() }
    pub fn remove(&mut self, s: u16, a: IpAddr) { self.0.write().unwrap().remove(&(s, a)); }
    pub fn reclaim(&mut self) {}
}
pub struct TokenBucket { left: u64 }
impl TokenBucket {
    pub fn new(_: u64, burst: u64) -> Self { Self { left: burst } }
    pub fn take(&mut self, _now: u64, n: u64) -> bool { if self.left >= n { self.left -= n; true } else { false } }
}
