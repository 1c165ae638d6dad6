"""Retention: what a base could do before it was adapted, and what of that an adapter loses.

`suite` reads the items, `measure` is what is computed of their scores, `scoring` scores them, all adapters of a pack in
the same forwards.
"""
