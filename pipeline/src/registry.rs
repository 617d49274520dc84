//! The kinds that a binary knows, by name.

use std::collections::BTreeMap;

use crate::{
    names::nearest,
    stage::{AnyKind, Kind, erase},
};

/// All kinds, sorted by name.
#[derive(Default)]
pub struct Registry {
    kinds: BTreeMap<&'static str, Box<dyn AnyKind>>,
}

impl Registry {
    /// A registry without kinds.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a kind. A second kind of one name replaces the first, which a test of the registry forbids.
    #[must_use]
    pub fn with<K: Kind>(mut self) -> Self {
        self.kinds.insert(K::NAME, erase::<K>());
        self
    }

    /// The kind of this name.
    pub fn get(&self, name: &str) -> Option<&dyn AnyKind> {
        self.kinds.get(name).map(Box::as_ref)
    }

    /// The kind that was probably meant by this name.
    pub fn nearest(&self, name: &str) -> Option<&'static str> {
        nearest(name, self.kinds.keys().copied(), 1).pop()
    }

    /// Every kind, by name.
    pub fn iter(&self) -> impl Iterator<Item = &dyn AnyKind> {
        self.kinds.values().map(Box::as_ref)
    }
}
