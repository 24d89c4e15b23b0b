"""What an evaluation finds, and its views: JSON, screen, HTML report."""
