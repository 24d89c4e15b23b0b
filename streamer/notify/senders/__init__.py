"""How a message gets to a receiver: one module for each kind."""
