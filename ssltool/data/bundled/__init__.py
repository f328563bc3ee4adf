"""The bundled images: a class-balanced subset of Fashion-MNIST (8,000 train, 2,000 validation, 28 x 28, grey).

``python -m ssltool.data.bundled SOURCE`` regenerates the four files from the original ones, byte for byte.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
"""The folder of the four files, with the names and format of the original."""
