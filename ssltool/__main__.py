"""``python -m ssltool``: the same as the ``ssltool`` command, also from a bare checkout."""

from ssltool.cli import main

if __name__ == "__main__":
    main()
