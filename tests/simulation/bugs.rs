//! Bugs that are planted in what runs, one at a time, to see that they are found.

use crate::mix::{Mix, mix};

/// A bug: `planted!` with its name is where it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bug {
    pub(crate) name: &'static str,
    /// What it breaks.
    pub(crate) breaks: &'static str,
    /// In which mix it is looked for.
    mix: &'static str,
}

impl Bug {
    pub(crate) fn mix(self) -> Mix {
        mix(self.mix)
    }
}

const fn bug(name: &'static str, breaks: &'static str, mix: &'static str) -> Bug {
    Bug { name, breaks, mix }
}

/// All of them.
pub(crate) const BUGS: [Bug; 33] = [
    // Progress says more than what was applied.
    bug("SpliceBeforeApply", "ST", "crashes"),
    // The stable timestamp is the highest base and not the lowest.
    bug("StableIsMaximum", "ST", "calm"),
    // A node that was started again does not care where the log ended when it was.
    bug("ForgetsItsPast", "ST", "crashes"),
    // In another configuration nothing is stable yet.
    bug("ForgetsWhatWasStable", "ST", "members"),
    // A read is answered before its timestamp is reached.
    bug("ReadsUnreached", "ST", "network"),
    // What is handed over is of no snapshot, but as it is at the moment.
    bug("BackfillsMoving", "ST", "backfill"),
    // What became of rounds is not handed over.
    bug("BackfillsWithoutRounds", "ST", "backfill"),
    // Tombstones that are handed over are not listed.
    bug("BackfillsWithoutTombstones", "ST", "backfill"),
    // Versions are dropped although somebody reads them.
    bug("CollectsHeld", "ST", "calm"),
    // A round is released although parts of it may still come.
    bug("ReleasesHalfRounds", "ST", "crashes"),
    // A repeated round is applied again.
    bug("AppliesRepeated", "ST", "crashes"),
    // A document is changed although it is not as it has to be.
    bug("WritesWhatHasChanged", "ST", "calm"),
    // What whoever asks may do does not matter.
    bug("WritesWhatIsForbidden", "ST", "calm"),
    // Of what applies as a whole or not at all a part is applied.
    bug("AppliesPartOfAtomic", "ST", "calm"),
    // What those replicas lack that answer is declared lost.
    bug("LosesUnasked", "ST", "backfill"),
    // A transaction more is passed over than the replicas have agreed on.
    bug("LosesMore", "ST", "losses"),
    // That changes are lost is not told in the feed.
    bug("KeepsLossesQuiet", "CDC", "losses"),
    // A document is not added to indexes.
    bug("ForgetsToIndex", "ST", "calm"),
    // What is copied from another replica is not in indexes, which go on as if it were.
    bug("KeepsIndexesThatLack", "ST", "backfill"),
    // A flush says that all that was written is durable, and is not.
    bug("FlushesHalf", "ST", "crashes"),
    // A node that has copied says that its feed goes back as far as before.
    bug("FeedClaimsTooMuch", "CDC", "capture"),
    // How far changes were captured is written before them.
    bug("CapturesApart", "CDC", "capture"),
    // A mark says that a transaction is there that is still to come.
    bug("MarksEarly", "CDC", "capture"),
    // A write is acknowledged although its commit got no answer.
    bug("AcknowledgesUnknown", "IN", "ingest"),
    // Who repeats a request is refused for what the first try has written.
    bug("RefusesRepeats", "IN", "ingest"),
    // Who is told that there was nothing to write is told so although a try is on its way.
    bug("LeavesNothingUnwritten", "IN", "ingest"),
    // Who repeats a request is told of the documents of this try and not of the first one.
    bug("RepeatsNameTheirOwn", "IN", "ingest"),
    // A live query reads its rows as of some time before what it was told, and takes them for newer.
    bug("FollowsWhatIsOlder", "ST", "ingest"),
    // Who comes back to a live query is not told what changed while nobody wrote it down.
    bug("ForgetsWhatWasMissed", "ST", "ingest"),
    // How far was received is written before what was.
    bug("ReceivesApart", "BR", "bridge"),
    // What a receiver wrote is not sent back, whatever it may lack.
    bug("SendsNothingBack", "BR", "bridge"),
    // What is not wanted any more is kept by who was sent it.
    bug("KeepsWhatLeft", "BR", "bridge"),
    // All is sent, whatever is wanted.
    bug("SendsUnwanted", "BR", "bridge"),
];
