//! The composition root: builds the parts in order and drains them in reverse.
