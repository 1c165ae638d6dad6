from __future__ import annotations

from tests.postgresql import postgresql as postgresql
