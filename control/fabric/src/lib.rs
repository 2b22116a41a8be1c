//! What one host makes of VPCs, subnets, tunnels and next hops.
//!
//! [`Fabric`] stands between the agent, which says what is to be, the switch, whose tables it writes and whose exceptions it answers, and the
//! state machines of `services`. It has no threads, sockets or clocks: time is an argument (since any fixed moment), frames leave by
//! [`switch::Control::transmit`]. The daemon and the simulator drive the same one.
//!
//! * [`Fabric::carry_out`] takes the agent's actions; what concerns sockets it gives back. [`Ahead`] hands them out one by one.
//! * [`Fabric::hear`] answers what workers left to the control thread, and says what the agent must know of it.
//! * [`Fabric::tick`] does what is due: next hops of the underlay are asked for, gateways advertise themselves.

mod ahead;
mod answers;
mod balancers;
mod external;
mod fabric;
mod members;
mod punts;
mod rules;

pub use ahead::Ahead;
pub use fabric::{Fabric, UplinkSettings};
pub use punts::Event;
