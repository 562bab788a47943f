//! Outside: the chained audit log.
