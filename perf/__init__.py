"""Load tools: a benchmark next to a peer, and a storm of disconnecting clients."""
