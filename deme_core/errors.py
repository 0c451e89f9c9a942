"""The one exception that stands for a mistake in what the user gave."""


class InputError(ValueError):
    """One line that names the value, the rule it breaks and the remedy. Stages print it and exit with 1."""
