//! Resources: parsing, defaults, validation of the whole set, owners, pure diff.
