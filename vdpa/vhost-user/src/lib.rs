//! vhost-user back end: a non-blocking session state machine.
