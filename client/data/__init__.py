"""Events as data: decoding of lines, schemas, and data files."""
