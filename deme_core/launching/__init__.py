"""Where the work of stages runs, and which of them run side by side."""
