//! Actions one by one, what they will write being asked for meanwhile.

use agent::Action;
use switch::Control;

/// How many actions lie between asking for a line and writing it.
const AHEAD: usize = 16;

/// Actions to be carried out in their order. Tables of many addresses are larger than caches: a million actions would wait for memory two million times.
#[derive(Debug)]
pub struct Ahead(std::vec::IntoIter<Action>);

impl Ahead {
    /// Of these.
    pub fn new(actions: Vec<Action>) -> Self {
        Self(actions.into_iter())
    }

    /// The next one to be carried out.
    pub fn next(&mut self, control: &Control) -> Option<Action> {
        match self.0.as_slice().get(AHEAD) {
            Some(Action::BindMac { space, mac, .. } | Action::UnbindMac { space, mac }) => {
                control.prefetch_mac(*space, *mac);
            }
            Some(Action::BindEndpoint { vpc, address, .. } | Action::UnbindEndpoint { vpc, address }) => {
                control.prefetch_endpoint(*vpc, *address);
            }
            _ => {}
        }
        self.0.next()
    }
}
