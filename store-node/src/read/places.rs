//! The places for streams that are open: so many, and of one app half of them at most. Else one that reads
//! too much would keep all others from reading.

use std::collections::HashMap;
use std::sync::Arc;

use anabranch_core::ids::AppId;
use parking_lot::Mutex;

use crate::error::Error;

/// Places for streams.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    taken: Mutex<Taken>,
}

/// How many are taken.
#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_app: HashMap<AppId, usize>,
}

/// A place. It is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    app: Option<AppId>,
}

impl Places {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Places { most, taken: Mutex::default() })
    }

    /// A place for a stream of an app, or of what belongs to none.
    pub(super) fn take(self: &Arc<Self>, app: Option<AppId>) -> Result<Place, Error> {
        let mut taken = self.taken.lock();
        if taken.all >= self.most {
            return Err(Error::Overloaded { running: self.most, whose: "" });
        }
        if let Some(app) = app {
            let (of_app, most) = (taken.by_app.entry(app).or_default(), self.most.div_ceil(2));
            if *of_app >= most {
                return Err(Error::Overloaded { running: most, whose: " of this app" });
            }
            *of_app += 1;
        }
        taken.all += 1;
        Ok(Place { places: Arc::clone(self), app })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        taken.all -= 1;
        let Some(app) = self.app else { return };
        if let Some(of_app) = taken.by_app.get_mut(&app) {
            *of_app -= 1;
            if *of_app == 0 {
                taken.by_app.remove(&app);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn an_app_leaves_half_of_the_places_to_others() {
        let [one, other] = [1, 2].map(|number| Some(AppId(Uuid::from_u128(number))));
        let places = Places::new(3);
        let mut held: Vec<_> = (0..2).map(|_| places.take(one).unwrap()).collect();
        let refused = |app| places.take(app).unwrap_err().to_string();
        assert_eq!(refused(one), "2 reads of this app are running, as many as may at once");
        let third = places.take(other).unwrap();
        assert_eq!(refused(None), "3 reads are running, as many as may at once");
        drop(third);
        held.pop();
        held.push(places.take(one).unwrap());
        drop(held);
        let Taken { all, by_app } = &*places.taken.lock();
        assert_eq!((*all, by_app.len()), (0, 0));
        assert!(Places::new(1).take(one).is_ok());
    }
}
