"""Two trials, studies or exported folders on the same rows: what `sweeper compare` says."""
