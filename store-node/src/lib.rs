//! anabranch-store-node
