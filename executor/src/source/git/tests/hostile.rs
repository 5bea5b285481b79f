//! Repositories and servers that mean harm.
