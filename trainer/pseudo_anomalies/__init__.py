"""Training samples of the video model: crops with flow, and crops with pasted objects as pseudo-anomalies."""
