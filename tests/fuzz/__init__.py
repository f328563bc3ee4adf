"""A fuzzer: one good file of every kind is damaged, and every command that reads it must do its work or say in one line
what is wrong. ``docs/robustness.md`` shows how to run it and what it found.

======================  ======================================================================
``goods``               makes the good files, with tiny runs of every command
``values``              values of the wrong type, shape or size
``changes``             changes of nested dicts and lists: a place at any depth gets another value, name or copy
``damage``              changes of files: by structure, in each file format, or in their bytes
``damage_arrays``       changes of .npy and .npz files
``damage_images``       changes of image files
``kinds``               the kinds of files: where the good one is, and the commands that read it
``cases``               a case, made from a seed and a number, run in a forked child, and judged
======================  ======================================================================
"""
