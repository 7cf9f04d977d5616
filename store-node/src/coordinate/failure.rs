//! Which failure to tell of when one replica after the other was asked and none could give.

use anabranch_runtime::grpc;
use tonic::Status;

/// Which of two failures to tell of: what a node said rather than that another was not reached. But
/// that something is gone, as `is_gone` says, is told only if all of them say so, and then by the
/// one that goes back farthest.
pub(super) fn worse(
    before: Option<Status>,
    now: Status,
    is_gone: impl Fn(&Status) -> bool,
) -> Status {
    let Some(before) = before else { return now };
    let start = |status: &Status| grpc::number_of(status, grpc::FEED_START_KEY);
    let is_before = match (is_gone(&before), is_gone(&now)) {
        (true, true) => start(&before) <= start(&now),
        (before_is_gone, now_is_gone) if before_is_gone != now_is_gone => now_is_gone,
        _ => grpc::code_of(&before).is_some() && grpc::code_of(&now).is_none(),
    };
    if is_before { before } else { now }
}

#[cfg(test)]
mod tests {
    use anabranch_core::ids::TxnId;

    use super::*;
    use crate::error::Error;
    use crate::rpc::refuse;

    fn told(before: Status, now: Status) -> Status {
        let is_gone = |status: &Status| grpc::code_of(status) == Some("feed_trimmed");
        worse(Some(before), now, is_gone)
    }

    fn trimmed(start: u64) -> Status {
        refuse(&Error::FeedTrimmed { wanted: TxnId(1), start: TxnId(start) })
    }

    fn away() -> Status {
        Status::unavailable("broken")
    }

    #[test]
    fn something_is_gone_only_if_all_say_so() {
        for (one, other) in [(5, 7), (7, 5)] {
            let told = told(trimmed(one), trimmed(other));
            assert_eq!(grpc::number_of(&told, grpc::FEED_START_KEY), Some(5));
        }
        let told = [told(trimmed(5), away()), told(away(), trimmed(5))];
        assert_eq!(told.each_ref().map(grpc::code_of), [None, None]);
    }

    #[test]
    fn what_a_node_said_is_told_rather_than_that_another_was_not_reached() {
        let late = || refuse(&Error::NotReached { wanted: TxnId(9), next: TxnId(3) });
        let told = [told(late(), away()), told(away(), late())];
        assert_eq!(told.each_ref().map(grpc::code_of), [Some("not_reached"); 2]);
        assert_eq!(worse(None, away(), |_| true).message(), "broken");
    }
}
