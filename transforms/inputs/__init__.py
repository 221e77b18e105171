"""Outside data to typed records, or the reason why not: manifest, catalogue, regions, strata, random references."""
