"""The demonstration: real footage through Kafka, the service and Redis on one machine."""
