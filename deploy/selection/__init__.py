"""Choice of the engine that serves."""
