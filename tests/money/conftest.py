from __future__ import annotations

from tests.search.test_warm_start import postgresql as postgresql
