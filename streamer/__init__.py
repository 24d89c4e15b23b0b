"""The running service: frames from Kafka, scores and events into Redis."""
