"""The bundled images: a class-balanced part of Fashion-MNIST (8,000 train, 2,000 validation, 28 x 28, grey).

``python -m ssltool.data.bundled SOURCE`` makes the four files again from the original four, byte for byte.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
"""Where the four files lie, under the original's names and in its format."""
