"""Pure numerics: numpy, scipy and Pillow, and the records and errors that flow. No storage, no network, no Beam."""
