//! Why a push or query is refused, and how each protocol says it: docs/errors.md is the table.
