//! Rhizomq nodes finding, trusting and feeding each other.
