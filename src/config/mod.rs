//! Configuration files and folders, read once.
