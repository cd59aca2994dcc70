"""How much hypothesis does, by HYPOTHESIS_PROFILE: dev (the default), ci or deep."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# A first example may start a server or compile a regular expression.
settings.register_profile(
    "dev",
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "ci",
    settings.get_profile("dev"),
    max_examples=1_000,
    derandomize=True,
    print_blob=True,
)
settings.register_profile("deep", settings.get_profile("dev"), max_examples=100_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))
