"""What holds for all tests."""

from hypothesis import settings

# Examples have no time of their own: a machine that stalls for a moment makes no test fail.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
