"""The web page for operators: cameras, events with their evidence, and what people say of them."""
