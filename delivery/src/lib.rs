//! Sealed payloads: HPKE, CIDs, block stores
