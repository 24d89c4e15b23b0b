"""Speed, CPU time, latency and memory of engines, and the choice of the one that serves some cameras best."""
