//! A slot for a value that is derived from the snapshot.

use std::any::Any;
use std::sync::OnceLock;

/// Holds one value that depends only on the snapshot, such as answers that a front end encodes in advance.  The
/// snapshot knows nothing of its type.  The value lives as long as the snapshot, so that versions do not have to be
/// compared.
#[derive(Default)]
pub struct Slot(OnceLock<Box<dyn Any + Send + Sync>>);

impl Slot {
    /// The value, which the first caller makes.  Every caller of one slot names the same type.
    pub fn get_or_init<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> &T {
        let value = self.0.get_or_init(|| Box::new(make()));
        value.downcast_ref().expect("every caller of a slot names the same type")
    }
}

impl Clone for Slot {
    /// An empty slot: another snapshot has other values.
    fn clone(&self) -> Self {
        Self::default()
    }
}
