"""Whether there is enough data: subsets, the law of a learning curve, and what twice the rows would buy."""
