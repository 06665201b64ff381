"""A peer-to-peer gossip cache embedded in your Python processes."""
