//! Histories of a database that is right pass; each anomaly that is planted is found as what it is.

mod model;
mod planted;
mod properties;
