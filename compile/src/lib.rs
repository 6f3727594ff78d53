//! Compiles a realm's effective view into one host's snapshot
