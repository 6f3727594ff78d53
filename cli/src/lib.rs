//! What a person types
