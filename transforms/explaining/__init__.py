"""An image against its references: passes, maps, rows and verdicts. No Beam."""
