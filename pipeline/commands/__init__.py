"""The commands of ``whymatch``, one a file: its options, then what it runs.

Apache Beam takes seconds to import and torch more. What a command needs is imported when it runs, so that ``--help``
and a wrong option answer at once; ``train``, ``export``, ``bundle``, ``priors`` and ``calibrate`` are the only ones
that name the package ``export``.
"""
