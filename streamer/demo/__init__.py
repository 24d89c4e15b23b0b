"""The demonstration: footage of different places through Kafka, the service and Redis on one machine."""
