//! What the stages of all workers read, and the writers' halves that control threads hold.

use std::sync::Arc;
use sync::{Published, Reader};
use tables::{
    EndpointReader, EndpointWriter, MacReader, MacWriter, Neighbours, Network, VniReader, VniWriter,
    VtepReader, VtepWriter,
};

/// Next hops of the underlay that are told apart.
const NEIGHBOURS: u16 = 16_384;

/// The readers' halves, for one worker.
#[derive(Clone)]
pub struct Tables {
    pub(crate) macs: MacReader,
    pub(crate) endpoints: EndpointReader,
    pub(crate) vteps: VtepReader,
    pub(crate) vnis: VniReader,
    pub(crate) network: Reader<Network>,
    pub(crate) neighbours: Neighbours,
}

impl Tables {
    /// Takes up what changed. Once per step, between packets.
    #[inline(always)]
    pub(crate) fn refresh(&mut self) {
        self.macs.refresh();
        self.endpoints.refresh();
        self.vteps.refresh();
        self.vnis.refresh();
        self.network.refresh();
    }

    /// Says that the worker looks at nothing until the next refresh.
    pub(crate) fn off_line(&mut self) {
        self.macs.off_line();
        self.endpoints.off_line();
        self.vteps.off_line();
        self.vnis.off_line();
        self.network.off_line();
    }
}

/// The writers' halves.
pub(crate) struct Writers {
    pub(crate) macs: MacWriter,
    pub(crate) endpoints: EndpointWriter,
    pub(crate) vteps: VtepWriter,
    pub(crate) vnis: VniWriter,
    pub(crate) network: Published<Network>,
    pub(crate) neighbours: Neighbours,
}

impl Writers {
    /// Empty tables whose hashes are keyed with `secret`.
    pub(crate) fn new(secret: [u64; 2]) -> Self {
        Self {
            macs: MacWriter::new(secret),
            endpoints: EndpointWriter::new(secret),
            vteps: VtepWriter::new(secret),
            vnis: VniWriter::new(secret),
            network: Published::new(Network::default()),
            neighbours: Neighbours::new(NEIGHBOURS),
        }
    }

    pub(crate) fn readers(&self) -> Tables {
        Tables {
            macs: self.macs.reader(),
            endpoints: self.endpoints.reader(),
            vteps: self.vteps.reader(),
            vnis: self.vnis.reader(),
            network: self.network.reader(),
            neighbours: self.neighbours.clone(),
        }
    }

    /// The snapshot as it is, to be changed and published.
    pub(crate) fn snapshot(&self) -> Arc<Network> {
        self.network.current()
    }

    pub(crate) fn reclaim(&mut self) {
        self.macs.reclaim();
        self.endpoints.reclaim();
        self.vteps.reclaim();
        self.vnis.reclaim();
        self.network.reclaim();
    }
}
