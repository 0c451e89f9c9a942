"""Task vectors, and the merge that they make."""
