//! Every record, message and topic name that crosses a process or a disk.
//!
//! * [`records`]: what stands in the topics, as Avro in single-object encoding, whose header names
//!   the schema and so its version. The schemas are in `avro/`, frozen once released; `golden/`
//!   has bytes of every version with the value they must give.
//! * [`state`]: the CRDT state of a document, as protobuf.
//! * [`limits`]: how large a document may become.
//! * [`store`], [`gossip`] and [`link`]: what processes say to each other, as protobuf (`proto/`).
//! * [`resources`]: what operators declare, as JSON.
//! * [`topics`]: the names of a cluster's topics, built nowhere else.

mod avro;
mod datum;
#[cfg(test)]
mod golden;
pub mod limits;
pub mod records;
pub mod resources;
pub mod state;
pub mod topics;

pub use avro::{Record, RecordError, decode, encode};

/// Messages between the services of a cluster and its store nodes.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod store {
    tonic::include_proto!("anabranch.store.v1");

    impl QueryItem {
        /// Where the row stands among the others.
        pub fn stands_at(&self) -> &[u8] {
            if self.place.is_empty() { self.key.as_bytes() } else { &self.place }
        }
    }
}

/// Messages between the store nodes of a cluster.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod gossip {
    tonic::include_proto!("anabranch.gossip.v1");

    /// Who sends within a budget has to know how long a message will be.
    pub fn encoded_bytes(message: &impl prost::Message) -> usize {
        message.encoded_len()
    }
}

/// Messages between the bridges of two clusters.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod link {
    tonic::include_proto!("anabranch.link.v1");
}
