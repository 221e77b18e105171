"""A bundle and the networks in it, opened once a worker; an image loaded, decoded and embedded."""
