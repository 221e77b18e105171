"""The work of an audit, room by room, in the order in which data flows; docs/architecture.md has the picture."""
