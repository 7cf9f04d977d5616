//! anabranch-bridge
