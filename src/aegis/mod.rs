//! Outside: the Aegis service over Connect.
