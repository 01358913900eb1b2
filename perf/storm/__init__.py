"""A storm of clients that disconnect, and what a server must be like after it."""
