//! The agent on a host: syncs the ledger, publishes the snapshot, receives deliveries
