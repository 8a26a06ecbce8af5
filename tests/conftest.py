"""Settings of the whole suite: Hypothesis profiles."""

import os

from hypothesis import HealthCheck, settings

# The first example of a test may compile a kernel: no deadline, and no check of speed.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "ci",
    parent=settings.get_profile("local"),
    # The same examples on every run: a red CI is a change's fault, never chance's.
    derandomize=True,
    database=None,
    max_examples=200,
    print_blob=True,
)
settings.load_profile("ci" if os.environ.get("CI") else "local")
