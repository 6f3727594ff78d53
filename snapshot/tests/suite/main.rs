//! The snapshot as its publisher and its readers see it: round trips, damage, distrust, crashes, vectors.
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests may")]
#![expect(clippy::expect_used, reason = "helpers of tests may panic as tests may")]
#![expect(clippy::panic, reason = "helpers of tests may panic as tests may")]
#![expect(clippy::indexing_slicing, reason = "helpers of tests may panic as tests may")]
#![expect(clippy::arithmetic_side_effects, reason = "helpers of tests may panic as tests may")]

mod damage;
mod deltas;
mod distrust;
mod forged;
mod interrupted;
mod model;
mod origins;
mod publishing;
mod round_trip;
mod since;
mod support;
mod torture;
mod vectors;
