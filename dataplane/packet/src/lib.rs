//! Wire formats: checked views, emitters, checksums, segmentation of headers.
