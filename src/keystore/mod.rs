//! Outside: where long-lived secrets rest.
