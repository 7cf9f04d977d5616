//! anabranch-ingest
