//! Guest memory: mapped regions, cached address translation, dirty log.
