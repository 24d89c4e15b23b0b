"""What no learned network at all achieves: classical measures that every model is reported next to."""
