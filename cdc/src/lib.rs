//! anabranch-cdc
