//! Issues certificates: policy, signing, batches, delivery
