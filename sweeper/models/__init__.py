"""Bases: loading, quantising, target modules, and the bundled one."""

import logging

# At import it says that an optional package is missing, in words that read like a failure.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
