"""Looking after the store: which studies there are, stopping one, and giving disk space back."""
