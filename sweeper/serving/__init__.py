"""What serving an adapter costs: how fast it answers, measured the way that it would be served."""
