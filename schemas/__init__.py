"""Define the names and types of every file, with nothing but pyarrow and the standard library."""
