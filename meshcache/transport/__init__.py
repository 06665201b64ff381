"""How frames travel: over ZeroMQ, or through memory for the simulator."""
