//! anabranch-runtime
