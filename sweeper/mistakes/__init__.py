"""What a trial gets wrong: the predictions that a study keeps, without text, and their rows, joined on this machine."""
