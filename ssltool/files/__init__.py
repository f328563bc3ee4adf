"""Reading and writing files: schemas, limits, atomic writing, and the escapes of text from files."""
