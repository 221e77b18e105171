"""Concept priors of a bundle's similarity, found on a catalogue. Needs scikit-learn, no torch.

    training products with and without an attribute ─ trunk ─► activations, averaged over positions ─► concept vectors
    held-out pairs ─ trunk ─► a query's activations, moved along each vector ─ tail ─► how the similarity changes

The method and its sources are in ``transforms.core.attributes.concepts``, the cut of the network in
``export.graphs.cut``. Everything is asked of the bundle's own ONNX graph, so users' own networks have priors too.
"""
