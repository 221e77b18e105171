"""How good an explanation is: each metric a pure function, all of them in the registry."""
