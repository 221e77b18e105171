"""What the tables of an audit say of the whole catalogue."""
