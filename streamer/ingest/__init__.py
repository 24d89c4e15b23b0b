"""Cameras, video files and image folders into Kafka."""
