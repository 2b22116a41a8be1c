//! What is seen of packets on their way.

use crate::{DropReason, Output, PortIndex};
use buf::Frame;

/// Sees packets at the points where their way is decided. A stage is generic over it, so what nobody watches costs nothing.
pub trait Observer {
    /// A packet came from `port`.
    fn received(&mut self, port: PortIndex, frame: &Frame<'_, '_>);
    /// A packet of `port` goes to `output`; it may have to wait there for a next hop, whose MAC address it lacks then.
    fn forwarded(&mut self, port: PortIndex, output: Output, frame: &Frame<'_, '_>);
    /// A packet of `port` ended.
    fn dropped(&mut self, port: PortIndex, reason: DropReason);
    /// Whether [`Observer::received`] and [`Observer::forwarded`] want frames at all.
    const ACTIVE: bool = true;
}

/// Sees nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    #[inline(always)]
    fn received(&mut self, _: PortIndex, _: &Frame<'_, '_>) {}
    #[inline(always)]
    fn forwarded(&mut self, _: PortIndex, _: Output, _: &Frame<'_, '_>) {}
    #[inline(always)]
    fn dropped(&mut self, _: PortIndex, _: DropReason) {}
    const ACTIVE: bool = false;
}
