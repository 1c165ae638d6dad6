"""What `sweeper doctor` looks at on this machine: small functions, each with one finding, or none to make.

`gpu.py` has the card, its driver and its kind; `system.py` WSL and the compiler; `libraries.py` Python, the packages
and 4-bit training; `store.py` the store and its disks; `base.py` the Hub and a study's base. Each looks by itself, so
that one that breaks keeps no other from being made.
"""
