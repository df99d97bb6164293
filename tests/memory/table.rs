//! A table whose last changes can be taken back.

use std::collections::BTreeMap;
use std::ops::RangeBounds;

/// Rows by their key. Changes are final with [`Table::settle`], and gone with [`Table::roll_back`].
pub(crate) struct Table<K, V> {
    rows: BTreeMap<K, V>,
    /// What was there before each change, oldest first.
    undo: Vec<(K, Option<V>)>,
}

impl<K: Ord, V> Default for Table<K, V> {
    fn default() -> Self {
        Table { rows: BTreeMap::new(), undo: Vec::new() }
    }
}

impl<K: Ord + Clone + std::fmt::Debug, V> Table<K, V> {
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.rows.get(key)
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.rows.iter()
    }

    pub(crate) fn range(&self, keys: impl RangeBounds<K>) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.rows.range(keys)
    }

    pub(crate) fn put(&mut self, key: K, row: V) {
        let before = self.rows.insert(key.clone(), row);
        self.undo.push((key, before));
    }

    /// Puts a row whose key must be free. `Err` changes nothing.
    pub(crate) fn put_new(&mut self, key: K, row: V) -> Result<(), String> {
        if self.rows.contains_key(&key) {
            return Err(format!("the key {key:?} is taken"));
        }
        self.put(key, row);
        Ok(())
    }

    pub(crate) fn remove(&mut self, key: &K) {
        if let Some(row) = self.rows.remove(key) {
            self.undo.push((key.clone(), Some(row)));
        }
    }

    /// Removes at most `limit` of the first rows. Returns how many.
    pub(crate) fn remove_first(&mut self, limit: u32) -> u32 {
        let keys: Vec<K> = self.rows.keys().take(limit as usize).cloned().collect();
        for key in &keys {
            self.remove(key);
        }
        keys.len() as u32
    }

    pub(crate) fn settle(&mut self) {
        self.undo.clear();
    }

    pub(crate) fn roll_back(&mut self) {
        while let Some((key, before)) = self.undo.pop() {
            match before {
                Some(row) => self.rows.insert(key, row),
                None => self.rows.remove(&key),
            };
        }
    }
}
