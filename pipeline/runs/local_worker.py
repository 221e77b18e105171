"""A worker process of the local runner: Beam's own, without its log of every channel that it opens.

Errors are still raised in the launcher, with their cause.
"""

from __future__ import annotations

import logging
import sys

if __name__ == "__main__":
    logging.disable(logging.ERROR)
    from apache_beam.runners.worker.sdk_worker_main import main

    main(sys.argv)
