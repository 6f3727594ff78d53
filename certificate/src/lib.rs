//! SSH certificates as bytes: parsing by range, pre-certificates, Merkle batches, the two extensions
