"""Speed, CPU time, latency and memory of engines."""
