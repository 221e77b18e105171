"""Is this the model that served? Served scores compared with recomputed ones, and what would make them fit."""
