//! Hash maps that are only looked up in, never walked where order could show.

use std::collections::HashMap;

use foldhash::fast::FixedState;

/// The same order of the same keys in every run, and fast.
pub(crate) type Map<K, V> = HashMap<K, V, FixedState>;
