"""Task vectors, their merge, and the search for its weights."""
