"""What a run is, and what people look at."""

from importlib.util import find_spec
from pathlib import Path

# The names of whymatch's packages are common ones: say so when another distribution's stand in their place.
for _name in ("export", "transforms"):
    _spec = find_spec(_name)
    if _spec is None or _spec.origin is None or Path(_spec.origin).parent.parent != Path(__file__).parent.parent:
        raise ImportError(
            f"the package {_name!r} that Python finds ({_spec.origin if _spec else 'none'}) is not whymatch's: another "
            "distribution or a folder of that name comes first. Install whymatch into a virtual environment of its own."
        )
