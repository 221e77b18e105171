"""Networks made ready to serve: run bare, wrapped, run as they will be served, compared, and written."""
