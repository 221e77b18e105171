"""An evaluation of a run's explanations: options, chain, launch, and what its rows say."""
