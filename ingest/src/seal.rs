//! What a client is given to give back as it is, such as a cursor: that it was altered is noticed.

use anabranch_core::ids::ActorId;
use ring::hmac;

/// How long a digest is.
pub(crate) const DIGEST_BYTES: usize = 32;

/// Tells what this cluster gave out from what was altered, and from what it gave out for something
/// else. It is the same on every server.
///
/// The actor of a cluster is drawn at random and told at the admin address, in the log and to the bridges
/// of other clusters, but in no reply to a client: whoever does not know it cannot make a digest.
#[derive(Clone, Debug)]
pub(crate) struct Seal(hmac::Key);

impl Seal {
    /// The seal of what a cluster gives out for this, told in pieces; where each ends counts.
    pub(crate) fn new(cluster: ActorId, pieces: &[&[u8]]) -> Self {
        let mut context = hmac::Context::with_key(&key(cluster.0.as_bytes()));
        for piece in pieces {
            context.update(&(piece.len() as u64).to_be_bytes());
            context.update(piece);
        }
        Seal(key(context.sign().as_ref()))
    }

    /// The digest that goes with what is given out.
    pub(crate) fn digest(&self, given: &[u8]) -> [u8; DIGEST_BYTES] {
        let digest = hmac::sign(&self.0, given);
        *digest.as_ref().first_chunk().expect("a digest has 32 bytes")
    }

    /// Whether what comes back was given out with this digest. How long it takes does not tell how much
    /// of the digest is right.
    pub(crate) fn is_of(&self, given: &[u8], digest: &[u8; DIGEST_BYTES]) -> bool {
        hmac::verify(&self.0, given, digest).is_ok()
    }
}

fn key(secret: &[u8]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn it_is_of_one_thing_of_one_cluster() {
        let [east, west] = [1, 2].map(|number| ActorId(Uuid::from_u128(number)));
        let digest = Seal::new(east, &[b"ab", b"c"]).digest(b"given");
        assert!(Seal::new(east, &[b"ab", b"c"]).is_of(b"given", &digest));
        assert!(!Seal::new(east, &[b"ab", b"c"]).is_of(b"giver", &digest));
        assert!(!Seal::new(east, &[b"a", b"bc"]).is_of(b"given", &digest));
        assert!(!Seal::new(west, &[b"ab", b"c"]).is_of(b"given", &digest));
    }
}
