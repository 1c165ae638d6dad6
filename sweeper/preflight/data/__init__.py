"""The data doctor: what is in the rows of a study, before anything is spent on them.

`report.py` reads and reports; `finding.py` is what it finds; `texts.py`, `alike.py`, `labels.py`, `suspects.py` and
`lengths.py` each look for one kind of thing. What makes rows unusable is an error of whoever reads or renders them.
"""
