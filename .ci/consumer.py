"""A user's module, checked by mypy against the installed wheel: it fails where the package does not ship its types."""

from typing_extensions import assert_type

import recbole_sid
from recbole_sid.serving import Recommendations, Recommender

assert_type(recbole_sid.__version__, str)
assert_type(Recommender.load("bundle").recommend([["50", "181"]], k=10), Recommendations)
