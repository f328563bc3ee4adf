"""Checkpoints of other programs: read safely, and recognised by their names and shapes.

``checkpoint`` turns any file into a ``files.Checkpoint``: ``reading`` opens it, ``layouts`` knows whose it is,
``names`` how its program calls a network's parts, ``architecture`` which network the shapes are of. ``library`` has the
weights that torchvision publishes.
"""
